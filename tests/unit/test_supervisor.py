"""I/O: the supervisor's hold on its workers, with workers of the test's own at the other ends of the socketpairs."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from agents.data_workers import DataWorkers
from agents.handover import LeftWorker
from agents.supervisor import DataWorkerProcess, Latest, is_held
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from agents.workers.shares import Shares
from bridge import limits
from bridge.counters import CounterDeltas
from inventory.authority import AuthorityState
from inventory.errors import Unavailable
from inventory.model import Host, Publication, Reach

BEGIN = m.Begin(home="/h", trust_domain="t.internal", role="host", name="vm1", site=None, root_certificate="")


def authority(number: int) -> m.Authority:
    return m.Authority(state=AuthorityState(number=number), allows=())


def placement(revision: int) -> m.Placement:
    return m.Placement(revision=revision, presence={}, reported={}, health={})


def change(revision: int) -> m.PlacementChanged:
    return m.PlacementChanged(revision=revision, presence={}, reported={}, health={})


def place(workers: DataWorkers, revision: int) -> None:
    workers.know_placement(change(revision), lambda: placement(revision))


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
        begin = await self.hear()
        assert isinstance(begin, m.Begin) and msgspec.structs.replace(begin, row=0) == BEGIN
        await self.channel.send(m.Started(pid=self.pid))


@dataclass
class Supervised:
    """The thing under test, its owner, and all that it did."""

    count: int = 1
    inherited: tuple[LeftWorker, ...] = ()
    told: bytes = b""
    started: list[FakeWorker] = field(default_factory=list)
    said: list[m.FromWorker] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    starts: int = 0
    hear: Callable[[m.FromWorker], None] | None = None
    away: trio.Event | None = None
    """Until it is set, nobody finds the way to the node."""
    start_error: OSError | None = None
    held: set[int] = field(default_factory=set)
    workers: DataWorkers = field(init=False)
    asker: DataWorkerProcess = field(init=False)
    """Who said something last."""
    _begun: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.workers = DataWorkers(
            BEGIN, self.count, self, start=self._begin, inherited=self.inherited, told=self.told,
            is_held=self.held.__contains__,
        )  # fmt: skip

    def worker_started(self, worker: DataWorkerProcess) -> None:
        self.starts += 1

    def worker_ended(self, worker: DataWorkerProcess) -> None:
        self.ended.append(worker.pid)

    async def reachable(self) -> None:
        if self.away is not None:
            await self.away.wait()

    async def worker_said(self, worker: DataWorkerProcess, message: m.FromWorker, socks: list[socket.socket]) -> None:
        self.asker = worker
        self.said.append(message)
        for sock in socks:
            sock.close()
        if self.hear is not None:
            self.hear(message)

    def _begin(self, sock: socket.socket, page: int) -> FakeWorker:
        if self.start_error is not None:
            raise self.start_error
        worker = FakeWorker(1000 + len(self.started), Channel(sock.dup(), m.ToWorker))
        self.started.append(worker)
        self._begun.set()
        self._begun = trio.Event()
        return worker

    async def worker(self, number: int) -> FakeWorker:
        """The worker of this number, once there is one."""
        while len(self.started) <= number:
            await self._begun.wait()
        return self.started[number]

    @property
    def restarts(self) -> int:
        return sum(int(row["restarts"] or 0) for row in self.workers.status())


@asynccontextmanager
async def supervised(count: int = 1) -> AsyncIterator[Supervised]:
    made = Supervised(count)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.workers.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_a_new_worker_is_told_all_that_the_old_one_knew(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        await made.started[0].start()
        await settled()
        made.workers.know(authority(1))
        place(made.workers, 1)
        made.workers.know(authority(2))
        sock = socket.socket(socket.AF_UNIX)
        made.workers.listen(listen(80), sock)
        assert made.starts == 1
        made.started[0].channel.close()
        second = await made.worker(1)
        assert made.ended == [1000] and made.started[0].killed and made.restarts == 1
        await second.start()
        heard = [await second.hear() for _ in range(3)]
        assert heard == [authority(2), placement(1), listen(80)]
        await settled()
        assert made.starts == 2 and [worker.pid for worker in made.workers] == [1001]
    assert sock.fileno() == -1, "the listening sockets end with the supervisor"


async def test_what_is_told_while_a_worker_is_introduced_is_not_lost_or_overtaken() -> None:
    """A revocation that comes in that very moment must reach the new worker, and come last."""
    async with supervised() as made:
        worker = made.started[0]
        made.workers.know(authority(1))
        place(made.workers, 1)
        await worker.start()
        while not made.workers.tell_one(m.ListStreams(id=1)):
            await trio.lowlevel.checkpoint()
        made.workers.know(authority(2))
        place(made.workers, 2)
        made.workers.tell_one(m.ListStreams(id=2))
        heard: list[m.ToWorker] = []
        while m.ListStreams(id=2) not in heard:
            heard.append(await worker.hear())
        assert [h for h in heard if isinstance(h, m.Authority)][-1] == authority(2)
        kinds = m.Placement | m.PlacementChanged
        assert [h for h in heard if isinstance(h, kinds)] == [placement(1), change(2)]


async def test_a_worker_is_told_what_changed_in_its_order_and_its_replacement_the_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with supervised() as made:
        await made.started[0].start()
        await settled()
        made.workers.know(authority(1))
        place(made.workers, 1)
        made.workers.know(authority(2))
        place(made.workers, 2)
        heard = [await made.started[0].hear() for _ in range(4)]
        assert heard == [authority(1), change(1), authority(2), change(2)]
        made.started[0].channel.close()
        second = await made.worker(1)
        await second.start()
        assert [await second.hear() for _ in range(2)] == [authority(2), placement(2)]


async def test_a_socket_that_was_taken_back_is_not_given_to_the_next_worker() -> None:
    async with supervised() as made:
        kept, gone = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        made.workers.listen(listen(80), gone)
        made.workers.listen(listen(81), kept)
        made.workers.unlisten("127.96.0.2", 80)
        assert gone.fileno() == -1
        await made.started[0].start()
        assert await made.started[0].hear() == listen(81)


async def test_a_worker_that_hangs_is_replaced_and_holds_up_no_other(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised(2) as made:
        for worker in made.started:
            await worker.start()
        await settled()
        before = trio.current_time()
        for number in range(100):
            made.workers.know(m.Drain(reason=f"{number} " + "x" * 100_000))
        for number in range(100):
            heard = await made.started[1].hear()
            assert isinstance(heard, m.Drain) and heard.reason.startswith(f"{number} ")
        assert trio.current_time() == before
        await made.worker(2)
        assert trio.current_time() - before == pytest.approx(limits.WORKER_SEND_TIMEOUT)
        assert made.started[0].killed and not made.started[1].killed


REPORT = m.WorkerReport(tunnels=(), streams=0, counters=CounterDeltas(), flows=())


async def look(made: Supervised, seconds: float) -> None:
    """As a node does, once a second."""
    for _ in range(int(seconds)):
        made.workers.look(1.0)
    await settled()


async def test_a_worker_that_says_nothing_is_told_of_until_it_answers() -> None:
    async with supervised(2) as made:
        for worker in made.started:
            await worker.start()
        await settled()
        await look(made, limits.WORKER_SILENT)
        assert made.workers.silent() == []
        await made.started[1].channel.send(REPORT)
        await settled()
        await look(made, 2)
        [said] = made.workers.silent()
        assert said.startswith("data worker 1000 has said nothing for 17 s") and "kill -9 1000" in said
        await made.started[0].channel.send(REPORT)
        await settled()
        assert made.workers.silent() == []


async def test_a_worker_that_says_nothing_for_too_long_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised(2) as made:
        for worker in made.started:
            await worker.start()
        await settled()
        await look(made, limits.WORKER_SILENT)
        await made.started[1].channel.send(REPORT)
        await settled()
        await look(made, limits.WORKER_HANGS)
        assert not made.started[0].killed
        await look(made, 1)
        assert made.started[0].killed and not made.started[1].killed
        await (await made.worker(2)).start()
        await settled()
        assert {worker.pid for worker in made.workers} == {1001, 1002}


async def test_a_worker_that_is_stopped_is_not_replaced_and_has_time_when_it_goes_on() -> None:
    async with supervised() as made:
        await made.started[0].start()
        await settled()
        made.held.add(1000)
        await look(made, 3600)
        [said] = made.workers.silent()
        assert "stopped it" in said and "kill -CONT 1000" in said
        made.held.clear()
        await look(made, limits.WORKER_HANGS)
        assert not made.started[0].killed
        await made.started[0].channel.send(REPORT)
        await settled()
        await look(made, limits.WORKER_SILENT)
        assert made.workers.silent() == [] and not made.started[0].killed


def test_a_stopped_process_is_known() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        assert not is_held(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert is_held(child.pid)
        child.kill()
    assert not is_held(child.pid)


async def test_a_worker_that_is_told_more_than_it_takes_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        await made.started[0].start()
        await settled()
        before = trio.current_time()
        for _ in range(limits.WORKER_OUTBOX_MAX + 2):
            made.workers.tell_all(m.Drain(reason="x" * 1000))
        await made.worker(1)
        assert made.started[0].killed and trio.current_time() - before < 1


async def test_a_worker_that_served_for_a_while_is_replaced_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """And one that dies again and again makes the next one wait, longer and longer."""
    async with supervised() as made:
        await made.started[0].start()
        await trio.sleep(limits.WORKER_SETTLED + 0.1)
        before = trio.current_time()
        made.started[0].channel.close()
        await made.worker(1)
        assert trio.current_time() == before
        for number in range(1, 40):
            (await made.worker(number)).channel.close()
        await made.worker(40)
        assert trio.current_time() - before > 60


async def test_what_is_for_one_goes_to_the_one_that_carries_the_least() -> None:
    async with supervised(3) as made:
        shares = []
        for worker in made.started:
            begin = await worker.hear()
            assert isinstance(begin, m.Begin)
            shares.append(Shares(os.dup(made.workers._board.fd), begin.row))
            await worker.channel.send(m.Started(pid=worker.pid))
        await settled()
        for mine, streams in zip(shares, (5, 0, 1), strict=True):
            mine.publish(accepts=True, streams=streams, tunnels=0)
        chosen = [made.workers.tell_one(m.ListStreams(id=number)) for number in range(5)]
        pids = [worker.pid for worker in chosen if worker is not None]
        assert pids[0] == 1001 and sorted(pids) == [1001, 1001, 1001, 1002, 1002], "what was given counts at once"
        made.started[1].channel.close()
        await settled()
        last = made.workers.tell_one(m.ListStreams(id=9))
        assert last is not None and last.pid == 1002
        for mine in shares:
            mine.close()


async def test_all_are_told_what_all_must_know() -> None:
    async with supervised(2) as made:
        for worker in made.started:
            await worker.start()
        await settled()
        made.workers.know(authority(1))
        sock = socket.socket(socket.AF_UNIX)
        made.workers.listen(listen(80), sock)
        for worker in made.started:
            assert [await worker.hear(), await worker.hear()] == [authority(1), listen(80)]


async def test_a_socket_given_to_nobody_is_closed() -> None:
    async with supervised() as made:
        sock = socket.socket(socket.AF_UNIX)
        assert made.workers.tell_one(m.OpenControl(gateway="gw1", address="127.0.0.1:1"), [sock]) is None
        assert sock.fileno() == -1
        await made.started[0].start()
        await settled()
        sock = socket.socket(socket.AF_UNIX)
        assert made.workers.tell_one(m.OpenControl(gateway="gw1", address="127.0.0.1:1"), [sock])
        made.started[0].channel.close()
        await settled()
        assert sock.fileno() == -1


async def renewed(made: Supervised, nursery: trio.Nursery) -> list[FakeWorker]:
    """A new generation that has started; those that serve now."""
    first = len(made.started)
    nursery.start_soon(made.workers.renew)
    count = len(made.workers._serving.slots)
    new = [await made.worker(number) for number in range(first, first + count)]
    for worker in new:
        await worker.start()
    await settled()
    return new


async def test_f10_a_new_generation_takes_over_when_all_of_it_is_ready(nursery: trio.Nursery) -> None:
    async with supervised(2) as made:
        old = list(made.started)
        for worker in old:
            await worker.start()
        await settled()
        sock = socket.socket(socket.AF_UNIX)
        made.workers.listen(listen(80), sock)
        nursery.start_soon(made.workers.renew)
        third, fourth = await made.worker(2), await made.worker(3)
        await third.start()
        assert await third.hear() == listen(80), "the same sockets"
        for worker in old:
            assert await worker.hear() == listen(80)
        made.workers.know(authority(1))
        for worker in (*old, third):
            assert await worker.hear() == authority(1), "nobody was told to end: one is not ready"
        await fourth.start()
        for worker in old:
            assert await worker.hear() == m.Retire()
        made.workers.know(authority(2))
        made.workers.listen(listen(81), socket.socket(socket.AF_UNIX))
        for worker in (third, fourth):
            while await worker.hear() != listen(81):
                pass
        for worker in old:
            assert await worker.hear() == authority(2), "old streams are judged by what is known now"
        assert [row["state"] for row in made.workers.status()] == ["serving", "serving", "ending", "ending"]
        for worker in old:
            worker.channel.close()
        await settled()
        assert len(made.started) == 4 and sorted(made.ended) == [1000, 1001], "nobody takes the place of an old one"
        assert {row["pid"] for row in made.workers.status()} == {1002, 1003} and made.restarts == 0


async def test_new_workers_that_do_not_start_change_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        await made.started[0].start()
        await settled()
        reasons = []
        async with trio.open_nursery() as nursery:

            async def renew() -> None:
                with pytest.raises(Unavailable) as caught:
                    await made.workers.renew()
                reasons.append(caught.value.what)

            nursery.start_soon(renew)
            (await made.worker(1)).channel.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(renew)
            await made.worker(2)  # says nothing
        assert "is gone" in reasons[0] and "do not start" in reasons[1]
        await trio.sleep(60)
        assert len(made.started) == 3 and not made.started[0].killed
        assert [row["pid"] for row in made.workers.status()] == [1000]
        made.workers.know(authority(1))
        assert await made.started[0].hear() == authority(1)


async def test_only_so_many_old_generations_linger(nursery: trio.Nursery) -> None:
    async with supervised() as made:
        await made.started[0].start()
        await settled()
        for _ in range(limits.OLD_GENERATIONS_MAX):
            await renewed(made, nursery)
        with pytest.raises(Unavailable, match="2 generations of workers were still ending") as caught:
            await made.workers.renew()
        assert "SIGHUP again" in caught.value.hint
        made.started[0].channel.close()
        await settled()
        await renewed(made, nursery)
        assert [row["state"] for row in made.workers.status()] == ["serving", "ending", "ending"]


async def test_a_worker_that_is_still_starting_when_others_take_over_ends_as_well(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with supervised() as made:
        await made.started[0].start()
        await trio.sleep(limits.WORKER_SETTLED + 1)
        made.started[0].channel.close()
        replacement = await made.worker(1)
        await renewed(made, nursery)
        await replacement.start()
        assert await replacement.hear() == m.Retire()


async def test_f10_workers_go_over_to_another_program_and_end_when_its_own_are_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agents.supervisor.InheritedProcess", lambda pid: FakeWorker(pid, before.started[0].channel))
    before = Supervised(1)
    sock = socket.create_server(("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(before.workers.run)
        await settled()
        old = before.started[0]
        await old.start()
        await settled()
        before.workers.listen(listen(80), sock)
        assert await old.hear() == listen(80)
        before.workers.leave()
        nursery.cancel_scope.cancel()
    number = sock.fileno()
    listening, left = before.workers.left()
    assert listening == (number,) and sock.fileno() == -1 and not old.killed
    sock = socket.socket(fileno=number)
    async with trio.open_nursery() as nursery:
        after = Supervised(1, inherited=left)
        nursery.start_soon(after.workers.run)
        await settled()
        await old.channel.send(m.Notice(event="still", text="here"))
        await old.channel.send(m.Adopted(id=1))
        await settled()
        assert after.said == [m.Notice(event="still", text="here")], "answers are not to questions of ours"
        after.workers.know(authority(1))
        await after.started[0].start()
        assert await old.hear() == m.Retire(), "and nothing else of what the others were told"
        await old.channel.send(m.Notice(event="the", text="last"))
        assert [row["state"] for row in after.workers.status()] == ["serving", "ending"]
        old.channel.close()
        await settled()
        assert after.said[-1] == m.Notice(event="the", text="last") and after.ended == [old.pid]
        assert [row["state"] for row in after.workers.status()] == ["serving"]
        nursery.cancel_scope.cancel()
    sock.close()


def inherit(monkeypatch: pytest.MonkeyPatch, **left: Any) -> tuple[LeftWorker, FakeWorker]:
    """A worker that another program left."""
    ours, theirs = socket.socketpair()
    process = FakeWorker(4711, Channel(theirs, m.ToWorker))
    monkeypatch.setattr("agents.supervisor.InheritedProcess", lambda _: process)
    return LeftWorker(pid=4711, channel=ours.detach(), **{"unread": b"", "streams": 3, **left}), process


async def test_f10_an_old_worker_goes_on_until_others_find_the_way_to_the_new_ones(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    left, old = inherit(monkeypatch)
    async with trio.open_nursery() as nursery:
        made = Supervised(1, inherited=(left,), away=trio.Event())
        nursery.start_soon(made.workers.run)
        await settled()
        await made.started[0].start()
        with trio.move_on_after(60):
            raise AssertionError(f"it was told {await old.hear()}")
        assert made.away is not None
        made.away.set()
        assert await old.hear() == m.Retire()
        nursery.cancel_scope.cancel()


async def test_f10_what_an_old_worker_asks_or_was_not_answered_yet_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has connections that wait for a path, and nobody else to ask."""
    whole = m.PathFailed(peer="vm2", reason="no")
    half = len(body := msgspec.msgpack.encode(whole)).to_bytes(4, "big") + body
    left, old = inherit(monkeypatch, paths={"vm3": ("gw1",)}, unsent=half[7:])
    async with trio.open_nursery() as nursery:
        made = Supervised(1, inherited=(left,))
        nursery.start_soon(made.workers.run)
        await settled()
        assert made.said == [m.PathNeeded(peer="vm3", avoid=("gw1",))]
        # What the program before had begun to tell it is told to the end.
        old.channel.put_back(half[:7], b"")
        found = m.PathFound(peer="vm3", gateway="gw2", address="10.0.0.1:1", ticket="t")
        made.asker.answer(found)
        assert [await old.hear(), await old.hear()] == [whole, found]
        await old.channel.send(m.PathNeeded(peer="vm4"))
        await settled()
        assert made.said[1:] == [m.PathNeeded(peer="vm4")]
        made.workers.tell_all(m.LeaveGateway(gateway="gw1", reason="r"))
        made.asker.answer(m.PathFailed(peer="vm4", reason="none"))
        assert await old.hear() == m.PathFailed(peer="vm4", reason="none")
        nursery.cancel_scope.cancel()


