"""I/O: (trio's cancel scopes) what a guard around something that waits must let go on.

A guard ends one connection, one task or one step for any error of ours. Two things are none: a wish that the process
ends, and the cancellation of the very task. A Cancelled that nobody asked for is a bug like any other, and must not end
a node because of its class (F43).
"""

from __future__ import annotations

import trio

from bridge.errors import ends_the_process


def must_pass(error: BaseException) -> bool:
    """Whether the guard that caught `error` has to raise it again."""
    return ends_the_process(error) or (_has_cancelled(error) and _is_cancelled_here())


def _has_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(map(_has_cancelled, error.exceptions))
    return isinstance(error, trio.Cancelled)


def _is_cancelled_here() -> bool:
    return trio.current_effective_deadline() <= trio.current_time()
