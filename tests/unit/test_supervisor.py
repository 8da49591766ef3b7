"""I/O: the supervisor's hold on its worker, with a worker of the test's own at the other end of the socketpair."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio
import trio.testing

from agents.supervisor import DataWorkerProcess, Latest
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from bridge import limits
from inventory.authority import AuthorityState

BEGIN = m.Begin(home="/h", trust_domain="t.internal", role="host", name="vm1", site=None, root_certificate="")


def authority(number: int) -> m.Authority:
    return m.Authority(state=AuthorityState(number=number), allows=())


def placement(revision: int) -> m.Placement:
    return m.Placement(revision=revision, presence={}, reported={}, health={})


def listen(port: int) -> m.Listen:
    return m.Listen(service="web", site=None, address="127.96.0.2", port=port)


@dataclass
class FakeWorker:
    """A process of the test's own: `channel` is its end."""

    pid: int
    channel: Channel[m.FromWorker, m.ToWorker]
    killed: bool = False

    def kill(self) -> None:
        self.killed = True
        self.channel.close()

    def wait(self) -> int:
        assert self.killed
        return -9

    async def hear(self) -> m.ToWorker:
        message, socks = await self.channel.receive()
        for sock in socks:
            sock.close()
        return message

    async def start(self) -> None:
        assert await self.hear() == BEGIN
        await self.channel.send(m.Started(pid=self.pid))


@dataclass
class Supervised:
    """The thing under test and all that it did."""

    workers: list[FakeWorker] = field(default_factory=list)
    said: list[m.FromWorker] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    starts: int = 0
    hear: Callable[[m.FromWorker], None] | None = None
    start_error: OSError | None = None
    process: DataWorkerProcess = field(init=False)
    _begun: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.process = DataWorkerProcess(
            BEGIN, on_message=self._message, on_start=self._start, on_end=self.ended.append, start=self._begin
        )

    def _start(self) -> None:
        self.starts += 1

    def _begin(self, sock: socket.socket) -> FakeWorker:
        if self.start_error is not None:
            raise self.start_error
        worker = FakeWorker(1000 + len(self.workers), Channel(sock.dup(), m.ToWorker))
        self.workers.append(worker)
        self._begun.set()
        self._begun = trio.Event()
        return worker

    async def worker(self, number: int) -> FakeWorker:
        """The worker of this number, once there is one."""
        while len(self.workers) <= number:
            await self._begun.wait()
        return self.workers[number]

    async def _message(self, message: m.FromWorker, socks: list[socket.socket]) -> None:
        self.said.append(message)
        for sock in socks:
            sock.close()
        if self.hear is not None:
            self.hear(message)