async def test_an_old_worker_that_cannot_be_understood_is_told_to_end_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, old = inherit(monkeypatch, unread=b"\x00\x00\x00\x04what")
    async with trio.open_nursery() as nursery:
        made = Supervised(1, inherited=(left,))
        nursery.start_soon(made.workers.run)
        await settled()
        await made.started[0].start()
        with pytest.raises(ChannelClosed):
            await old.hear()
        assert not old.channel.is_gone and not made.ended
        nursery.cancel_scope.cancel()


async def test_f10_what_was_asked_and_not_answered_goes_over() -> None:
    async with supervised() as made:
        [worker] = made.started
        await worker.start()
        await worker.channel.send(m.PathNeeded(peer="vm2"))
        await settled()
        made.asker.paths["vm2"] = ()
        made.asker.paths["vm3"] = ()
        made.asker.answer(m.PathFailed(peer="vm3", reason="no"))
        made.workers.know(authority(1))
        with trio.fail_after(1):
            await made.workers.all_said()
        made.workers.leave()
    _, [left] = made.workers.left()
    assert left.paths == {"vm2": ()} and not left.unsent
    assert await worker.hear() == m.PathFailed(peer="vm3", reason="no") and await worker.hear() == authority(1)
    worker.channel.close()
    os.close(left.channel)


