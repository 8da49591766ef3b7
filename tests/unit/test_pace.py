"""Pure: how much may be handed to a connection ahead of time, from what the kernel says of it."""

from __future__ import annotations

import socket
import struct

import pytest

from bridge import limits
from bridge.relay.pace import Pace


class Wire(socket.socket):
    """A TCP socket whose kernel says what the test wants."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.acked = self.unsent = self.sent = self.again = 0
        self.set: dict[int, object] = {}

    def getsockopt(self, level: int, name: int, size: int = 0) -> bytes:  # type: ignore[override]
        assert name == socket.TCP_INFO
        said = struct.pack("=120xQ16xI52xQQ", self.acked, self.unsent, self.sent, self.again)
        return said[:size]

    def setsockopt(self, level: int, name: int, value: object) -> None:  # type: ignore[override]
        self.set[name] = value


SECOND = 4
"""Looks in one."""
PACING = 47


def run(pace: Pace, wire: Wire, rate: int, *, looks: int, full: bool = True, again: float = 0.0, now: float) -> float:
    for _ in range(looks):
        now += limits.PACE_INTERVAL
        arrived = int(rate * limits.PACE_INTERVAL)
        wire.acked += arrived
        wire.sent += int(arrived / (1 - again))
        wire.again += int(arrived / (1 - again) * again)
        pace.look(now, wire.sent, full=full)
    return now


def test_a_link_nobody_knows_gets_little_and_a_fast_one_much_at_once() -> None:
    with Wire() as wire:
        pace = Pace(wire, 0.0)
        assert pace.share == limits.SHARE_FIRST and pace.flags == socket.MSG_EOR
        wire.acked = wire.sent = 1 << 20
        assert pace.is_due(0.01, wire.sent), "a lot went out"
        pace.look(0.01, wire.sent, full=False)
        assert pace.share == limits.SHARE_MAX and pace.flags == 0
        assert wire.set[socket.TCP_NOTSENT_LOWAT] == limits.SHARE_MAX


def test_f21_a_thin_link_gets_next_to_nothing_ahead() -> None:
    with Wire() as wire:
        pace = Pace(wire, 0.0)
        now = run(pace, wire, 8000, looks=SECOND, now=0.0)
        assert pace.share == limits.SHARE_MIN
        assert wire.set[socket.TCP_NOTSENT_LOWAT] == limits.UNSENT_MIN
        run(pace, wire, 50_000_000, looks=SECOND, now=now)
        assert pace.share == limits.SHARE_MAX, "and more when it has become fast"


def test_little_to_send_says_nothing_of_the_link() -> None:
    with Wire() as wire:
        pace = Pace(wire, 0.0)
        now = run(pace, wire, 50_000_000, looks=SECOND, now=0.0)
        run(pace, wire, 100, looks=10 * SECOND, full=False, now=now)
        assert pace.share == limits.SHARE_MAX


def test_who_sends_everything_twice_is_held_to_what_arrives_and_may_try_again() -> None:
    with Wire() as wire:
        pace = Pace(wire, 0.0)
        now = run(pace, wire, 8000, looks=SECOND, now=0.0)
        assert PACING not in wire.set
        now = run(pace, wire, 8000, looks=SECOND, again=0.6, now=now)
        assert wire.set[PACING] == struct.pack("=I", 8000)
        now = run(pace, wire, 8000, looks=2 * SECOND, again=0.05, now=now)
        held = struct.unpack("=I", wire.set[PACING])[0]  # type: ignore[arg-type]
        assert held > 8000
        run(pace, wire, 8000, looks=4 * SECOND, again=0.05, now=now)
        assert wire.set[PACING] == struct.pack("=I", 0xFFFFFFFF)


def test_a_thin_link_that_took_all_and_has_not_sent_it_is_full() -> None:
    with Wire() as wire:
        pace = Pace(wire, 0.0)
        now = run(pace, wire, 8000, looks=SECOND, now=0.0)
        wire.unsent = limits.SHARE_MIN
        run(pace, wire, 8000, looks=SECOND, again=0.6, full=False, now=now)
        assert wire.set[PACING] == struct.pack("=I", 8000), "held to what arrives although no write was refused"


def test_who_has_little_to_send_is_held_to_nothing() -> None:
    with Wire() as wire:
        pace = Pace(wire, 0.0)
        now = run(pace, wire, 8000, looks=2 * SECOND, again=0.6, now=0.0)
        assert wire.set[PACING] == struct.pack("=I", 8000)
        run(pace, wire, 100, looks=1, full=False, now=now)
        assert wire.set[PACING] == struct.pack("=I", 0xFFFFFFFF)


def test_a_kernel_that_says_nothing_and_a_socket_that_is_not_tcp_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Wire() as wire:
        monkeypatch.setattr(wire, "getsockopt", lambda *_: bytes(104))
        for pace in (Pace(ours, 0.0), Pace(wire, 0.0)):
            pace.look(1.0, 10, full=True)
            assert pace.share == limits.SHARE_MAX and pace.flags == 0
