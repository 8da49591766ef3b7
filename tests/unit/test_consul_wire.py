"""Pure: a change as Consul's operations, large values in pieces, and the one number of what live/ says."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.errors import InputError
from inventory.registries import consul_wire as wire
from inventory.registries.interface import ANY, CHANGES_MAX, VALUE_MAX, Change

P = "meshbridge/"


def verbs(change: Change) -> tuple[str, int | None]:
    operation = wire.operation("key", change, None)
    assert operation["Key"] == "key"
    return operation["Verb"], operation.get("Index")


def test_every_change_is_one_operation_that_fails_where_it_must() -> None:
    assert verbs(Change("a", ANY, b"")) == ("set", None)
    assert verbs(Change("a", 0, b"")) == ("cas", 0)
    assert verbs(Change("a", 7, b"")) == ("cas", 7)
    assert verbs(Change("a", ANY, None)) == ("delete", None)
    assert verbs(Change("a", 0, None)) == ("check-not-exists", None)
    assert verbs(Change("a", 7, None)) == ("delete-cas", 7)


def test_the_same_value_written_twice_is_never_the_same_entry() -> None:
    """Consul may take an equal entry for no change at all, and keep its ModifyIndex."""
    written = [wire.operation("key", Change("a", ANY, b"1"), None) for _ in range(2)]
    assert written[0]["Flags"] != written[1]["Flags"]
    assert not any(operation["Flags"] & wire.LARGE for operation in written)


def test_operations_are_json_as_consul_reads_it() -> None:
    encoded = json.loads(wire.encode_operations([wire.write("a/b", b"\x00\xff", flags=2)]))
    assert encoded == [{"KV": {"Verb": "set", "Key": "a/b", "Value": "AP8=", "Flags": 2}}]


def test_an_outcome_has_the_last_of_each_key_and_the_first_failure() -> None:
    results = [{"KV": {"Key": "a", "Value": None, "ModifyIndex": 4}}, {"KV": {"Key": "a", "Value": "eA=="}}, {}]
    done = wire.read_outcome(json.dumps({"Results": results, "Errors": None, "Index": 9}).encode())
    assert (done.entries["a"].value, done.failed) == (b"x", None)
    errors = [{"OpIndex": 3, "What": "later"}, {"OpIndex": 1, "What": "first"}]
    failed = wire.read_outcome(json.dumps({"Results": None, "Errors": errors}).encode()).failed
    assert failed == wire.Failure(1, "first")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"Results":[{"KV":{"Key":"a","Value":"***"}}]}', b"[" * 1000])
def test_what_is_no_outcome_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        wire.read_outcome(body)


@given(st.lists(st.integers(0, 700_000), min_size=1, max_size=CHANGES_MAX))
def test_whatever_the_sizes_one_transaction_takes_the_rest(sizes: list[int]) -> None:
    """Property: what is not written in pieces first fits in Consul's 512 KiB, with the longest keys there can be."""
    values = {f"{n:02d}" + "k" * 510: b"\xff" * size for n, size in enumerate(sizes)}
    changes = [Change(key, 10**18, value) for key, value in values.items()]
    large = {change.key: wire.make_manifest(change.value or b"") for change in wire.too_large(changes)}
    prefix = "p" * 127 + "/"
    operations: list[Any] = [wire.operation(prefix + wire.RECORDS + c.key, c, large.get(c.key)) for c in changes]
    fence = {"Verb": "check-index", "Key": prefix + wire.ABOUT, "Index": 10**18}
    ours = [fence, wire.write(prefix + wire.REVISION, b""), wire.read_tree(prefix + wire.LIVE)]
    assert len(wire.encode_operations([*operations, *ours])) < 512 * 1024
    assert len(operations) + len(ours) <= wire.OPERATIONS_MAX


def test_small_changes_are_not_cut() -> None:
    assert wire.too_large([Change(f"{n}", ANY, b"x" * 4000) for n in range(CHANGES_MAX)]) == []
    assert wire.too_large([Change("a", ANY, b"x" * 350_000)]) == []


@given(st.integers(1, 3 * wire.CHUNK))
def test_pieces_are_the_value_again_and_nothing_else_is(size: int) -> None:
    value = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    manifest, chunks = wire.make_manifest(value), wire.chunks_of(value)
    assert len(chunks) == manifest.chunks and max(map(len, chunks)) <= wire.CHUNK < 512 * 1024
    assert wire.join_chunks(manifest, chunks) == value
    assert wire.join_chunks(manifest, chunks[:-1]) is None
    assert wire.join_chunks(manifest, [*chunks[:-1], chunks[-1] + b"x"]) is None


def test_a_manifest_is_read_back_and_a_forged_one_is_not() -> None:
    manifest = wire.make_manifest(b"x" * VALUE_MAX)

    def entry(**changed: object) -> wire.Entry:
        return wire.Entry("a", msgspec.json.encode({**msgspec.to_builtins(manifest), **changed}))

    assert wire.read_manifest(entry()) == manifest
    forged: list[dict[str, object]] = [{"id": "../../other"}, {"id": "A" * 32}, {"chunks": 10**6}, {"size": 0}]
    for changed in (*forged, {"size": VALUE_MAX + 1}, {"more": 1}):
        with pytest.raises(InputError):
            wire.read_manifest(entry(**changed))


def test_the_revision_is_of_records_and_leases_and_of_nothing_else() -> None:
    def live(number: int, index: int = 3, **leases: bytes) -> dict[str, wire.Entry]:
        entries = [wire.Entry(P + wire.ABOUT, b"x", modify_index=index), wire.Entry(P + wire.REVISION, None, 9, number)]
        entries += [wire.Entry(f"{P}{wire.LEASES}{k}", v, modify_index=index, session="s") for k, v in leases.items()]
        return {entry.key: entry for entry in entries}

    seen = wire.revision_of(live(5, a=b"1", b=b"2"), P)
    assert wire.revision_of(dict(reversed(live(5, index=8, a=b"1", b=b"2").items())), P) == seen
    others = [live(6, a=b"1", b=b"2"), live(5, a=b"1"), live(5, a=b"2", b=b"1"), live(5, a=b"1", c=b"2"), live(5)]
    assert len({seen, *(wire.revision_of(other, P) for other in others)}) == 6
    assert 0 <= seen < 2**53


def test_about_says_what_this_is() -> None:
    def about(value: bytes) -> wire.About:
        return wire.read_about(wire.Entry(P + wire.ABOUT, value))

    assert about(b'{"format":1,"state":"ready"}') == wire.About(1, "ready")
    with pytest.raises(InputError, match="format 2, this program knows 1"):
        about(b'{"format":2,"state":"ready"}')
    for wrong in (b"", b"{}", base64.b64encode(b"{}"), b'{"format":1,"state":"ready","more":1}'):
        with pytest.raises(InputError):
            about(wrong)
