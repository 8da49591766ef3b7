"""Pure: (a mock clock) a process that comes round too late says so."""

from __future__ import annotations

import socket
import time

import pytest
import trio
import trio.testing

from agents.loop_lag import LagStatus, watch_lag
from bridge import limits
from bridge.delays import Delays
from bridge.relay.loop import READ, Loop


async def test_timers_of_a_process_with_time_are_not_late(autojump_clock: trio.testing.MockClock) -> None:
    delays, lag = Delays(), LagStatus()
    with trio.move_on_after(10.05):
        await watch_lag(delays)
    lag.heard("supervisor", delays.take())
    assert lag.status()["supervisor_p99_ms"] < 1
    assert not lag.warnings()


async def test_f31_a_process_that_stalls_is_warned_of(mock_clock: trio.testing.MockClock) -> None:
    delays, lag = Delays(), LagStatus()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_lag, delays)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(limits.LAG_PROBE + 2.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    lag.heard("worker", delays.take())
    assert lag.status()["worker_longest_ms"] == pytest.approx(2000)
    (text,) = lag.warnings()
    assert text.startswith("the worker was late by 2.0 s")
    mock_clock.jump(limits.LAG_WINDOW)
    assert not lag.warnings()


class Slow:
    """A handler that takes its time."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def ready(self, events: int) -> None:
        self._clock[0] += 0.3

    def crashed(self, error: BaseException) -> None:
        raise AssertionError


def test_a_turn_is_measured_when_it_had_something_to_do() -> None:
    clock = [time.monotonic()]
    loop = Loop(clock=lambda: clock[0])
    loop.turn()
    assert sum(loop.turns.take().counts) == 0
    readable, ended = socket.socketpair()
    with readable:
        ended.close()
        loop.register(readable.fileno(), Slow(clock), READ)
        loop.turn()
        loop.turn()
    assert loop.turns.take().longest == pytest.approx(0.3)
    loop.close()
