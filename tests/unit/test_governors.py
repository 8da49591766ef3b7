"""I/O: (a virtual clock) one count and one queue for all workers of a node, what a dead one gives back, what
goes over to the next program."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from agents.governors import Governors
from agents.handover import HeldSlot
from agents.workers import messages as m
from bridge import limits
from inventory.model import Health
from tests.support.estates import instance

WEB = "web/vm1/127.0.0.1:9000"


class FakeWorker:
    """A worker process as the governors hold it."""

    def __init__(self) -> None:
        self.slots: dict[int, HeldSlot] = {}
        self.told: list[m.ToWorker] = []

    def tell(self, message: m.ToWorker) -> bool:
        self.told.append(message)
        return True

    def given(self) -> list[int]:
        return [message.id for message in self.told if isinstance(message, m.SlotGiven)]

    def refused(self) -> dict[int, str]:
        return {message.id: message.reason for message in self.told if isinstance(message, m.SlotRefused)}


class Node:
    def __init__(self) -> None:
        self.leaves = False
        self.health = Health()
        self.workers = [FakeWorker(), FakeWorker()]
        self.governors = Governors(lambda _: self.health, lambda: self.leaves)

    def ask(
        self,
        worker: FakeWorker,
        number: int,
        *,
        caller: str = "host:a",
        streams: int | None = 2,
        rate: int | None = None,
    ) -> None:
        asked = m.SlotAsked(id=number, instance=WEB, service="web", caller=caller, max_streams=streams, max_rate=rate)
        self.heard(worker, asked)

    def use(self, worker: FakeWorker, *numbers: int) -> None:
        for number in numbers:
            self.heard(worker, m.SlotUsed(id=number, connected=True))

    def heard(self, worker: Any, message: m.SlotAsked | m.SlotUsed | m.SlotLeft) -> None:
        self.governors.heard(worker, message)

    def row(self) -> dict[str, Any]:
        [row] = self.governors.status()
        return row


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    made = Node()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.governors.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_all_workers_share_one_count(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        one, two = node.workers
        node.ask(one, 1)
        node.ask(two, 1)
        node.ask(one, 2)
        node.ask(two, 2, caller="host:b")
        assert one.given() == [1] and two.given() == [1]
        node.use(one, 1)
        node.heard(one, m.SlotLeft(id=1, rest=False))
        assert (one.given(), two.given()) == ([1], [1, 2]), "host:a has its part"
        node.heard(two, m.SlotUsed(id=1, connected=False))
        assert one.given() == [1, 2]
        assert (node.row()["open"], node.row()["waiting"]) == (2, 0)


async def test_who_waits_too_long_is_refused_in_time_and_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        one, _ = node.workers
        for number in (1, 2, 3):
            node.ask(one, number)
        await trio.sleep(limits.GOVERNOR_WAIT - 0.01)
        assert one.refused() == {}
        await trio.sleep(0.02)
        words = "web takes at most 2 streams at once; 2 are open and 0 waited before you"
        assert one.refused() == {3: words} and set(one.slots) == {1, 2}
        assert node.governors.take_refused() == {"web": 1} and node.governors.take_refused() == {}
        [warned] = node.governors.warnings()
        assert warned.startswith(f"{WEB} has more callers than it takes") and warned.endswith(words)
        await trio.sleep(60)
        assert node.governors.warnings() == [] and node.row()["refused"] == 1
        [(service, state)] = node.governors.states()
        assert service == "web" and (state.open, state.waiting, state.now.streams) == (2, 0, 2)


async def test_a_worker_that_dies_gives_back_what_it_had_and_waits_for_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as node:
        one, two = node.workers
        for number in (1, 2, 3):
            node.ask(one, number)
        node.use(one, 1, 2)
        node.ask(two, 1)
        node.governors.worker_gone(one)  # type: ignore[arg-type]
        assert two.given() == [] and one.slots == {}, "its targets may not have noticed yet"
        await trio.sleep(2 * limits.GOVERNOR_REST)
        assert two.given() == [1] and (node.row()["open"], node.row()["waiting"]) == (1, 0)


async def test_what_the_checks_say_slows_it_down(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        one, _ = node.workers
        node.ask(one, 1, streams=100)
        node.health = Health(state="failing")
        await trio.sleep(2)
        assert node.row()["streams_now"] == 10 and node.row()["recovering"]
        node.health = Health(state="passing")
        await trio.sleep(limits.GOVERNOR_RAMP / 2)
        assert 40 < node.row()["streams_now"] < 70
        await trio.sleep(limits.GOVERNOR_RAMP)
        assert node.row()["streams_now"] == 100 and not node.row()["recovering"]


async def test_a_rate_lets_go_on_when_its_second_is_over(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        one, _ = node.workers
        for number in (1, 2, 3):
            node.ask(one, number, streams=None, rate=1)
            node.use(one, number)
        await trio.sleep(limits.GOVERNOR_SECOND - 0.01)
        assert one.given() == [1]
        await trio.sleep(0.02)
        assert one.given() == [1, 2]
        node.use(one, 2)
        await trio.sleep(limits.GOVERNOR_SECOND - 0.01)
        assert one.given() == [1, 2]
        await trio.sleep(0.02)
        assert one.given() == [1, 2, 3]


async def test_one_that_nobody_asks_for_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        one, _ = node.workers
        node.ask(one, 1)
        node.heard(one, m.SlotLeft(id=1, rest=False))
        node.heard(one, m.SlotLeft(id=99, rest=False))
        await trio.sleep(limits.GOVERNOR_KEPT / 2)
        assert len(node.governors.status()) == 1
        await trio.sleep(limits.GOVERNOR_KEPT)
        assert node.governors.status() == []
        assert node.governors._next_look == math.inf, "and nothing wakes it up"


async def test_what_old_workers_have_and_wait_for_goes_over_to_the_next_program(
    autojump_clock: trio.testing.MockClock,
) -> None:
    old, new = FakeWorker(), FakeWorker()
    async with running() as before:
        for number in (1, 2, 3):
            before.ask(old, number, rate=5)
        before.leaves = True
        before.heard(old, m.SlotLeft(id=1, rest=False))
        before.ask(old, 4, rate=5)
        other = m.SlotAsked(id=5, instance="db/vm1/x", service="db", caller="host:a", max_streams=1, max_rate=None)
        before.heard(old, other)
        before.heard(old, m.SlotLeft(id=5, rest=False))
        assert old.given() == [1, 2] and {n: held.given for n, held in old.slots.items()} == {
            2: True,
            3: False,
            4: False,
        }
    async with running() as after:
        after.governors.inherited([old])  # type: ignore[list-item]
        after.ask(new, 1, caller="host:b", rate=5)
        assert (after.row()["open"], after.row()["waiting"]) == (1, 3)
        await trio.sleep(limits.GOVERNOR_SECOND + 0.1)
        assert new.given() == [1] and old.given() == [1, 2] and after.row()["open"] == 2
        after.heard(old, m.SlotLeft(id=2, rest=False))
        assert old.given() == [1, 2, 3]


async def test_a_check_takes_a_slot_and_is_left_out_when_there_is_none(autojump_clock: trio.testing.MockClock) -> None:
    limited = instance("web", "vm1", target="127.0.0.1:9000", max_streams=1)
    async with running() as node:
        one, _ = node.workers
        async with node.governors.checking(limited) as is_room:
            assert is_room
            node.ask(one, 1, streams=1)
            assert one.given() == []
        await trio.sleep(2 * limits.GOVERNOR_REST)
        assert one.given() == [1]
        began = trio.current_time()
        async with node.governors.checking(limited) as is_room:
            assert not is_room
            assert trio.current_time() == pytest.approx(began + limits.GOVERNOR_CHECK_WAIT, abs=0.1)
        assert (node.row()["open"], node.row()["waiting"], node.row()["refused"]) == (1, 0, 0)


async def test_f43_a_bug_in_one_look_is_told_and_the_next_look_comes(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as node:
        one, _ = node.workers
        node.ask(one, 1)
        looks = []

        def health(instance: str) -> Health:
            looks.append(instance)
            raise RuntimeError("bug")

        node.governors._health = health
        await trio.sleep(3.5)
        assert looks == [WEB] * 3
