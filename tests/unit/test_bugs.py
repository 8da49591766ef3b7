"""Pure: errors of our own are told, counted once, and told apart from a wish to end."""

from __future__ import annotations

import io

import pytest
import structlog

from bridge import logs
from bridge.bugs import take_bugs, tell_bug
from bridge.errors import ends_the_process


def test_f43_an_error_is_told_with_its_place_and_counted_once() -> None:
    take_bugs()
    output = io.StringIO()
    logs.configure(now=lambda: 0.0, monotonic=lambda: 0.0, output=output, as_json=True)
    try:
        raise ExceptionGroup("several", [MemoryError("no more")])
    except ExceptionGroup as group:
        tell_bug("a thing ended by a bug", group, thing=7)
    finally:
        structlog.reset_defaults()
    assert take_bugs() == 1
    assert take_bugs() == 0
    for word in ("a thing ended by a bug", "MemoryError: no more", '"thing":7'):
        assert word in output.getvalue()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), BaseExceptionGroup("", [KeyboardInterrupt()])])
def test_who_wants_to_end_a_process_is_heard(error: BaseException) -> None:
    assert ends_the_process(error)


@pytest.mark.parametrize("error", [ValueError(), MemoryError(), BaseException(), ExceptionGroup("", [OSError()])])
def test_f43_everything_else_is_an_error_like_any_other(error: BaseException) -> None:
    assert not ends_the_process(error)
