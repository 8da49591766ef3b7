"""I/O: the tasks that peers, programs and the supervisor set off in a worker. A bug in one of them ends that one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from agents.guards import must_pass
from agents.workers.channel import ChannelClosed


class Tasks:
    """A nursery whose tasks have a guard each.

    Args:
        on_crash: told of every exception that a task ended with, but for the one that ends the worker: its supervisor
            is gone.
    """

    def __init__(self, nursery: trio.Nursery, on_crash: Callable[[BaseException], None]) -> None:
        self._nursery = nursery
        self.crashed = on_crash

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        self._nursery.start_soon(self._guarded, task, args)

    async def _guarded(self, task: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            await task(*args)
        except ChannelClosed:
            raise
        except BaseException as exc:
            if must_pass(exc):
                raise
            self.crashed(exc)
