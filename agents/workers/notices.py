"""I/O: what a data worker has to say to an operator, in words. Peers can cause these, so they do not pile up when
nobody takes them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import trio

from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from bridge import limits


class Notices:
    """At most NOTICES_PENDING_MAX wait to be sent; how many were left out is said with the next one."""

    def __init__(self, nursery: trio.Nursery, channel: Channel[m.FromWorker, m.ToWorker]) -> None:
        self._nursery = nursery
        self._channel = channel
        self._pending = 0
        self._lost = 0

    def say(self, event: str, text: str) -> None:
        """Never waits."""
        if self._pending >= limits.NOTICES_PENDING_MAX:
            self._lost += 1
            return
        self._pending += 1
        lost, self._lost = self._lost, 0
        self._nursery.start_soon(self._send, event, text + (f" ({lost} others were left out)" if lost else ""))

    async def _send(self, event: str, text: str) -> None:
        try:
            with contextlib.suppress(ChannelClosed):
                await self._channel.send(m.Notice(event=event, text=text[: limits.LOG_LINE_MAX]))
        finally:
            self._pending -= 1

    def crashed(self, error: BaseException) -> None:
        """An error of ours ended one connection; where it was is in it."""
        where = ""
        if error.__traceback__ is not None:
            frame = error.__traceback__
            while frame.tb_next is not None:
                frame = frame.tb_next
            where = f" at {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
        self.say("internal-error", f"one connection was ended by {type(error).__name__}: {error}{where}")
