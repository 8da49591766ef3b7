"""The table of a stream's life against a slow obvious twin, its diagram, and what must hold whatever happens."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

import pytest

from bridge.tunnels import stream_state
from bridge.tunnels.stream_state import NEXT, TRANSITIONS, Event, State

# --- The twin: no states, only facts ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """One end of a stream, as plain facts. `answered` is whether the OPEN was accepted."""

    opener: bool
    answered: bool = False
    sent_fin: bool = False
    got_fin: bool = False
    ending: bool = False
    over: bool = False


def twin(facts: Facts, event: Event) -> Facts | None:
    """What becomes of the stream; None for what may not happen."""
    if facts.over:
        return None
    sends = event.name.startswith("SEND_")
    what = event.name[5:]
    if facts.ending:
        return None if sends else _ignoring(facts, what)
    if what == "RESET":
        return replace(facts, ending=True) if sends else replace(facts, over=True)
    if what in ("ACCEPT", "REFUSE"):
        if facts.answered or sends == facts.opener:
            return None  # answered once, by the end that did not open
        if what == "ACCEPT":
            return replace(facts, answered=True)
        return replace(facts, ending=True) if sends else replace(facts, over=True)
    # A direction: it may be used before the answer only from the opener to the other end.
    towards_us = what in ("DATA", "FIN") and not sends
    credit_for_us = what == "WINDOW" and not sends
    if what == "WINDOW":
        data_from_us = credit_for_us
        closed = facts.sent_fin if data_from_us else facts.got_fin
        early = facts.opener if data_from_us else not facts.opener
        if not (facts.answered or early):
            return None
        # Our own FIN does not stop the peer from granting credit: it may not have heard. We grant none after its FIN.
        return facts if data_from_us or not closed else None
    early = facts.opener != towards_us
    if not (facts.answered or early):
        return None
    if facts.got_fin if towards_us else facts.sent_fin:
        return None
    if what == "DATA":
        return facts
    after = replace(facts, got_fin=True) if towards_us else replace(facts, sent_fin=True)
    return replace(after, over=after.got_fin and after.sent_fin)


def _ignoring(facts: Facts, what: str) -> Facts:
    """We ended it and the peer may not know: only what proves that it has let go ends the waiting."""
    proof = what in ("RESET", "REFUSE") or (what == "FIN" and facts.sent_fin)
    return replace(facts, over=True) if proof else facts


def facts_of(state: State) -> list[Facts]:
    """Every situation that the table calls by this name."""
    a, b = Facts(opener=True), Facts(opener=False)
    ours = [replace(f, answered=True) for f in (a, b)]
    return {
        State.OPENING: [a],
        State.OPENING_SENT_FIN: [replace(a, sent_fin=True)],
        State.PENDING: [b],
        State.PENDING_GOT_FIN: [replace(b, got_fin=True)],
        State.OPEN: ours,
        State.SENT_FIN: [replace(f, sent_fin=True) for f in ours],
        State.GOT_FIN: [replace(f, got_fin=True) for f in ours],
        State.RESETTING: [replace(f, ending=True) for f in (*ours, a, b)],
        State.RESETTING_SENT_FIN: [replace(f, ending=True, sent_fin=True) for f in (*ours, a)],
        State.CLOSED: [replace(f, over=True) for f in (a, b)],
    }[state]


def name_of(facts: Facts) -> State:
    """The table's name for a situation."""
    if facts.over:
        return State.CLOSED
    if facts.ending:
        return State.RESETTING_SENT_FIN if facts.sent_fin else State.RESETTING
    if not facts.answered:
        if facts.opener:
            return State.OPENING_SENT_FIN if facts.sent_fin else State.OPENING
        return State.PENDING_GOT_FIN if facts.got_fin else State.PENDING
    if facts.sent_fin:
        return State.SENT_FIN
    return State.GOT_FIN if facts.got_fin else State.OPEN


@pytest.mark.parametrize("state", State, ids=lambda s: s.name)
@pytest.mark.parametrize("event", Event, ids=lambda e: e.name)
def test_every_pair_is_what_the_twin_says(state: State, event: Event) -> None:
    for facts in facts_of(state):
        after = twin(facts, event)
        assert NEXT[state][event] == (None if after is None else name_of(after)), facts


def test_the_table_by_position_is_the_table() -> None:
    for state, event in itertools.product(State, Event):
        assert NEXT[state][event] is TRANSITIONS[state].get(event)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.OPENING, State.PENDING}
    while True:
        more = {after for state in reached for after in TRANSITIONS[state].values()} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)
    assert [state for state in State if not TRANSITIONS[state]] == [State.CLOSED]


def test_a_peer_alone_can_always_end_a_stream() -> None:
    """So a stream of a peer that follows the protocol never stays in the table."""
    for state in State:
        if state is not State.CLOSED:
            assert NEXT[state][Event.RECV_RESET] is State.CLOSED


def test_the_diagram_in_the_docstring_is_the_table() -> None:
    """Arrows read from left to right: `STATE ──send FIN──▶ STATE ──recv FIN──▶ STATE`."""
    arrows = []
    for line in (stream_state.__doc__ or "").splitlines():
        parts = re.split(r" ──(send|recv) (\w+)──▶ ", line.strip())
        for at in range(0, len(parts) - 3, 3):
            arrows.append((parts[at], f"{parts[at + 1]}_{parts[at + 2]}".upper(), parts[at + 3]))
    assert len(arrows) > 12
    for before, event, after in arrows:
        assert TRANSITIONS[State[before]][Event[event]] is State[after], (before, event, after)
    drawn = {name for before, _, after in arrows for name in (before, after)}
    assert drawn == {state.name for state in State}
