"""I/O: (fake ssh workers on socketpairs) how a gateway that became another version takes over from the ssh worker of
the one before, and what it leaves to the next.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from agents.handover import LeftSsh, LeftSshWorker
from agents.workers import ssh_messages as m
from agents.workers.channel import Channel, ChannelClosed
from agents.workers.last_hop import place_in
from bridge import limits
from inventory.model import Presence, Publication, Reach
from inventory.snapshot import Snapshot
from tests.support import authority as say
from tests.unit.test_reaching import AIX, OLD, FakeWorker, Gateway1, estate, running, until

UP = m.HopState(host="aix1", state="up")
DOWN = m.HopState(host="aix1", state="down", reason="its sshd is gone")
PUBLISHED = Publication(service="ledger", host="aix1", port=8000)


class OldWorker:
    """The process at the other end of a channel that was left."""

    def __init__(self, *, serves: bool = True, hosts: tuple[str, ...] = ("aix1",)) -> None:
        ours, self._sock = socket.socketpair()
        self.channel: Channel[m.FromSshWorker, m.ToSshWorker] = Channel(self._sock, m.ToSshWorker)
        # No child of this process has the number, so nothing is killed.
        self.is_left = False
        """To the version after the one that a test is about."""
        self.left = LeftSshWorker(pid=1, channel=ours.detach(), unread=b"", serves=serves, hosts=hosts)

    async def say(self, message: m.FromSshWorker) -> None:
        await self.channel.send(message)

    async def has_a_connection(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            forwarded = m.Forwarded(host="aix1", service="ledger", remote="x")
            await self.channel.send(forwarded, [ours.fileno(), theirs.fileno()])

    async def is_told_to_retire(self) -> None:
        with trio.fail_after(5), pytest.raises(ChannelClosed):
            await self.channel.receive()
        assert not self.channel.is_gone, "it is still heard"

    async def has_lost_us(self) -> None:
        with trio.fail_after(5), pytest.raises(ChannelClosed):
            await self.channel.receive()
        assert self.channel.is_gone


def left_by(*workers: OldWorker, number: int = 1) -> LeftSsh:
    listener = socket.socket(socket.AF_UNIX)
    return LeftSsh(listener=listener.detach(), number=number, workers=tuple(worker.left for worker in workers))


def known(*reaches: Reach) -> Snapshot:
    """As the version before left it: everybody is here, and a service is published at aix1."""
    made = estate(*reaches)
    here = {reach.host: Presence(host=reach.host, online=True, gateways=("gw1",)) for reach in reaches}
    return made.evolved(presence=here, authority=replace(made.authority, publications={PUBLISHED.id: PUBLISHED}))


@asynccontextmanager
async def after(home: Path, *old: OldWorker, number: int = 1) -> AsyncIterator[Gateway1]:
    """A gateway that has just become another version."""
    async with running(home, known(AIX, OLD), left_by(*old, number=number)) as gateway:
        yield gateway
    for worker in old:
        if not worker.is_left:
            worker.channel.close()
    for sock in (sock for _, socks in gateway.forwarded for sock in socks):
        sock.close()


def taken(gateway: Gateway1, *old: OldWorker) -> list[tuple[int, bool, tuple[str, ...]]]:
    """What is left to the next version: which workers, whether they serve, and what they reach."""
    left = gateway.reaching.left()
    assert left is not None and left.number == 1
    for worker in old:
        assert not worker.channel.is_gone
    for one in left.workers:
        os.close(one.channel)
    os.close(left.listener)
    for worker in old:
        worker.channel.close()
    return [(one.pid, one.serves, one.hosts) for one in left.workers]


async def hears(worker: FakeWorker) -> m.LastHops:
    with trio.fail_after(5):
        told = await worker.hear()
    assert isinstance(told, m.LastHops)
    return told


async def test_ours_serves_once_it_has_reached_what_the_one_before_reaches(tmp_path: Path) -> None:
    old = OldWorker()
    async with after(tmp_path, old) as gateway:
        worker = await gateway.worker()
        told = await hears(worker)
        assert [hop.host for hop in told.hosts] == ["aix1"]
        assert not told.serves and not told.hosts[0].forwards, "requests and ports are the old one's"
        await worker.say(m.HopStates(hosts=(m.HopState(host="aix1", state="connecting"),)))
        await worker.say(m.HopStates(hosts=(DOWN,)))
        await until(lambda: gateway.reaching.problems())
        assert gateway.reaching.is_here("aix1"), "the old one has it"
        await worker.say(m.HopStates(hosts=(UP,)))
        await old.is_told_to_retire()
        told = await hears(worker)
        assert told.serves and not told.hosts[0].forwards
        await old.has_a_connection()  # of a program that came just before
        await until(lambda: gateway.forwarded)
        await old.say(m.PortsFree())
        told = await hears(worker)
        assert told.serves and [forward.port for forward in told.hosts[0].forwards] == [8000]
        assert gateway.placed == [], "nobody has heard of any of it"


async def test_it_takes_over_in_time_though_it_reaches_less(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    old = OldWorker()
    async with after(tmp_path, old) as gateway:
        began = trio.current_time()
        async with trio.open_nursery() as beating:

            async def beat() -> None:
                while True:
                    await old.say(m.Beat(channels=0, opened=0, refused=0))
                    await trio.sleep(limits.SSH_BEAT)

            beating.start_soon(beat)
            await gateway.worker()
            with pytest.raises(ChannelClosed):
                await old.channel.receive()
            assert trio.current_time() - began == pytest.approx(limits.SSH_TAKEOVER)
            beating.cancel_scope.cancel()
        assert not gateway.reaching.is_here("aix1") and gateway.placed == [{"aix1": False}]


async def test_one_that_reaches_nobody_is_not_waited_for(tmp_path: Path) -> None:
    old = OldWorker(hosts=())
    async with after(tmp_path, old) as gateway:
        await old.is_told_to_retire()
        assert (await hears(await gateway.worker())).serves
        assert gateway.placed == [{"aix1": False}]


async def test_a_host_that_the_one_before_loses_is_away_and_a_connection_from_one_is_taken(tmp_path: Path) -> None:
    old = OldWorker()
    async with after(tmp_path, old) as gateway:
        await old.has_a_connection()
        await until(lambda: gateway.forwarded)
        await old.say(m.HopStates(hosts=(DOWN,)))
        await until(lambda: gateway.placed)
        assert gateway.placed == [{"aix1": False}]


async def test_when_the_one_before_dies_ours_serves_at_once(tmp_path: Path) -> None:
    old = OldWorker()
    async with after(tmp_path, old) as gateway:
        worker = await gateway.worker()
        assert not (await hears(worker)).serves
        old.channel.close()
        assert (await hears(worker)).serves
        assert gateway.placed == [{"aix1": False}]


@pytest.mark.parametrize("other", [say.reach("aix1", url="ssh://other@192.0.2.7").reach, None])
async def test_less_is_signed_and_all_that_cannot_be_told_so_is_ended(tmp_path: Path, other: Reach | None) -> None:
    serving, ending = OldWorker(), OldWorker(serves=False, hosts=())
    async with after(tmp_path, ending, serving) as gateway:
        await hears(await gateway.worker())
        gateway.sign(known(AIX, OLD, say.reach("aix2", url="ssh://u@192.0.2.10").reach))
        await trio.testing.wait_all_tasks_blocked()
        assert not serving.channel.is_gone and not ending.channel.is_gone, "more is no reason"
        gateway.sign(known(*filter(None, (other, OLD))))
        await serving.has_lost_us()
        await ending.has_lost_us()


async def test_one_that_was_not_told_everything_is_ended(tmp_path: Path) -> None:
    old = OldWorker()
    async with after(tmp_path, old, number=2):
        await old.has_lost_us()


async def test_one_that_speaks_another_language_is_heard_to_its_end_and_one_that_is_silent_is_ended(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    old = OldWorker(serves=False)
    async with after(tmp_path, old):
        for _ in range(3):
            old._sock.send(b"\0\0\0\1x")
            await trio.sleep(limits.SSH_SILENT - 0.1)
            assert not old.channel.is_gone
        await trio.sleep(limits.SSH_SILENT)
        assert old.channel.is_gone


async def test_the_next_version_gets_the_one_that_serves_and_ours_is_ended_if_it_does_not_yet(tmp_path: Path) -> None:
    old, ending = OldWorker(), OldWorker(serves=False, hosts=())
    async with after(tmp_path, ending, old) as gateway:
        worker = await gateway.worker()
        await hears(worker)
        gateway.reaching.leave()
        old.is_left = ending.is_left = True
    assert worker.killed and gateway.placed == []
    assert taken(gateway, old, ending) == [(1, False, ()), (1, True, ("aix1",))]


async def test_the_next_version_gets_ours_once_it_serves(tmp_path: Path) -> None:
    old = OldWorker()
    async with after(tmp_path, old) as gateway:
        worker = await gateway.worker()
        await hears(worker)
        await worker.say(m.HopStates(hosts=(UP,)))
        await old.is_told_to_retire()
        await old.say(m.PortsFree())
        await hears(worker)
        await hears(worker)
        with trio.fail_after(5):
            await gateway.reaching.all_said()
        gateway.reaching.leave()
        old.is_left = True
    assert not worker.killed and not worker.channel.is_gone
    assert taken(gateway, old) == [(1, False, ()), (worker.pid, True, ("aix1",))]
    assert not place_in(tmp_path).parent.exists(), "it made no socket of its own: it had that of the one before"
    worker.channel.close()


async def test_of_too_many_the_oldest_is_ended(tmp_path: Path) -> None:
    many = [OldWorker(serves=False, hosts=()) for _ in range(limits.SSH_WORKERS_BEFORE_MAX + 1)]
    async with after(tmp_path, *many) as gateway:
        await trio.testing.wait_all_tasks_blocked()
        gateway.reaching.leave()
        for old in many[1:]:
            old.is_left = True
        await trio.testing.wait_all_tasks_blocked()
    assert len(taken(gateway, *many[1:])) == limits.SSH_WORKERS_BEFORE_MAX