VM1, VM2 = {"vm1": Host(name="vm1")}, {"vm2": Host(name="vm2")}
PUBLISHED = {"web/gateway:gw1/10.0.0.1:80": Publication(service="web", gateway="gw1", listen="10.0.0.1:80")}
REACHED = {"vm1": Reach(host="vm1", gateway="gw1", url="tcp://10.0.0.7")}


@pytest.mark.parametrize("is_told", [True, False], ids=["while it is heard", "while nobody could tell it"])
@pytest.mark.parametrize(
    ("before", "after", "less"),
    [
        ({"hosts": VM1}, {"hosts": VM2}, True),
        ({"hosts": VM1}, {"hosts": VM1 | VM2}, False),
        ({"hosts": VM1}, {"hosts": {"vm1": Host(name="vm1", draining="upgrade", serving_only=True)}}, False),
        ({"hosts": VM1}, {"hosts": {"vm1": Host(name="vm1", draining="upgrade")}}, True),
        ({"hosts": {"vm1": Host(name="vm1", draining="upgrade")}}, {"hosts": VM1}, False),
        ({"hosts": {"vm1": Host(name="vm1", draining="upgrade")}}, {"hosts": VM2}, True),
        ({"publications": PUBLISHED}, {}, True),
        ({}, {"publications": PUBLISHED}, False),
        ({"reaches": REACHED}, {}, True),
        ({}, {"reaches": REACHED}, False),
    ],
)
async def test_c31_a_worker_of_another_version_is_ended_when_less_is_allowed(
    monkeypatch: pytest.MonkeyPatch, before: dict[str, Any], after: dict[str, Any], less: bool, is_told: bool
) -> None:
    """It cannot be told, so it must not decide any longer: also when the change came between two programs."""
    left, process = inherit(monkeypatch)
    authority_before = m.Authority(state=AuthorityState(number=1, **before), allows=())
    async with supervised() as made:
        made.workers.know(authority_before)
        told = b"" if is_told else made.workers.told
    async with trio.open_nursery() as nursery:
        made = Supervised(1, inherited=(left,), told=told)
        nursery.start_soon(made.workers.run)
        await settled()
        if is_told:
            made.workers.know(authority_before)
        assert made.workers.streams == made.workers.inherited_streams == 3
        made.workers.know(m.Authority(state=AuthorityState(number=2, **after), allows=()))
        await settled()
        assert made.ended == ([4711] if less else []) and process.killed is less
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("told", "less"), [(b"of another version", True), (b"", False), (None, False)])
async def test_c31_what_an_old_worker_was_told_is_compared_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, told: bytes | None, less: bool
) -> None:
    """The last case: a node that knows less than it did, because its disk was full, takes nothing away by that."""
    left, _ = inherit(monkeypatch)
    if told is None:
        told = msgspec.msgpack.encode(m.Authority(state=AuthorityState(number=3, hosts=VM1), allows=()))
    async with trio.open_nursery() as nursery:
        made = Supervised(1, inherited=(left,), told=told)
        nursery.start_soon(made.workers.run)
        await settled()
        made.workers.know(authority(2))
        await settled()
        assert made.ended == ([4711] if less else [])
        nursery.cancel_scope.cancel()


