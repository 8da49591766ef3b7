"""Pure: the life of one stream, seen from one end, as a table. Rule: a frame may be sent or acted on only if the table
has a row for it; there is no other place that knows.

    The opener:
        OPENING ──recv ACCEPT──▶ OPEN
        OPENING ──send FIN──▶ OPENING_SENT_FIN ──recv ACCEPT──▶ SENT_FIN
        OPENING ──recv REFUSE──▶ CLOSED
    The other end:
        PENDING ──send ACCEPT──▶ OPEN
        PENDING ──recv FIN──▶ PENDING_GOT_FIN ──send ACCEPT──▶ GOT_FIN
        PENDING ──send REFUSE──▶ RESETTING
    Both:
        OPEN ──send FIN──▶ SENT_FIN ──recv FIN──▶ CLOSED
        OPEN ──recv FIN──▶ GOT_FIN ──send FIN──▶ CLOSED
        OPEN ──send RESET──▶ RESETTING ──recv RESET──▶ CLOSED
        SENT_FIN ──send RESET──▶ RESETTING_SENT_FIN ──recv FIN──▶ CLOSED
        OPEN ──recv RESET──▶ CLOSED

An abrupt end (RESET, REFUSE) is answered with RESET by the end that did not begin it. Until that answer, or what proves
that the other end had already let go (its own REFUSE or RESET on the way, or its FIN when ours went before), what was
under way is ignored. So an id leaves the table of open streams exactly when nothing but a late WINDOW or RESET can
still arrive for it.
"""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    OPENING = 0
    OPENING_SENT_FIN = 1
    PENDING = 2
    PENDING_GOT_FIN = 3
    OPEN = 4
    SENT_FIN = 5
    GOT_FIN = 6
    RESETTING = 7
    RESETTING_SENT_FIN = 8
    CLOSED = 9


class Event(enum.IntEnum):
    SEND_DATA = 0
    SEND_FIN = 1
    SEND_ACCEPT = 2
    SEND_REFUSE = 3
    SEND_RESET = 4
    RECV_DATA = 5
    RECV_FIN = 6
    RECV_ACCEPT = 7
    RECV_REFUSE = 8
    RECV_RESET = 9
    RECV_WINDOW = 10
    SEND_WINDOW = 11


_S, _E = State, Event

TRANSITIONS: dict[State, dict[Event, State]] = {
    _S.OPENING: {
        _E.SEND_DATA: _S.OPENING,
        _E.SEND_FIN: _S.OPENING_SENT_FIN,
        _E.SEND_RESET: _S.RESETTING,
        _E.RECV_ACCEPT: _S.OPEN,
        _E.RECV_REFUSE: _S.CLOSED,
        _E.RECV_RESET: _S.CLOSED,
        _E.RECV_WINDOW: _S.OPENING,
    },
    _S.OPENING_SENT_FIN: {
        _E.SEND_RESET: _S.RESETTING_SENT_FIN,
        _E.RECV_ACCEPT: _S.SENT_FIN,
        _E.RECV_REFUSE: _S.CLOSED,
        _E.RECV_RESET: _S.CLOSED,
        _E.RECV_WINDOW: _S.OPENING_SENT_FIN,
    },
    _S.PENDING: {
        _E.SEND_ACCEPT: _S.OPEN,
        _E.SEND_REFUSE: _S.RESETTING,
        _E.SEND_RESET: _S.RESETTING,
        _E.SEND_WINDOW: _S.PENDING,
        _E.RECV_DATA: _S.PENDING,
        _E.RECV_FIN: _S.PENDING_GOT_FIN,
        _E.RECV_RESET: _S.CLOSED,
    },
    _S.PENDING_GOT_FIN: {
        _E.SEND_ACCEPT: _S.GOT_FIN,
        _E.SEND_REFUSE: _S.RESETTING,
        _E.SEND_RESET: _S.RESETTING,
        _E.RECV_RESET: _S.CLOSED,
    },
    _S.OPEN: {
        _E.SEND_DATA: _S.OPEN,
        _E.SEND_FIN: _S.SENT_FIN,
        _E.SEND_RESET: _S.RESETTING,
        _E.SEND_WINDOW: _S.OPEN,
        _E.RECV_DATA: _S.OPEN,
        _E.RECV_FIN: _S.GOT_FIN,
        _E.RECV_RESET: _S.CLOSED,
        _E.RECV_WINDOW: _S.OPEN,
    },
    _S.SENT_FIN: {
        _E.SEND_RESET: _S.RESETTING_SENT_FIN,
        _E.SEND_WINDOW: _S.SENT_FIN,
        _E.RECV_DATA: _S.SENT_FIN,
        _E.RECV_FIN: _S.CLOSED,
        _E.RECV_RESET: _S.CLOSED,
        _E.RECV_WINDOW: _S.SENT_FIN,
    },
    _S.GOT_FIN: {
        _E.SEND_DATA: _S.GOT_FIN,
        _E.SEND_FIN: _S.CLOSED,
        _E.SEND_RESET: _S.RESETTING,
        _E.RECV_RESET: _S.CLOSED,
        _E.RECV_WINDOW: _S.GOT_FIN,
    },
    # The peer has not heard of our RESET or REFUSE yet: what it sends meanwhile means nothing any more.
    _S.RESETTING: {
        _E.RECV_DATA: _S.RESETTING,
        _E.RECV_FIN: _S.RESETTING,
        _E.RECV_ACCEPT: _S.RESETTING,
        _E.RECV_REFUSE: _S.CLOSED,
        _E.RECV_RESET: _S.CLOSED,
        _E.RECV_WINDOW: _S.RESETTING,
    },
    # The same after our FIN: once the peer's FIN comes, it had ended the stream before it hears of our RESET, and will
    # not answer it.
    _S.RESETTING_SENT_FIN: {
        _E.RECV_DATA: _S.RESETTING_SENT_FIN,
        _E.RECV_FIN: _S.CLOSED,
        _E.RECV_ACCEPT: _S.RESETTING_SENT_FIN,
        _E.RECV_REFUSE: _S.CLOSED,
        _E.RECV_RESET: _S.CLOSED,
        _E.RECV_WINDOW: _S.RESETTING_SENT_FIN,
    },
    _S.CLOSED: {},
}

NEXT: tuple[tuple[State | None, ...], ...] = tuple(
    tuple(TRANSITIONS[state].get(event) for event in Event) for state in State
)
"""The same table by position, for the loop: `NEXT[state][event]`, None where there is no row."""
