"""I/O: a reader that stops takes nothing from the other streams of the same tunnel, in either direction.

Some clients write to a server that never reads, others do not read what an echo sends back. They stand still with every
buffer on their way full; what another stream gets meanwhile is compared with what it got before.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bridge import limits
from tests.support.estate import Estate
from tests.support.pair import CLIENT, SERVER, Pair, start_pair, status
from tests.support.traffic import Backend, echo, eventually

STUCK_EACH_WAY = 4
STILL = 0.5
"""Seconds without any movement; a stream that moves has room again within a round trip."""
LONGEST_TIMEOUT = limits.HEARTBEAT_INTERVAL * limits.HEARTBEAT_MISSES
PINGS = 300
BULK = 24 * 1024 * 1024
CHUNK = 256 * 1024


@dataclass
class Stuck:
    """A stream that stands still; `sent` is what its client could write."""

    service: str
    sock: socket.socket
    sent: int = 0


def push_until_stuck(streams: list[Stuck]) -> None:
    """Writes to all of them until none takes any more."""
    moved_at = time.monotonic()
    while time.monotonic() - moved_at < STILL:
        for stream in streams:
            with contextlib.suppress(BlockingIOError):
                stream.sent += stream.sock.send(bytes(CHUNK))
                moved_at = time.monotonic()
        time.sleep(0.001)


@contextlib.contextmanager
def stuck(pair: Pair) -> Iterator[list[Stuck]]:
    """Streams that stand still in each direction."""
    with contextlib.ExitStack() as stack:
        services = ["deaf", "echo"] * STUCK_EACH_WAY
        streams = [Stuck(service, stack.enter_context(pair.connect(service))) for service in services]
        for stream in streams:
            stream.sock.setblocking(False)
        push_until_stuck(streams)
        yield streams


def round_trips(sock: socket.socket) -> list[float]:
    """Seconds that each of PINGS small messages took there and back."""
    took = []
    for _ in range(PINGS):
        began = time.perf_counter()
        sock.sendall(b"keystroke")
        got = 0
        while got < 9:
            got += len(sock.recv(64))
        took.append(time.perf_counter() - began)
    return sorted(took)


def rate(sock: socket.socket) -> float:
    """MB/s there and back."""
    began = time.perf_counter()
    sent = got = 0
    sock.setblocking(False)
    while got < BULK:
        with contextlib.suppress(BlockingIOError):
            while sent < BULK:
                sent += sock.send(bytes(min(CHUNK, BULK - sent)))
        with contextlib.suppress(BlockingIOError):
            while got < BULK:
                got += len(sock.recv(CHUNK))
    sock.setblocking(True)
    return BULK / 1e6 / (time.perf_counter() - began)


@pytest.mark.slow
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the gateway"])
def test_the_others_go_on_as_before(estate: Estate, direct: bool) -> None:
    with Backend("echo", echo) as backend:
        services = {"echo": backend.target, "deaf": f"127.0.0.1:{estate.start_server('deaf')}"}
        pair = start_pair(estate, services, direct=direct, workers=1)
        with pair.connect("echo") as sock:
            before, rate_before = round_trips(sock), rate(sock)
            with stuck(pair) as streams:
                beside, rate_beside = round_trips(sock), rate(sock)
            after = round_trips(sock)
        tunnels = [t for t in status(estate, CLIENT)["tunnels"] if t["peer"] == f"host:{SERVER}"]
        assert len(tunnels) == 1, "all of it was one tunnel"
        held = sum(stream.sent for stream in streams)
        print(f"{len(streams)} streams stood still with {held / 1e6:.0f} MB taken from their clients")
        for name, took in (("before", before), ("beside", beside), ("after", after)):
            print(f"{name}: p50 {took[PINGS // 2] * 1e3:.2f} ms, p99 {took[PINGS * 99 // 100] * 1e3:.2f} ms")
        print(f"bulk: {rate_before:.0f} MB/s before, {rate_beside:.0f} MB/s beside them")
        assert beside[PINGS // 2] < 2 * before[PINGS // 2] + 0.001
        assert rate_beside > rate_before / 3
        estate.terminate("deaf")  # as long as it lives it might read what its clients left behind
        eventually(lambda: status(estate, CLIENT)["streams"] == 0, what="no stream left")


@pytest.mark.slow
def test_a_reader_that_goes_on_after_a_long_pause_has_lost_nothing(estate: Estate) -> None:
    """Longer than the time after which a silent peer is given up: the reader is not silent, it has not read."""
    with Backend("echo", echo) as backend:
        pair = start_pair(estate, {"echo": backend.target}, direct=True)
        with pair.connect("echo") as sock:
            sock.setblocking(False)
            stream = Stuck("echo", sock)
            push_until_stuck([stream])
            time.sleep(LONGEST_TIMEOUT + 2)  # the length of the pause is the thing under test
            sock.settimeout(10)
            sock.shutdown(socket.SHUT_WR)
            got = 0
            while data := sock.recv(CHUNK):
                got += len(data)
    assert got == stream.sent
