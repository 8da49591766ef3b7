"""I/O: two data workers, each with a clock that the test sets: a stream lives as long as its rule holds at both.

    program ── worker a ══ tunnel over TCP ══ worker b ── echo

The test is their supervisor. The product has no switch for its clock; the workers are started by two lines that put
another one in its place (agents/clock.py is the only one there is).
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from agents.workers.shares import SharesBoard
from bridge.flows import Flow
from inventory.authority import AuthorityState
from inventory.model import Host, Instance, Presence
from inventory.policy_rules import Rule, parse_until
from tests.support.estate import ROOT
from tests.support.memory_tls import TRUST_DOMAIN, TrustDomain
from tests.support.servers import echo, serving

EDGE = parse_until("2026-11-22") + 12.5 * 3600
"""Half past twelve of the next day, when the window closes."""
NOON = EDGE - 1800
WINDOW = Rule(name="lunch", effect="allow", sources=("host:a",), to=("timed",), when="11:00-12:30 UTC")
ALWAYS = Rule(name="always", effect="allow", sources=("host:a",), to=("always",))
PATIENCE = 10.0
WORKER = """
import mmap, struct, sys, time
from agents import clock
with open(sys.argv[3], "r+b") as file:
    shared = mmap.mmap(file.fileno(), 8)
clock.now = lambda: struct.unpack("d", shared[:])[0] + time.monotonic()
from agents.workers import data_worker
data_worker.main()
"""


class Clock:
    """A wall clock that goes on by itself from where it was set, in a file that a worker reads."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)
        self.set(NOON)

    def set(self, at: float) -> None:
        self._shared[:] = struct.pack("d", at - time.monotonic())


