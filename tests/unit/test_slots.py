"""I/O: (a fake channel) what a worker says of the slots of its streams, in the order in which it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from agents.workers import messages as m
from agents.workers.live import LiveFlow
from agents.workers.slots import Busy, Slots
from bridge.policy.decide import Subject
from tests.support.estates import instance

WEB = instance("web", "b", max_streams=2)


class FakeChannel:
    def __init__(self) -> None:
        self.said: list[m.FromWorker] = []

    async def send(self, message: m.FromWorker) -> None:
        await trio.lowlevel.checkpoint()
        self.said.append(message)


def flow() -> LiveFlow:
    subject = Subject("host", "a")
    return LiveFlow(side="source", subject=subject, service="web", site=None, host="a", started=0.0, began=0.0)


@asynccontextmanager
async def slots() -> AsyncIterator[tuple[Slots, FakeChannel]]:
    channel = FakeChannel()
    made = Slots(channel)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made, channel
        nursery.cancel_scope.cancel()


async def test_a_wish_is_said_once_and_answered_once() -> None:
    async with slots() as (made, channel):
        one, answers = flow(), []
        made.ask(one, WEB, answers.append)
        assert one.slot and one.waits
        number = one.slot
        made.given(number)
        made.given(number)
        made.refused(number, "late")
        assert answers == [None] and one.slot == number and not one.waits
        made.connected(number)
        made.ended(number, rest=True)
        await trio.testing.wait_all_tasks_blocked()
        asked = m.SlotAsked(id=number, instance=WEB.id, service="web", caller="host:a", max_streams=2, max_rate=None)
        assert channel.said == [asked, m.SlotUsed(id=number, connected=True), m.SlotLeft(id=number, rest=True)]


async def test_one_that_goes_away_takes_its_wish_back() -> None:
    async with slots() as (made, channel):
        one, answers = flow(), []
        made.ask(one, WEB, answers.append)
        made.ended(one.slot, rest=False)
        made.given(one.slot)
        assert answers == ["it is not wanted any more"]
        await trio.testing.wait_all_tasks_blocked()
        assert [type(message) for message in channel.said] == [m.SlotAsked, m.SlotLeft]


async def test_a_task_waits_for_a_slot_which_is_then_its_own() -> None:
    async with slots() as (made, _):
        one = flow()
        taken: list[int] = []

        async def take() -> None:
            taken.append(await made.take(one, WEB))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            assert one.waits
            number = one.slot
            made.given(number)
        assert taken == [number] and one.slot == 0


async def test_a_task_that_is_refused_or_ends_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with slots() as (made, channel):
        one = flow()
        said: list[str] = []

        async def take() -> None:
            try:
                await made.take(one, WEB)
            except Busy as exc:
                said.append(exc.what)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            made.refused(one.slot, "web takes at most 2 streams at once")
        assert one.slot == 0 and said == ["web takes at most 2 streams at once"]
        with trio.move_on_after(1):
            await made.take(one, WEB)
        await trio.testing.wait_all_tasks_blocked()
        assert one.slot == 0 and isinstance(channel.said[-1], m.SlotLeft)
