"""Pure: what a service manager is told: one line each, and signs of life as often as it wants them."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from agents import lifecycle
from agents.lifecycle import keep_watchdog, say_reloaded, say_status, watchdog_interval
from bridge import limits


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was said, in order."""
    said: list[str] = []
    monkeypatch.setattr(lifecycle, "sd_notify", said.append)
    return said


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, 0.0),
        ({"WATCHDOG_USEC": "1"}, limits.WATCHDOG_FASTEST),
        ({}, 0.0),
        *(({"WATCHDOG_USEC": text}, 0.0) for text in ("", "0", "-1", "30s", "1e6", "\u0663", "\u00b2")),
    ],
)
def test_signs_of_life_come_twice_as_often_as_they_are_waited_for(environment: dict[str, str], interval: float) -> None:
    assert watchdog_interval(environment, pid=42) == interval


async def test_signs_of_life_go_on_for_as_long_as_the_loop_turns(
    told: list[str], monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with trio.move_on_after(61):
        await keep_watchdog()
    assert told == ["WATCHDOG=1"] * 5, "at 0, 15, 30, 45 and 60 s"


async def test_without_a_watchdog_no_signs_of_life_are_sent(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with trio.fail_after(1):
        await keep_watchdog()
    assert told == []


def test_no_text_can_say_more_than_one_thing_to_the_service_manager(told: list[str]) -> None:
    say_status("refused: \x1b[31m\nMAINPID=1")
    say_reloaded("last reload: " + "x" * 10_000)
    assert told[0] == "STATUS=refused: \\x1b[31m\\nMAINPID=1"
    ready, status = told[1].split("\n")
    assert ready == "READY=1" and len(status) <= len("STATUS=") + limits.STATUS_MAX_CHARS