@asynccontextmanager
async def supervised() -> AsyncIterator[Supervised]:
    made = Supervised()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.process.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_new_worker_is_told_all_that_the_old_one_knew(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        await made.workers[0].start()
        await settled()
        await made.process.know(authority(1))
        await made.process.know(placement(1))
        await made.process.know(authority(2))
        sock = socket.socket(socket.AF_UNIX)
        await made.process.listen(listen(80), sock)
        assert made.starts == 1
        made.workers[0].channel.close()
        second = await made.worker(1)
        assert made.ended == [1000] and made.workers[0].killed and made.process.restarts == 1
        await second.start()
        heard = [await second.hear() for _ in range(3)]
        assert heard == [authority(2), placement(1), listen(80)]
        await settled()
        assert made.starts == 2 and made.process.pid == 1001
    assert sock.fileno() == -1, "the listening sockets end with the supervisor"


async def test_what_is_told_while_a_worker_is_introduced_is_not_lost_or_overtaken() -> None:
    """A revocation that comes in that very moment must reach the new worker, and come last."""
    async with supervised() as made:
        worker = made.workers[0]
        await made.process.know(authority(1))
        await made.process.know(placement(1))
        assert await worker.hear() == BEGIN
        await worker.channel.send(m.Started(pid=1))
        while not await made.process.tell(m.ListStreams(id=1)):
            await trio.lowlevel.checkpoint()
        await made.process.know(authority(2))
        await made.process.know(placement(2))
        await made.process.tell(m.ListStreams(id=2))
        heard: list[m.ToWorker] = []
        while m.ListStreams(id=2) not in heard:
            heard.append(await worker.hear())
        assert [h for h in heard if isinstance(h, m.Authority)][-1] == authority(2)
        assert [h for h in heard if isinstance(h, m.Placement)][-1] == placement(2)


async def test_a_socket_that_was_taken_back_is_not_given_to_the_next_worker() -> None:
    async with supervised() as made:
        kept, gone = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        await made.process.listen(listen(80), gone)
        await made.process.listen(listen(81), kept)
        await made.process.unlisten("127.96.0.2", 80)
        assert gone.fileno() == -1
        await made.workers[0].start()
        assert await made.workers[0].hear() == listen(81)


async def test_a_worker_that_hangs_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        await made.workers[0].start()
        await settled()
        before = trio.current_time()
        told = True
        while told:
            told = await made.process.tell(m.Drain(reason="x" * 100_000))
        assert trio.current_time() - before == pytest.approx(limits.WORKER_SEND_TIMEOUT)
        await made.worker(1)
        assert made.workers[0].killed


async def test_a_worker_that_never_starts_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        await made.worker(1)
        assert trio.current_time() >= limits.WORKER_START_TIMEOUT
        assert made.workers[0].killed and made.starts == 0


async def test_a_worker_that_says_why_it_cannot_start_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        notice = m.Notice(event="worker-cannot-start", text="the identity cannot be used")
        assert await made.workers[0].hear() == BEGIN
        await made.workers[0].channel.send(notice)
        await trio.sleep(1)
        assert made.said == [notice] and made.workers[0].killed


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN])
async def test_f29_a_process_that_cannot_be_started_is_tried_again(
    error: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with supervised() as made:
        made.start_error = OSError(error, os.strerror(error))
        made.workers[0].channel.close()
        await trio.sleep(60)
        made.start_error = None
        await (await made.worker(1)).start()
        await settled()
        assert made.starts == 1 and made.process.restarts > 1


async def test_a_message_whose_handler_has_a_bug_costs_that_message_only() -> None:
    def broken(message: m.FromWorker) -> None:
        raise KeyError(str(message))

    async with supervised() as made:
        worker = made.workers[0]
        await worker.start()
        made.hear = broken
        await worker.channel.send(m.PathNeeded(peer="vm2"))
        made.hear = None
        await worker.channel.send(m.PathNeeded(peer="vm3"))
        await settled()
        assert [s for s in made.said if isinstance(s, m.PathNeeded)] == [
            m.PathNeeded(peer="vm2"),
            m.PathNeeded(peer="vm3"),
        ]
        assert not worker.killed


async def test_a_worker_that_speaks_nonsense_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        worker = made.workers[0]
        await worker.start()
        await worker.channel.send(m.ListStreams(id=1))  # type: ignore[arg-type]
        await trio.sleep(1)
        assert worker.killed


async def test_nothing_is_told_when_nobody_is_there() -> None:
    async with supervised() as made:
        assert not await made.process.tell(m.ListStreams(id=1)), "it has not started yet"
        made.workers[0].channel.close()
        await settled()
        assert not await made.process.tell(m.ListStreams(id=1))


async def test_descriptors_end_with_the_worker_they_were_for() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with supervised() as made:
        await made.workers[0].start()
        sock = socket.socket(socket.AF_UNIX)
        await made.process.listen(listen(80), sock)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_wish_is_kept_until_it_is_asked_for_and_granted_once(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    wish = Latest()
    wish.ask()
    wish.ask()
    assert await wish.asked(within=5)
    assert not await wish.asked(within=5)
    assert trio.current_time() >= 5
    nursery.start_soon(partial(trio.to_thread.run_sync, lambda: None))
    wish.ask()
    assert await wish.asked()


async def test_channel_closed_is_what_a_fake_worker_sees_at_the_end() -> None:
    async with supervised() as made:
        worker = made.workers[0]
        await worker.start()
        spare = Channel[m.FromWorker, m.ToWorker](worker.channel._sock.dup(), m.ToWorker)
    with pytest.raises(ChannelClosed):
        while True:
            await spare.receive()
    spare.close()
