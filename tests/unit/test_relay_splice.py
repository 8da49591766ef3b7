"""A splice between socketpairs: bytes, ends, and a loop that does not spin. TCP has its own tests, in tests/e2e."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from bridge import limits
from bridge.relay.loop import Loop
from bridge.relay.splice import Splice
from tests.support.splice_bench import SpliceBench


@pytest.fixture
def bench() -> Iterator[SpliceBench]:
    bench = SpliceBench(socket.socketpair(), socket.socketpair())
    yield bench
    bench.close()


def test_bytes_go_both_ways_and_are_counted(bench: SpliceBench) -> None:
    bench.a.send(b"there")
    assert bench.receive(bench.b, 5) == b"there"
    bench.b.send(b"and back")
    assert bench.receive(bench.a, 8) == b"and back"
    assert bench.splice.moved == 13 and bench.splice.moved_each_way == (5, 8)
    assert bench.idle_turns() == 0


def test_each_direction_ends_on_its_own(bench: SpliceBench) -> None:
    bench.a.send(b"all of it")
    bench.a.shutdown(socket.SHUT_WR)
    assert bench.receive(bench.b, 100) == b"all of it"
    assert not bench.ends and bench.idle_turns() <= 1
    bench.b.send(b"answer")
    assert bench.receive(bench.a, 6) == b"answer"
    bench.b.shutdown(socket.SHUT_WR)
    bench.until(lambda: bool(bench.ends))
    assert bench.ends == [""]


def test_an_end_that_vanishes_ends_both(bench: SpliceBench) -> None:
    bench.a.close()
    assert bench.receive(bench.b, 1) == b"", "the other end hears of it"
    bench.b.send(b"x")
    bench.until(lambda: bool(bench.ends))
    assert len(bench.ends) == 1 and bench.ends[0].startswith("the connection broke")


def test_an_end_that_hung_up_while_bytes_are_held_does_not_spin(bench: SpliceBench) -> None:
    """a has gone, but what it sent is still on its way to b, which does not read."""
    while True:
        try:
            bench.a.send(bytes(1 << 16))
        except BlockingIOError:
            if not bench.loop.turn():
                break
    sent_before = bench.splice.moved
    bench.a.close()
    assert bench.idle_turns() <= 2
    assert bench.idle_turns() == 0
    got = 0
    while data := bench.receive(bench.b, 1 << 16):
        got += len(data)
    assert got > sent_before, "everything that was sent has arrived"


def test_no_descriptor_is_left(bench: SpliceBench) -> None:
    bench.splice.close("enough")
    bench.splice.close("twice")
    assert bench.ends == ["enough"]
    assert all(sock.fileno() == -1 for sock in bench.ours)
    before = set(os.listdir("/proc/self/fd"))
    more = SpliceBench(socket.socketpair(), socket.socketpair())
    more.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_f29_without_descriptors_for_its_pipes_nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    pairs = socket.socketpair(), socket.socketpair()
    before = len(os.listdir("/proc/self/fd"))
    real = os.pipe2
    calls = iter([real, None])

    def pipe2(flags: int) -> tuple[int, int]:
        if (call := next(calls)) is None:
            raise OSError(24, "Too many open files")
        return call(flags)

    monkeypatch.setattr(os, "pipe2", pipe2)
    with pytest.raises(OSError, match="Too many"):
        Splice(loop, pairs[0][0], pairs[1][0], lambda splice, reason: None)
    assert len(os.listdir("/proc/self/fd")) == before - 2, "only the two sockets, which it owned, were closed"
    assert all(pair[0].fileno() == -1 for pair in pairs)
    for pair in pairs:
        pair[1].close()
    loop.close()


def test_a_path_whose_ends_have_both_vanished_is_closed(bench: SpliceBench) -> None:
    """Both ends send heartbeats through it, so silence means that nobody is there."""
    now = bench.loop.now
    bench.splice.tick(now + 20)
    bench.a.send(b"ping")
    assert bench.receive(bench.b, 4) == b"ping"
    bench.splice.tick(now + 40)
    bench.splice.tick(now + 60)
    assert not bench.ends
    bench.splice.tick(now + 40 + 2 * limits.HEARTBEAT_INTERVAL * limits.HEARTBEAT_MISSES + 1)
    assert bench.ends == ["both ends have been silent"]
