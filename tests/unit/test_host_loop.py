"""Trio as the loop's guest: results and errors come out, neither starves the other, what tasks touch is flushed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio

from bridge.relay.host_loop import run_with_guest
from bridge.relay.loop import READ, Loop

PATIENCE = 20.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Busy:
    """A descriptor that is ready in every turn until it is told to stop."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.turns = 0
        self.fails = False
        self.on_turn: trio.Event | None = None
        loop.register(self.fd, self, READ)

    def ready(self, events: int) -> None:
        self.turns += 1
        if self.on_turn is not None:
            self.on_turn.set()
        if self.fails:
            raise RuntimeError("handler")

    def crashed(self, error: BaseException) -> None: ...

    def stop(self) -> None:
        self.loop.unregister(self.fd)
        os.close(self.fd)


class Flushed:
    def __init__(self) -> None:
        self.times = 0

    def flush(self) -> None:
        self.times += 1

    def crashed(self, error: BaseException) -> None: ...


def test_the_result_comes_out(loop: Loop) -> None:
    async def main(word: str) -> str:
        await trio.lowlevel.checkpoint()
        return word

    assert run_with_guest(loop, main, "done") == "done"
    assert run_with_guest(loop, main, "again") == "again"


def test_an_error_of_the_main_task_is_raised(loop: Loop) -> None:
    async def fails() -> None:
        raise LookupError("no such thing")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(fails)

    with pytest.raises(ExceptionGroup) as caught:
        run_with_guest(loop, main)
    assert caught.group_contains(LookupError)
    assert not trio.lowlevel.in_trio_run()


def test_the_loop_gets_its_turns_while_trio_is_busy(loop: Loop) -> None:
    busy = Busy(loop)
    ticks = 0

    async def main() -> None:
        nonlocal ticks
        with trio.fail_after(PATIENCE):
            while busy.turns < 100:
                ticks += 1
                await trio.lowlevel.checkpoint()

    run_with_guest(loop, main)
    busy.stop()
    assert ticks <= 3 * busy.turns + 10, "the loop waited for many ticks of trio"


def test_trio_gets_its_ticks_while_the_loop_is_busy(loop: Loop) -> None:
    busy = Busy(loop)

    async def main() -> None:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        await trio.sleep(0.001)  # through the thread that waits for trio's clock
        await trio.to_thread.run_sync(int)

    run_with_guest(loop, main)
    busy.stop()
    assert busy.turns >= 100


def test_timers_and_threads_wake_a_loop_that_has_nothing_to_do(loop: Loop) -> None:
    async def main() -> bool:
        await trio.sleep(0.001)
        await trio.to_thread.run_sync(int)
        with trio.move_on_after(0.001) as scope:
            await trio.sleep_forever()
        return scope.cancelled_caught

    assert run_with_guest(loop, main)


def test_a_handler_wakes_a_task_and_starts_one(loop: Loop) -> None:
    class Starts(Busy):
        def __init__(self, loop: Loop, nursery: trio.Nursery) -> None:
            super().__init__(loop)
            self.nursery = nursery
            self.started = trio.Event()

        def ready(self, events: int) -> None:
            self.stop()
            self.nursery.start_soon(self.task)

        async def task(self) -> None:
            self.started.set()

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            busy = Busy(loop)
            busy.on_turn = trio.Event()
            await busy.on_turn.wait()
            busy.stop()
            async with trio.open_nursery() as nursery:
                starts = Starts(loop, nursery)
                await starts.started.wait()

    run_with_guest(loop, main)


def test_what_a_task_touched_is_flushed(loop: Loop) -> None:
    flushed = Flushed()

    async def main() -> None:
        loop.touch(flushed)
        await trio.sleep(0.001)
        assert flushed.times == 1

    run_with_guest(loop, main)


def test_a_handler_that_fails_is_counted_and_nothing_else_notices(loop: Loop) -> None:
    busy = Busy(loop)
    busy.fails = True
    busy_turns = 5

    async def main() -> None:
        with trio.fail_after(PATIENCE):
            while busy.turns < busy_turns:
                await trio.lowlevel.checkpoint()

    run_with_guest(loop, main)
    busy.stop()
    assert loop.crashes >= busy_turns
