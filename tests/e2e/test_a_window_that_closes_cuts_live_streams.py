"""I/O: two data workers in this process, each with a clock of its own: a stream lives as long as its rule holds at both.

program ── worker a ══ tunnel over TCP ══ worker b ── echo
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from agents.workers import data_worker
from agents.workers import messages as m
from agents.workers.channel import Channel
from agents.workers.streams import Streams
from bridge.flows import Flow
from inventory.authority import AuthorityState
from inventory.model import Host, Instance, Presence
from inventory.policy_rules import Rule, parse_until
from tests.support.memory_tls import TRUST_DOMAIN, TrustDomain
from tests.support.servers import echo, serving

EDGE = parse_until("2026-11-22") + 12.5 * 3600
"""Half past twelve of the next day, when the window closes."""
WINDOW = Rule(name="lunch", effect="allow", sources=("host:a",), to=("timed",), when="11:00-12:30 UTC")
ALWAYS = Rule(name="always", effect="allow", sources=("host:a",), to=("always",))
PATIENCE = 10.0


class Clock:
    """A wall clock that goes on by itself, from where it was set."""

    def __init__(self) -> None:
        self.set(EDGE - 1800)

    def set(self, at: float) -> None:
        self._ahead = at - time.monotonic()

    def __call__(self) -> float:
        return self._ahead + time.monotonic()


class Worker:
    """The supervisor's side of one worker: tells it things, and keeps its flow records."""

    def __init__(self, sock: socket.socket) -> None:
        self.channel: Channel[Any, Any] = Channel(sock, m.FromWorker)
        self.flows: list[Flow] = []
        self.adopted = trio.Event()
        self.error = ""

    async def listen(self) -> None:
        while True:
            message, fds = await self.channel.receive()
            for sock in fds:
                sock.close()
            if isinstance(message, m.WorkerReport):
                self.flows += message.flows
            elif isinstance(message, m.Adopted):
                self.error = message.error
                self.adopted.set()

    async def dial(self, service: str) -> trio.SocketStream:
        """A stream to the service, accepted by its far end."""
        ours, theirs = socket.socketpair()
        self.adopted = trio.Event()
        with theirs:
            await self.channel.send(m.Adopt(id=1, service=service, site=None, user=None), [theirs.fileno()])
        await self.adopted.wait()
        assert not self.error, self.error
        return trio.SocketStream(trio.socket.from_stdlib_socket(ours))

    def cut(self) -> list[str]:
        """Reasons of the streams that were cut."""
        return [flow.reason for flow in self.flows if flow.result == "cut"]


class Workers:
    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.clocks = {"a": Clock(), "b": Clock()}
        self.a: Worker
        self.b: Worker
        self._domain = TrustDomain(folder, time.time())
        self._folder = folder
        self._nursery = nursery

    async def start(self, target: str) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        at = f"127.0.0.1:{listener.getsockname()[1]}"
        instances = [Instance(service=name, host="b", target=target, port=1) for name in ("timed", "always")]
        state = AuthorityState(
            number=1,
            trust_domain=TRUST_DOMAIN,
            hosts={name: Host(name=name) for name in "ab"},
            instances={instance.id: instance for instance in instances},
        )
        placement = m.Placement(
            revision=1, presence={"b": Presence(host="b", online=True, advertise=at)}, reported={}, health={}
        )
        for name in "ab":
            worker = await self._start_one(name)
            await worker.channel.send(m.Authority(state=state, allows=(WINDOW, ALWAYS)))
            await worker.channel.send(placement)
            setattr(self, name, worker)
        with listener:
            await self.b.channel.send(m.ListenTunnels(), [listener.fileno()])

    async def _start_one(self, name: str) -> Worker:
        home = self._folder / name
        home.mkdir()
        self._domain.identity(f"host/{name}").rename(home / "identity.pem")
        (home / "identity.pem").chmod(0o600)
        ours, theirs = socket.socketpair()
        self._nursery.start_soon(data_worker.run, theirs.detach())
        worker = Worker(ours)
        root = self._domain.root_pem
        begin = m.Begin(
            home=str(home), trust_domain=TRUST_DOMAIN, role="host", name=name, site=None, root_certificate=root
        )
        await worker.channel.send(begin)
        self._nursery.start_soon(worker.listen)
        return worker


@contextlib.asynccontextmanager
async def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    async with serving(echo) as port, trio.open_nursery() as nursery:
        workers = Workers(folder, nursery)

        def with_its_clock(loop: Any, owner: Any, tally: Any, snapshot: Any) -> Streams:
            return Streams(loop, owner, tally, snapshot, now=workers.clocks[owner.name])

        monkeypatch.setattr(data_worker, "Streams", with_its_clock)
        with trio.fail_after(60):
            await workers.start(f"127.0.0.1:{port}")
            yield workers
        nursery.cancel_scope.cancel()


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
async def test_a_stream_ends_when_its_window_does_at_either_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    async with running(tmp_path, monkeypatch) as workers:
        timed, always = await workers.a.dial("timed"), await workers.a.dial("always")
        # Close to the edge from here on; moving the clock there is itself a reason to look again.
        workers.clocks[late].set(EDGE - 3)
        assert await goes_on(timed)
        took = await seconds_until_cut(timed)
        assert 1.0 < took < 3.0 + 1.5, f"cut after {took:.1f} s, due after 3"
        assert await goes_on(always), "no other stream of the tunnel notices"
        with trio.fail_after(PATIENCE):
            while not (getattr(workers, late).cut() and workers.a.cut()):
                await trio.sleep(0.02)
        assert "of rule 'lunch', it holds only 11:00-12:30 UTC" in getattr(workers, late).cut()[0]


@pytest.mark.parametrize("jump", [+3600.0, -7200.0, 400 * 86400.0])
async def test_f32_a_clock_that_is_set_ends_what_no_longer_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    async with running(tmp_path, monkeypatch) as workers:
        timed, always = await workers.a.dial("timed"), await workers.a.dial("always")
        assert await goes_on(timed)
        workers.clocks["b"].set(EDGE - 1800 + jump)
        assert await seconds_until_cut(timed) < 2.5
        assert await goes_on(always)
        workers.clocks["b"].set(EDGE - 1800)
        with trio.fail_after(PATIENCE):
            while True:  # no harm is left once the clock is right
                again = await _dialled(workers.a)
                if again is not None:
                    break
                await trio.sleep(0.02)
        assert await goes_on(again)


async def _dialled(worker: Worker) -> trio.SocketStream | None:
    try:
        return await worker.dial("timed")
    except AssertionError:
        return None
