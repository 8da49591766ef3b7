"""Pure: (a mock clock) what a guard lets go on, and that a class of exception alone ends no process."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from agents.guards import must_pass
from agents.workers.tasks import Tasks
from bridge.relay.loop import READ, Loop


def stray() -> BaseException:
    """A cancellation that nobody asked for."""
    return trio.Cancelled._create(source="unknown")  # type: ignore[attr-defined]


ERRORS = [ValueError("x"), MemoryError(), stray(), BaseExceptionGroup("several", [stray(), OSError()])]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_f43_a_task_that_raises_anything_ends_alone(error: BaseException) -> None:
    crashes: list[BaseException] = []

    async def fails() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        Tasks(nursery, crashes.append).start_soon(fails)
        await trio.testing.wait_all_tasks_blocked()
    assert crashes == [error]


async def test_a_task_that_is_cancelled_is_no_error() -> None:
    crashes: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        Tasks(nursery, crashes.append).start_soon(trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not crashes


async def test_what_must_pass() -> None:
    assert must_pass(KeyboardInterrupt()) and must_pass(BaseExceptionGroup("", [SystemExit(0)]))
    assert not any(map(must_pass, ERRORS))
    with trio.CancelScope() as scope:
        scope.cancel()
        assert must_pass(stray()) and must_pass(BaseExceptionGroup("", [stray(), OSError()]))
        assert not must_pass(ValueError())
        await trio.lowlevel.checkpoint()


class Fails:
    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.told: BaseException | None = None

    def ready(self, events: int) -> None:
        raise self.error

    def crashed(self, error: BaseException) -> None:
        self.told = error


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_f43_a_handler_that_raises_anything_ends_alone(error: BaseException) -> None:
    loop = Loop()
    owner = Fails(error)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        loop.register(ours.fileno(), owner, READ)
        loop.turn()
        assert owner.told is error and loop.crashes == 1
        owner.error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            loop.turn()
    loop.close()
