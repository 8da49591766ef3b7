"""Pure, on a clock that jumps: what a node knows is written soon, once for all who ask, and again until it is."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from agents.saving import Saving
from bridge import limits
from inventory.errors import Unavailable


async def test_those_who_ask_at_once_share_one_write(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    writes: list[float] = []

    async def write() -> None:
        writes.append(trio.current_time())

    saving = Saving(write)
    nursery.start_soon(saving.run)
    for _ in range(3):
        saving.ask()
    await trio.sleep(10 * limits.SAVE_DELAY)
    assert len(writes) == 1
    saving.ask()
    await trio.sleep(10 * limits.SAVE_DELAY)
    assert len(writes) == 2


async def test_what_cannot_be_written_is_said_and_tried_until_it_is(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    failures = [Unavailable("no space left", hint="free some"), Unavailable("no space left")]

    async def write() -> None:
        if failures:
            raise failures.pop(0)

    saving = Saving(write)
    nursery.start_soon(saving.run)
    assert saving.warnings() == []
    saving.ask()
    said: list[str] = []
    while not said or saving.warnings():
        await trio.sleep(limits.SAVE_DELAY / 2)
        said += [found["text"] for found in saving.warnings() if found["text"] not in said]
    assert said == [
        "what is known is not saved: no space left; free some",
        "what is known is not saved: no space left; it is tried again",
    ]