class Worker:
    """A worker and the supervisor's side of it: tells it things, and keeps its flow records."""

    def __init__(self, home: Path) -> None:
        self.clock = Clock(home / "clock")
        self.flows: list[Flow] = []
        ours, theirs = socket.socketpair()
        self.board = SharesBoard()
        fds = [theirs.fileno(), self.board.fd]
        with theirs:
            argv = [sys.executable, "-c", WORKER, *map(str, fds), str(home / "clock")]
            self.process = subprocess.Popen(argv, cwd=ROOT, pass_fds=fds, stdin=subprocess.DEVNULL)
        self.channel: Channel[Any, Any] = Channel(ours, m.FromWorker)
        self._answers: dict[int, str] = {}
        self._news = trio.Event()

    async def listen(self) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                message, fds = await self.channel.receive()
                for sock in fds:
                    sock.close()
                if isinstance(message, m.WorkerReport):
                    self.flows += message.flows
                elif isinstance(message, m.Adopted):
                    self._answers[message.id] = message.error
                elif isinstance(message, m.PathNeeded):
                    await self.channel.send(m.PathFailed(peer=message.peer, reason="there is no gateway"))
                self._news.set()
                self._news = trio.Event()

    async def until(self, found: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE):
            while not found():
                await self._news.wait()

    async def dial(self, service: str) -> trio.SocketStream | str:
        """A stream to the service, once its far end accepted it; or why not."""
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        number = len(self._answers) + 1
        with theirs:
            await self.channel.send(m.Adopt(id=number, service=service, site=None, user=None), [theirs.fileno()])
        await self.until(lambda: number in self._answers)
        if self._answers[number]:
            await stream.aclose()
        return self._answers[number] or stream

    def cut(self) -> list[str]:
        """Reasons of the streams that were cut."""
        return [flow.reason for flow in self.flows if flow.result == "cut"]

    def end(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self.board.close()


async def start(home: Path, domain: TrustDomain, rest: list[tuple[Any, list[int]]]) -> Worker:
    """A worker that has been told who it is and the rest."""
    domain.identity(f"host/{home.name}").rename(home / "identity.pem")
    (home / "identity.pem").chmod(0o600)
    worker = Worker(home)
    begin = m.Begin(
        home=str(home), trust_domain=TRUST_DOMAIN, role="host", name=home.name, site=None,
        root_certificate=domain.root_pem, row=worker.board.take(),
    )  # fmt: skip
    for message, fds in [(begin, []), *rest]:
        await worker.channel.send(message, fds)
    return worker


@contextlib.asynccontextmanager
async def workers(folder: Path) -> AsyncIterator[tuple[Worker, Worker]]:
    """Worker a, which may reach the services of worker b, and worker b."""
    for name in ("a", "b", "keys"):
        (folder / name).mkdir()
    domain = TrustDomain(folder / "keys", NOON)
    async with serving(echo) as port, trio.open_nursery() as nursery:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            at = f"127.0.0.1:{listener.getsockname()[1]}"
            target = f"127.0.0.1:{port}"
            instances = [Instance(service=name, host="b", target=target, port=1) for name in ("timed", "always")]
            state = AuthorityState(
                number=1,
                trust_domain=TRUST_DOMAIN,
                hosts={name: Host(name=name) for name in "ab"},
                instances={instance.id: instance for instance in instances},
            )
            presence = {"b": Presence(host="b", online=True, advertise=at)}
            told: list[tuple[Any, list[int]]] = [
                (m.Authority(state=state, allows=(WINDOW, ALWAYS)), []),
                (m.Placement(revision=1, presence=presence, reported={}, health={}), []),
            ]
            b = await start(folder / "b", domain, [*told, (m.ListenTunnels(), [listener.fileno()])])
            a = await start(folder / "a", domain, told)
        try:
            for worker in (a, b):
                nursery.start_soon(worker.listen)
            yield a, b
        finally:
            nursery.cancel_scope.cancel()
            for worker in (a, b):
                worker.end()


async def open_stream(worker: Worker, service: str) -> trio.SocketStream:
    stream = await worker.dial(service)
    assert isinstance(stream, trio.SocketStream), stream
    return stream


async def goes_on(stream: trio.SocketStream) -> bool:
    with trio.fail_after(PATIENCE):
        try:
            await stream.send_all(b"still there")
            return await stream.receive_some() == b"still there"
        except trio.BrokenResourceError:
            return False


async def seconds_until_cut(stream: trio.SocketStream) -> float:
    began = trio.current_time()
    with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
        assert await stream.receive_some() == b""
    return trio.current_time() - began


@pytest.mark.parametrize("late", ["a", "b"])
async def test_a_stream_ends_when_its_window_does_at_either_end(tmp_path: Path, late: str) -> None:
    async with workers(tmp_path) as (a, b):
        timed, always = await open_stream(a, "timed"), await open_stream(a, "always")
        async with timed, always:
            at_edge = a if late == "a" else b
            at_edge.clock.set(EDGE - 3)  # to be moved is itself a reason to look again: 3 s later it is not that
            assert await goes_on(timed)
            took = await seconds_until_cut(timed)
            assert 1.5 < took < 3.0 + 1.5, f"cut after {took:.1f} s, due after 3"
            assert await goes_on(always), "no other stream of the tunnel notices"
            await at_edge.until(at_edge.cut)
            assert "of rule 'lunch', it holds only 11:00-12:30 UTC" in at_edge.cut()[0]
            await a.until(a.cut)
            assert isinstance(await a.dial("timed"), str)


@pytest.mark.parametrize("days", [1 / 24, -2 / 24, 400.25])
async def test_f32_a_clock_that_is_set_ends_what_no_longer_holds_and_does_no_lasting_harm(
    tmp_path: Path, days: float
) -> None:
    async with workers(tmp_path) as (a, b):
        timed, always = await open_stream(a, "timed"), await open_stream(a, "always")
        async with timed, always:
            assert await goes_on(timed)
            b.clock.set(NOON + days * 86400)
            assert await seconds_until_cut(timed) < 2.5
            assert await goes_on(always), "a live stream is not the clock's business"
            assert isinstance(await a.dial("timed"), str)
            b.clock.set(NOON)
            again = await a.dial("timed")
            while isinstance(again, str):
                again = await a.dial("timed")
            async with again:
                assert await goes_on(again)
