"""I/O: F30: 500 readers stop while their writers go on: what waits for them is bounded, and nobody else notices."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bridge import limits
from tests.support.estate import Estate
from tests.support.lag import OPTIONS, SHARED_P99, LagWatch
from tests.support.pair import CLIENT, SERVER, start_pair, status, worker_pids
from tests.support.pinger import Pinger, p99, shown
from tests.support.proc import resident_bytes
from tests.support.traffic import eventually

READERS = 500
PER_READER = 128 * limits.KIB
SMALL_BUFFER = 32 * limits.KIB
"""Of the kernel, for writers and readers: what waits is to wait in our processes. A gigabyte in the kernel's buffers
makes it drop segments, on every connection of the machine (net.ipv4.tcp_mem)."""
STILL = 1.0
"""Seconds without any movement."""
SPAN = 3.0
ROOM = 0.02
"""Seconds of a round trip that are the machine's."""
LEFT_OVER = 16 * limits.MIB
"""Memory that a process may keep when all of them have gone."""
CHUNK = bytes(64 * limits.KIB)


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], max(before[0], count)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def limit_buffers(sock: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SMALL_BUFFER)


class Door:
    """A service that only keeps what is connected to it."""

    def __init__(self) -> None:
        self.socks: list[socket.socket] = []
        self._listener = socket.socket()
        limit_buffers(self._listener)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(READERS)
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socks.append(self._listener.accept()[0])

    def standing(self) -> list[socket.socket]:
        """Without the checks, which connect and go."""
        gone = [sock for sock in self.socks if readable_end(sock)]
        for sock in gone:
            self.socks.remove(sock)
            sock.close()
        return self.socks

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for sock in [*self.socks, self._listener]:
            sock.close()


def readable_end(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def push_until_stuck(writers: list[socket.socket]) -> int:
    """Writes to all of them until none has taken anything for a while; how many bytes they took."""
    poll = select.epoll()
    by_fd = {sock.fileno(): sock for sock in writers}
    for sock in writers:
        sock.setblocking(False)
        poll.register(sock, select.EPOLLOUT)
    pushed = 0
    while ready := poll.poll(STILL):
        for fd, _ in ready:
            with contextlib.suppress(BlockingIOError):
                pushed += by_fd[fd].send(CHUNK)
    poll.close()
    return pushed


@pytest.mark.slow
@pytest.mark.parametrize("towards", ["the service", "the client"])
def test_f30_what_waits_for_readers_that_stopped_is_bounded(estate: Estate, towards: str) -> None:
    for home in (SERVER, CLIENT):
        estate.options[home] = (*OPTIONS, "--workers", "1")  # the neighbour shares it with all of them
    near = f"127.0.0.1:{estate.start_server('echo', name='near')}"
    door = Door()
    with contextlib.ExitStack() as stack:
        stack.callback(door.close)
        stack.enter_context(descriptors(4 * READERS))
        pair = start_pair(estate, {"door": door.target, "near": near}, direct=True)
        place = pair.place("door")
        pinger = Pinger(estate, pair.place("near"))
        before = pinger.during(SPAN)
        workers = {home: worker_pids(estate, home)[0] for home in (SERVER, CLIENT)}
        base = {home: resident_bytes(pid) for home, pid in workers.items()}
        watches = [LagWatch(estate, home) for home in (SERVER, CLIENT)]
        clients = []
        for _ in range(READERS):
            sock = stack.enter_context(socket.socket())
            limit_buffers(sock)
            sock.connect(place)
            clients.append(sock)
        eventually(lambda: len(door.standing()) >= READERS, what="all of them at the service", timeout=30)
        opened = {home: resident_bytes(pid) for home, pid in workers.items()}
        writers = clients if towards == "the service" else list(door.socks)
        pinger.took()
        began = time.monotonic()
        pushed = push_until_stuck(writers)
        print(f"{READERS} writers pushed {pushed / 1e6:.0f} MB in {time.monotonic() - began - STILL:.1f} s")
        meanwhile = pinger.took()
        beside = pinger.during(SPAN)
        held = {home: resident_bytes(pid) for home, pid in workers.items()}
        assert status(estate, CLIENT)["streams"] == READERS + 1, "no stream was cut"
        lags = [watch.report() for watch in watches]
        for sock in [*clients, *door.socks]:
            sock.close()
        eventually(lambda: status(estate, CLIENT)["streams"] == 1, what="only the neighbour left", timeout=30)
        with contextlib.suppress(AssertionError):  # told below, with the figures
            eventually(
                lambda: all(resident_bytes(pid) <= base[home] + LEFT_OVER for home, pid in workers.items()), timeout=5
            )
        after = {home: resident_bytes(pid) for home, pid in workers.items()}
        for home in workers:
            each = (held[home] - base[home]) / READERS / limits.KIB
            print(
                f"{home} worker: {base[home] / 1e6:.1f} MB, {opened[home] / 1e6:.1f} MB with the streams, "
                f"{held[home] / 1e6:.1f} MB with them stopped ({each:.0f} KiB each), {after[home] / 1e6:.1f} MB after"
            )
        for name, took in (("before", before), ("while they fill", meanwhile), ("beside", beside)):
            print(f"neighbour {name}: {shown(took)}")
        for home, size in held.items():
            assert size <= base[home] + READERS * PER_READER
            assert after[home] <= base[home] + LEFT_OVER
        assert p99(beside) < 2 * p99(before) + ROOM
        assert pinger.lives
        assert all(lag["turns"].p99 <= SHARED_P99 for lag in lags)
        assert {home: worker_pids(estate, home)[0] for home in workers} == workers
