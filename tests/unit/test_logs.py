"""I/O: log lines, their limits and their pace. The output is a list, the clocks are numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from bridge import limits
from bridge.logs import RateLimit, configure, get_logger, wants_json


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.broken = False

    def write(self, text: str) -> None:
        if self.broken:
            raise BrokenPipeError
        self.lines.append(text)

    def flush(self) -> None:
        pass

    def decoded(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]


class Clock:
    at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def start(*, as_json: bool = True, clock: Clock | None = None) -> Lines:
    out = Lines()
    configure(now=lambda: 1e9, monotonic=clock or Clock(), output=out, as_json=as_json)
    return out


def test_json_lines_for_machines_text_for_people() -> None:
    assert wants_json({"JOURNAL_STREAM": "8:1"}, True)
    assert wants_json({}, False)
    assert not wants_json({}, True)


def test_a_hint_that_is_empty_is_left_out() -> None:
    out = start()
    for hint in ("", "do this"):
        get_logger().error("reload refused", hint=hint, reason="")
    assert ["hint" in line for line in out.decoded()] == [False, True]
    assert out.decoded()[0]["reason"] == "", "only hints"


def test_a_json_line_starts_with_when_how_bad_and_what() -> None:
    out = start()
    get_logger(node="vm1").warning("tunnel refused", peer="vm2", bytes=5)
    assert list(out.decoded()[0].items()) == [
        ("at", 1e9),
        ("level", "warning"),
        ("event", "tunnel refused"),
        ("node", "vm1"),
        ("peer", "vm2"),
        ("bytes", 5),
    ]


def test_a_text_line_is_readable() -> None:
    out = start(as_json=False)
    get_logger().info("tunnel up", peer="vm2", reason="came back")
    assert out.lines[0].endswith(' info    tunnel up  peer=vm2  reason="came back"\n')


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "evil", ["a\nb", "\x1b[2J", "\u202egnp.exe", "x" * 65536, "\ud800", "\r\x00\x9b"], ids=lambda text: ascii(text)[:12]
)
def test_c44_hostile_values_give_one_line_of_a_kibibyte(evil: str, as_json: bool) -> None:
    out = start(as_json=as_json)
    get_logger().info(evil, sni=evil, alpn=evil, banner=evil, names=[evil, evil], error=ValueError(evil))
    (line,) = out.lines
    assert len(line.encode("ascii")) <= limits.LOG_LINE_MAX
    assert line[:-1].isprintable() and line.endswith("\n")
    if as_json:
        json.loads(line)


def test_less_than_the_level_is_dropped() -> None:
    out = start()
    get_logger().debug("detail")
    assert out.lines == []


def test_an_exception_is_told_in_one_line_innermost_first() -> None:
    out = start()

    def inner() -> None:
        raise ValueError("bad\nthing")

    try:
        try:
            inner()
        except ValueError as exc:
            raise BaseExceptionGroup("many", [exc]) from None
    except BaseExceptionGroup:
        get_logger().error("handler failed", exc_info=True)
    (event,) = out.decoded()
    assert event["error"] == "ValueError: bad\\nthing"
    assert event["trace"].startswith("test_logs.py:")
    assert " inner < test_logs.py:" in event["trace"]


def test_f50_a_flood_of_one_event_is_counted_and_others_are_not_hurt() -> None:
    clock = Clock()
    out = start(clock=clock)
    for _ in range(10_000):
        get_logger().error("accept failed")
    get_logger().info("tunnel up")
    clock.at = 1.0
    get_logger().error("accept failed")
    get_logger().error("accept failed")
    events = out.decoded()
    assert len(events) == limits.LOG_EVENTS_PER_SECOND + 3
    assert [event.get("suppressed") for event in events[-3:]] == [None, 10_000 - limits.LOG_EVENTS_PER_SECOND, None]


def test_f50_names_without_end_share_one_allowance() -> None:
    limit = RateLimit(per_second=2)
    passed = sum(limit.admit(f"name{number}", 0.0) is not None for number in range(100_000))
    assert passed == limits.LOG_EVENT_NAMES_MAX + 2


def test_a_stderr_that_is_gone_harms_nobody() -> None:
    out = start()
    out.broken = True
    get_logger().info("tunnel up")


def test_nodes_load_only_what_they_use() -> None:
    """Each costs every process megabytes: structlog would load rich, and only who serves a page needs the other."""
    heavy = ("rich", "pygments", "prometheus_client")
    code = f"import sys, agents.host_agent, agents.gateway_agent; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
