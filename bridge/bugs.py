"""I/O: (the log) errors of our own that a guard caught: each ended one thing, is told once, and is counted.

Every guard of a supervisor ends here, so that `meshbridge_internal_errors_total` misses none. A worker has no log; it
counts in its Tally and tells its supervisor.
"""

from __future__ import annotations

from bridge.logs import get_logger

_caught = 0


def tell_bug(event: str, error: BaseException, **about: object) -> None:
    """A guard caught `error`; `event` says what it ended."""
    global _caught
    _caught += 1
    get_logger().error(event, exc_info=error, **about)


def take_bugs() -> int:
    """How many were told since the last take."""
    global _caught
    taken, _caught = _caught, 0
    return taken
