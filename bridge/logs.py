"""I/O: the log: one line per event to stderr, JSON for machines, readable text on a terminal.

Event names are constants of ours (`tunnel refused`), everything else is a keyed value. Whatever the values hold, a
line is printable ASCII of at most LOG_LINE_MAX bytes (C44); an event that repeats too fast is counted, and the count
goes out with its next line (F50). Logging never raises and never blocks for longer than one write to stderr.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Protocol, cast

from bridge import limits
from bridge.lines import json_line, plain

# structlog loads rich for coloured tracebacks if it finds it: 3 MB in every process, for what no node prints. Everybody
# gets structlog from here, so that it never does.
_rich_is_new = "rich" not in sys.modules
if _rich_is_new:
    sys.modules["rich"] = None  # type: ignore[assignment] # an import of it fails
try:
    import structlog
finally:
    if _rich_is_new:
        del sys.modules["rich"]

_TRACE_FRAMES = 8
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Output(Protocol):
    """Where lines go; sys.stderr is one."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...


class RateLimit:
    """Pure: at most `per_second` events of one name in each second of the clock it is asked with."""

    def __init__(self, per_second: int = limits.LOG_EVENTS_PER_SECOND) -> None:
        self._per_second = per_second
        self._counts: dict[str, tuple[int, int, int]] = {}  # name: second, let through in it, suppressed so far

    def admit(self, name: str, now: float) -> int | None:
        """None: suppress it. Otherwise let it through, and say that so many were suppressed before it."""
        if name not in self._counts and len(self._counts) >= limits.LOG_EVENT_NAMES_MAX:
            name = ""  # only a bug makes names without end; they then share one allowance
        second, passed, suppressed = self._counts.get(name, (0, 0, 0))
        if second != int(now):
            second, passed = int(now), 0
        if passed >= self._per_second:
            self._counts[name] = (second, passed, suppressed + 1)
            return None
        self._counts[name] = (second, passed + 1, 0)
        return suppressed


def wants_json(environment: Mapping[str, str], is_terminal: bool) -> bool:
    """JSON lines under systemd and whenever nobody watches."""
    return "JOURNAL_STREAM" in environment or not is_terminal


def configure(
    *,
    now: Callable[[], float],
    monotonic: Callable[[], float],
    output: Output | None = None,
    as_json: bool | None = None,
    level: str = "info",
) -> None:
    """Sets up structlog for this process; call it once, early.

    Args:
        now: unix seconds, printed.
        monotonic: seconds, for the rate limit.
        output: None for stderr.
        as_json: None decides by `wants_json`.
        level: `debug`, `info`, `warning` or `error`: what is less is dropped.
    """
    target: Output = output or sys.stderr
    machine = wants_json(os.environ, sys.stderr.isatty()) if as_json is None else as_json
    limit = RateLimit()

    def stamp(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        suppressed = limit.admit(str(event.get("event", "")), monotonic())
        if suppressed is None:
            raise structlog.DropEvent
        head = {"at": now(), "level": method, "event": event.pop("event", "")}
        if event.get("hint") == "":  # an error that knows no next step
            del event["hint"]
        return {
            **head,
            **({"suppressed": suppressed} if suppressed else {}),
            **event,
            **head,
        }  # in this order, ours win

    structlog.configure(
        processors=[stamp, _explain_exception, _json if machine else _text],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *names: _Sink(target),
        cache_logger_on_first_use=False,
    )


def get_logger(**values: object) -> structlog.typing.FilteringBoundLogger:
    """A logger whose every line carries `values`."""
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(**values))


class _Sink:
    """Writes finished lines and swallows a stderr that is gone: a log must not end what it reports on."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def _line(self, line: str) -> None:
        try:
            self._output.write(line)
            self._output.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = msg = _line


def _explain_exception(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """`exc_info` becomes `error` (type and text) and `trace` (innermost call first), short enough for one line."""
    given = event.pop("exc_info", None)
    exc = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if exc is None:
        return event
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    frames = traceback.extract_tb(exc.__traceback__)[-_TRACE_FRAMES:]
    event["error"] = f"{type(exc).__name__}: {_text_of(exc)}"
    event["trace"] = " < ".join(f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    return event


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # a foreign __str__ may raise anything
        return f"unprintable {type(value).__name__}"


def _json(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    return json_line(event).decode("ascii")


def _text(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    at = datetime.fromtimestamp(event.pop("at"), tz=UTC).astimezone().strftime("%H:%M:%S")
    head = f"{at} {event.pop('level'):<7} {plain(_text_of(event.pop('event')))}"
    values = [f"{plain(key)}={_quoted(plain(_text_of(value)))}" for key, value in event.items()]
    return plain("  ".join([head, *values]), limits.LOG_LINE_MAX - 1) + "\n"


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text or not text else text
