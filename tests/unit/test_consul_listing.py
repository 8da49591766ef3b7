"""Pure: what Consul lists of a service, and what an import makes of it; the rules of its index."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import trio
from consul import base
from hypothesis import given
from hypothesis import strategies as st

from agents.imports.watched import Watched
from inventory.discovery import consul_health, consul_listing
from inventory.discovery.consul_listing import INSTANCES_MAX, Listed, next_index, read_rows, usable
from inventory.errors import InputError
from inventory.imports import is_as_signed
from inventory.model import Import

WEB = Import(service="shop", gateway="gw1", source="Web", labels={"tier": "front"})


def row(address: str = "", port: int = 80, *, node: str = "10.0.0.9", **changes: Any) -> dict[str, Any]:
    service = {"ID": "x", "Service": "Web", "Address": address, "Port": port, "Tags": None, "Meta": None}
    checks = changes.pop("checks", [{"Status": "passing", "Notes": ""}])
    node_meta = changes.pop("node_meta", None)
    return {
        "Node": {"Node": "n", "Address": node, "Meta": node_meta},
        "Service": {**service, **changes},
        "Checks": checks,
    }


def listed(*rows: dict[str, Any], index: int = 7) -> Listed:
    return Listed(read_rows(msgspec.json.encode(rows)), index)


def targets(wanted: Import, *rows: dict[str, Any], port: int | None = None) -> list[str]:
    found = usable(wanted, listed(*rows).rows, domain="t.internal", port=port)
    assert all(is_as_signed(wanted, instance) for instance in found.instances)
    return [instance.target for instance in found.instances]


def test_an_instance_is_at_its_own_address_or_its_nodes() -> None:
    assert targets(WEB, row("10.0.0.2"), row("10.0.0.1"), row(), row("2001:DB8::1"), row("10.0.0.1")) == [
        "10.0.0.1:80",
        "10.0.0.2:80",
        "10.0.0.9:80",
        "[2001:db8::1]:80",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"Service": "Web-sidecar-proxy"},
        {"checks": [{"Status": "passing"}, {"Status": "critical"}]},
        {"Address": "127.0.0.1"},
        {"Address": "::ffff:10.0.0.1"},
        {"Address": "web.example"},
        {"Address": "10.0.0.1\r\nx"},
        {"Port": 0},
        {"Port": -1},
        {"Port": 65536},
    ],
)
def test_c38_what_cannot_be_meant_is_left_out(changes: dict[str, Any]) -> None:
    assert targets(WEB, row("10.0.0.1", **changes)) == []


def test_our_own_entries_never_come_back() -> None:
    mark = {"meshbridge-domain": "t.internal", "meshbridge-estate": "x"}
    rows = [row("10.0.0.1", Meta=mark), row("10.0.0.2", node_meta=mark), row("10.0.0.3", Meta={"a": "b"})]
    assert targets(WEB, *rows) == ["10.0.0.3:80"]
    assert usable(WEB, listed(*rows).rows, domain="t.internal").refused == ("an entry of this very estate",)


def test_all_tags_are_asked_for() -> None:
    tagged = msgspec.structs.replace(WEB, tags=("eu", "v2"))
    rows = [row("10.0.0.1", Tags=["v2", "eu", "x"]), row("10.0.0.2", Tags=["v2"]), row("10.0.0.3")]
    assert targets(tagged, *rows) == ["10.0.0.1:80"]


def test_a_service_keeps_its_port_while_an_instance_has_it() -> None:
    def port(before: int | None, *ports: int, wanted: Import = WEB) -> int:
        rows = [row(f"10.0.0.{n}", p) for n, p in enumerate(ports, 1)]
        found = usable(wanted, listed(*rows).rows, domain="t", port=before).instances
        assert len({i.port for i in found}) == 1 and [i.target.rpartition(":")[2] for i in found] == list(
            map(str, ports)
        )
        return found[0].port

    assert port(None, 9000, 8000) == 8000 and port(9000, 9000, 8000) == 9000 and port(7000, 9000, 8000) == 8000
    assert port(9000, 9000, 8000, wanted=msgspec.structs.replace(WEB, port=80)) == 80


def test_h26_no_more_instances_than_a_host_may_report() -> None:
    rows = [row(f"10.0.{n // 250}.{n % 250 + 1}") for n in range(INSTANCES_MAX + 5)]
    found = usable(WEB, listed(*rows).rows, domain="t")
    assert len(found.instances) == INSTANCES_MAX and "1005 instances" in found.refused[0]


@pytest.mark.parametrize("body", [b"{}", b"[{}]", b'[{"Node":{},"Service":{"Port":"80"}}]', b"[1]", b"", b"[[[[" * 999])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        read_rows(body)


def test_weights_are_kept_within_bounds() -> None:
    rows = [row("10.0.0.1", Weights={"Passing": 3}), row("10.0.0.2", Weights={"Passing": -4})]
    assert [i.weight for i in usable(WEB, listed(*rows).rows, domain="t").instances] == [3, 1]


# --- the index ------------------------------------------------------------------------------------------------------


class Server:
    """Consul's rule: an answer waits until the index is past the one that was asked with. Its data may be restored from
    a snapshot, and then the index goes back."""

    def __init__(self, index: int) -> None:
        self.index, self.content = index, index

    def answers(self, asked: int) -> bool:
        """At once; otherwise only when something changes."""
        return asked == 0 or self.index > asked

    def change(self, rng: random.Random) -> None:
        self.content += 1
        self.index = self.index + 1 if rng.random() < 0.8 else max(1, self.index - rng.randrange(1, 9))


@given(st.integers(0, 2**32))
def test_f52_whatever_the_index_does_the_last_state_is_heard(seed: int) -> None:
    """A question that waits is answered after its time in any case: with the state of then, and the index of then."""
    rng = random.Random(seed)
    server, index, heard = Server(rng.randrange(1, 20)), 0, -1
    for _ in range(30):
        if rng.random() < 0.5:
            server.change(rng)
        if server.answers(index) or rng.random() < 0.3:
            heard, index = server.content, next_index(index, server.index)
    for _ in range(2):  # one that waits for nothing in vain, and the one that follows
        heard, index = server.content, next_index(index, server.index)
    assert heard == server.content and index in (0, server.index)
    assert index <= server.index, "else news of an index in between would never be told"


def test_the_index_never_waits_from_a_future() -> None:
    assert next_index(0, 5) == 5 and next_index(5, 5) == 5 and next_index(5, 6) == 6 and next_index(6, 5) == 0


def respond(code: int, body: bytes, **headers: str) -> Listed:
    class Transport:
        async def ask(self, method: str, callback: Any, path: str, params: Any, *, waits: float) -> Listed:
            assert (method, path) == ("GET", "/v1/health/service/Web") and ("passing", "1") in params
            assert (waits > 30) == (("index", "7") in params)
            found: Listed = callback(base.Response(code, {k.replace("_", "-"): v for k, v in headers.items()}, body))
            return found

    return trio.run(lambda: consul_health.ask(Transport(), "Web", index=7))  # type: ignore[arg-type]


def test_an_answer_without_an_index_or_without_rights_is_none() -> None:
    assert respond(200, b"[]", X_Consul_Index="9") == Listed((), 9)
    assert respond(200, b"[]", X_Consul_Index="0").index == 1, "0 would not wait"
    for code, body, headers in (
        (404, b"[]", {"X_Consul_Index": "9"}),
        (200, b"[]", {}),
        (200, b"[]", {"X_Consul_Index": "9", "X_Consul_Results_Filtered_By_ACLs": "true"}),
        (200, b"[]", {"X_Consul_Index": "nine"}),
    ):
        with pytest.raises(ValueError):
            respond(code, body, **headers)
    assert consul_listing.ANSWER_MAX < 2**28


# --- one import -----------------------------------------------------------------------------------------------------


def test_the_last_one_stays_known_and_takes_nothing_new() -> None:
    one = Watched(WEB)
    assert one.heard(listed(), domain="t") == [] and one.instances == () and "no passing" in one.problem
    assert one.heard(listed(row("10.0.0.1"), row("10.0.0.2")), domain="t") == [] and one.problem == ""
    gone = one.heard(listed(row("10.0.0.2")), domain="t")
    assert [i.target for i in gone] == ["10.0.0.1:80"] and [i.target for i in one.instances] == ["10.0.0.2:80"]
    gone = one.heard(listed(), domain="t")
    assert [(i.target, i.draining) for i in gone] == [("10.0.0.2:80", None)], "streams to it may be on their way"
    [last] = one.instances
    assert last.target == "10.0.0.2:80" and "no passing instance of Web" in (last.draining or "")
    assert one.health[last.id].state == "failing" and "no passing" in one.problem
    assert one.heard(listed(), domain="t") == [] and one.instances == (last,)
    assert one.heard(listed(row("10.0.0.3")), domain="t") == [] and [i.draining for i in one.instances] == [None]


def test_what_was_found_for_another_import_is_forgotten() -> None:
    [found] = usable(WEB, listed(row("10.0.0.1")).rows, domain="t").instances
    assert Watched(WEB, (found,)).instances == (found,)
    for changes in ({"source": "Other"}, {"tags": ("v2",)}, {"port": 81}, {"labels": {}}):
        assert Watched(msgspec.structs.replace(WEB, **changes), (found,)).instances == ()
