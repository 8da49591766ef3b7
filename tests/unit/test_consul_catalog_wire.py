"""Pure: the JSON of Consul's catalog. What comes out of it is data and goes back as data (C11)."""

from __future__ import annotations

import json

import msgspec
import pytest

from inventory.errors import InputError
from inventory.registries import consul_catalog_wire as wire

MARK = wire.Mark("corp.internal", "0123456789abcdef")
HOSTILE = '"}],"Verb":"delete" ` ${jndi:x} <script>\n\r\x1b[31m \u202e%2e%2e/{{ .Env }}'
NODE = wire.Node(name="n", address=HOSTILE, meta={"k": HOSTILE})
SERVICE = wire.Service(node="n", id=HOSTILE, name="web", address="a", port=1, tags=(HOSTILE,), meta=MARK.meta)
CHECK = wire.Check(
    node="n",
    id="c",
    name=HOSTILE,
    status="passing",
    notes=MARK.notes,
    output=HOSTILE,
    service_id="s",
    service_name="web",
)


def sent(operation: wire.Operation) -> object:
    return json.loads(wire.encode_transaction("lock", "session", [msgspec.json.encode(operation.json)]))


def test_every_transaction_begins_with_the_lock() -> None:
    fence = {"KV": {"Verb": "check-session", "Key": "lock", "Session": "session"}}
    assert json.loads(wire.encode_transaction("lock", "session", [])) == [fence]


def test_c11_text_of_others_stays_one_value() -> None:
    _, operation = sent(wire.Operation(NODE, 7))  # type: ignore[misc]
    body = {"Node": "n", "Address": HOSTILE, "Meta": {"k": HOSTILE}, "ModifyIndex": 7}
    assert operation == {"Node": {"Verb": "cas", "Node": body}}
    _, operation = sent(wire.Operation(SERVICE, 0))  # type: ignore[misc]
    assert operation["Service"]["Service"]["ID"] == HOSTILE and operation["Service"]["Verb"] == "cas"
    _, operation = sent(wire.Operation(CHECK, 0))  # type: ignore[misc]
    assert operation["Check"]["Check"]["Output"] == HOSTILE


def test_a_removal_names_the_version_and_the_whole_of_what_it_removes() -> None:
    """Consul refuses to remove a service without its name."""
    for entry, verb in ((NODE, "Node"), (SERVICE, "Service"), (CHECK, "Check")):
        _, removal = sent(wire.Operation(entry, 3, removes=True))  # type: ignore[misc]
        assert removal[verb]["Verb"] == "delete-cas" and removal[verb][verb] == json.loads(json.dumps(entry.json(3)))


def test_the_mark_is_whose_it_is() -> None:
    assert wire.Node(name="n", address="a", meta={**MARK.meta, "x": "y"}).is_ours(MARK)
    assert SERVICE.is_ours(MARK) and CHECK.is_ours(MARK)
    others = wire.Mark("corp.internal", "fedcba9876543210"), wire.Mark("other.internal", MARK.estate)
    for other in others:
        assert not SERVICE.is_ours(other) and not CHECK.is_ours(other)
    assert not NODE.is_ours(MARK)


def test_what_consul_lists_is_read_as_what_we_would_write() -> None:
    nodes = b'[{"ID":"","Node":"n","Address":"a","Meta":null,"TaggedAddresses":null,"CreateIndex":1,"ModifyIndex":9}]'
    assert wire.read_nodes(nodes) == [wire.Found(wire.Node(name="n", address="a", meta={}), 9)]
    row = {
        "Node": "n",
        "ServiceID": HOSTILE,
        "ServiceName": "web",
        "ServiceAddress": "a",
        "ServicePort": 1,
        "ServiceTags": [HOSTILE],
        "ServiceMeta": MARK.meta,
        "ServiceWeights": {"Passing": 1, "Warning": 1},
        "ModifyIndex": 4,
    }
    assert wire.read_services(json.dumps([row]).encode()) == [wire.Found(SERVICE, 4)]
    checks = [{**CHECK.json(6), "Type": "", "Definition": {}, "ServiceTags": []}]
    assert wire.read_checks(json.dumps(checks).encode()) == [wire.Found(CHECK, 6)]
    services = {"x": {**SERVICE.json(5), "Proxy": {"Expose": {}}}}
    both = {"Node": NODE.json(3), "Services": services}
    assert wire.read_node(json.dumps(both).encode()) == [wire.Found(NODE, 3), wire.Found(SERVICE, 5)]
    assert wire.read_node(b"null") == []
    assert wire.read_names(b'{"consul":[],"web":["a"]}') == {"consul", "web"}


def test_the_outcome_counts_operations_from_the_first_one_behind_the_lock() -> None:
    kv = {"KV": {"Key": "lock", "ModifyIndex": 1}}
    done = [kv, {"Node": NODE.json(8)}, {"Service": SERVICE.json(9)}, {"Check": CHECK.json(10)}]
    outcome = wire.read_outcome(json.dumps({"Results": done, "Errors": None}).encode())
    assert outcome == wire.Outcome((8, 9, 10), ())
    failed = {"Results": None, "Errors": [{"OpIndex": 0, "What": "lock"}, {"OpIndex": 2, "What": "index is stale"}]}
    outcome = wire.read_outcome(json.dumps(failed).encode())
    assert outcome.failures == (wire.Failure(-1, "lock"), wire.Failure(1, "index is stale"))


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"Node":5}]', b'[{"Node":"n","ModifyIndex":"x"}]', b"[" * 99])
def test_what_is_no_list_of_nodes_is_refused(body: bytes) -> None:
    with pytest.raises(InputError, match="list of nodes"):
        wire.read_nodes(body)