async def test_a_node_that_leaves_and_goes_on_in_the_same_process_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    async with supervised() as made:
        [worker] = made.started
        await worker.start()
        await settled()
        made.workers.leave()
    _, [left] = made.workers.left()
    worker.channel.close()
    os.close(left.channel)
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def test_a_worker_that_never_starts_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        await made.worker(1)
        assert trio.current_time() >= limits.WORKER_START_TIMEOUT
        assert made.started[0].killed and made.starts == 0


async def test_a_worker_that_says_why_it_cannot_start_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    async with supervised() as made:
        notice = m.Notice(event="worker-cannot-start", text="the identity cannot be used")
        await made.started[0].hear()
        await made.started[0].channel.send(notice)
        await trio.sleep(1)
        assert made.said == [notice] and made.started[0].killed


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENOMEM, errno.EAGAIN])
async def test_f29_a_process_that_cannot_be_started_is_tried_again(
    error: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with supervised() as made:
        made.start_error = OSError(error, os.strerror(error))
        made.started[0].channel.close()
        await trio.sleep(60)
        made.start_error = None
        await (await made.worker(1)).start()
        await settled()
        assert made.starts == 1 and made.restarts > 1


async def test_a_message_whose_handler_has_a_bug_costs_that_message_only() -> None:
    def broken(message: m.FromWorker) -> None:
        raise KeyError(str(message))

    async with supervised() as made:
        worker = made.started[0]
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
        worker = made.started[0]
        await worker.start()
        await worker.channel.send(m.ListStreams(id=1))  # type: ignore[arg-type]
        await trio.sleep(1)
        assert worker.killed


async def test_nothing_is_told_when_nobody_is_there() -> None:
    async with supervised() as made:
        assert not made.workers.tell_one(m.ListStreams(id=1)), "it has not started yet"
        made.started[0].channel.close()
        await settled()
        assert not made.workers.tell_one(m.ListStreams(id=1))


async def test_descriptors_end_with_the_worker_they_were_for() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with supervised() as made:
        await made.started[0].start()
        sock = socket.socket(socket.AF_UNIX)
        made.workers.listen(listen(80), sock)
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
        worker = made.started[0]
        await worker.start()
        spare = Channel[m.FromWorker, m.ToWorker](worker.channel._sock.dup(), m.ToWorker)
    with pytest.raises(ChannelClosed):
        while True:
            await spare.receive()
    spare.close()


async def test_c35_a_host_that_connects_without_end_costs_no_worker_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_BEHIND", 3)
    async with supervised() as made:
        await made.started[0].start()
        await settled()
        others: list[socket.socket] = []
        for _ in range(2 * limits.WORKER_BEHIND):
            sock, other = socket.socketpair()
            others.append(other)
            made.workers.hand_on(m.AdoptForwarded(host="aix1", service="web"), (sock, sock.dup()))
        for other in others:
            other.setblocking(False)
        closed = [other for other in others if _has_ended(other)]
        assert len(closed) == limits.WORKER_BEHIND - 1 and not made.started[0].killed
        await settled()
        for other in others:
            other.close()


def _has_ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
