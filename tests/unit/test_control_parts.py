"""Pure: an update in parts is the same update."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.control.messages import Update
from agents.control.parts import Parts, split
from bridge import limits
from bridge.errors import PeerError
from inventory.authority import SignedEntry
from inventory.model import Health, Presence
from inventory.policy_document import PolicyLeaf
from tests.support.estates import instance


def made(entries: int, dropped: int, leaves: int | None, places: int) -> Update:
    names = [f"vm{n}" for n in range(places)]
    return Update(
        revision=7,
        full=bool(entries % 2),
        entries=tuple(SignedEntry(b"entry %d" % n, b"s" * 64) for n in range(entries)),
        dropped=tuple(f"host/vm{n}" for n in range(dropped)),
        leaves=None if leaves is None else tuple(PolicyLeaf(b"leaf", n, ()) for n in range(leaves)),
        presence={name: Presence(host=name) if len(name) % 2 else None for name in names},
        reported={name: (instance("web", name),) for name in names},
        health={f"web/{name}/127.0.0.1:80": Health() for name in names},
    )


FEW = st.integers(0, 12)


@given(FEW, FEW, st.none() | FEW, FEW, st.integers(500, 2000))
def test_the_parts_of_an_update_join_to_it(
    entries: int, dropped: int, leaves: int | None, places: int, most: int
) -> None:
    update = made(entries, dropped, leaves, places)
    parts = split(update, most)
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    whole = Parts()
    joined = [whole.add(part) for part in parts]
    assert joined == [None] * (len(parts) - 1) + [update]
    for part in parts:
        items = len(part.entries) + len(part.dropped) + len(part.leaves or ()) + 3 * len(part.reported)
        assert len(msgspec.json.encode(part)) <= most or items <= 3


def test_a_large_update_goes_out_in_messages_of_bounded_size() -> None:
    update = made(20_000, 0, 3000, 20_000)
    parts = split(update)
    assert len(parts) > 1 and all(len(msgspec.json.encode(p)) < limits.CONTROL_MESSAGE_MAX for p in parts)
    assert len(parts) <= limits.UPDATE_PARTS_MAX


def test_a_small_one_is_left_alone() -> None:
    update = made(3, 2, 1, 3)
    assert split(update) == [update]
    assert Parts().add(update) is update


def test_parts_without_end_are_refused() -> None:
    parts = Parts()
    with pytest.raises(PeerError, match="parts"):
        for _ in range(limits.UPDATE_PARTS_MAX + 1):
            parts.add(Update(revision=1, more=True))


def test_the_next_update_starts_anew() -> None:
    parts = Parts()
    first = split(made(10, 0, None, 0), 200)
    for part in first:
        parts.add(part)
    assert parts.add(made(1, 1, 1, 1)) == made(1, 1, 1, 1)
