"""I/O: one epoll loop for everything that moves bytes. Trio runs inside it as a guest (`host_loop`).

Rules: a handler never blocks and never waits; an exception in one handler ends that handler's connection, is counted,
and nothing else notices; writes to tunnels are collected during a turn and go out once at its end.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from typing import Protocol

from bridge.delays import Delays
from bridge.errors import ends_the_process
from bridge.tunnels.window_budget import WindowBudget

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ERROR = select.EPOLLERR
HANGUP = select.EPOLLHUP

EVENTS_PER_TURN = 256


class Ready(Protocol):
    """What owns a registered descriptor. `ready` is told ERROR and HANGUP whatever mask it asked for: one that reads
    nothing has to act on them or unregister, or the loop would turn without end."""

    def ready(self, events: int) -> None: ...
    def crashed(self, error: BaseException) -> None:
        """`ready` raised: let go of the connection without raising again."""


class Flushable(Protocol):
    def flush(self) -> None: ...
    def crashed(self, error: BaseException) -> None: ...


class Loop:
    """Owner of the epoll descriptor and of who is called for which descriptor.

    Args:
        on_crash: told of every exception that reached the loop; may be set later.
        clock: monotonic seconds; whoever hands times to what lives in this loop reads the same clock (`refresh`).
    """

    def __init__(
        self, on_crash: Callable[[BaseException], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._poller = select.epoll()
        self._handlers: dict[int, Ready] = {}
        self._fresh: set[int] = set()
        """Descriptors registered during this turn: an event of the batch at hand is not theirs, but that of a
        connection which had the same number and was closed a moment ago."""
        self._dirty: set[Flushable] = set()
        self._later: set[Flushable] = set()
        self.on_crash = on_crash
        self._clock = clock
        self.now = clock()
        """Monotonic seconds at the start of this turn."""
        self.buffered = 0
        """Bytes that wait in this process for slow readers behind streams."""
        self.windows = WindowBudget()
        """What windows of streams in this process may grow by."""
        self.crashes = 0
        self.turns = Delays()
        """From the moment when something was ready to the next look: what came in meanwhile has waited for so long."""
        self._woke_at = 0.0
        """When there was something ready the last time; 0 when there was not."""

    def fileno(self) -> int:
        return self._poller.fileno()

    def refresh(self) -> float:
        """Read the clock; for code outside the loop, which may run long after the last turn."""
        self.now = self._clock()
        return self.now

    def register(self, fd: int, handler: Ready, mask: int) -> None:
        self._poller.register(fd, mask)
        self._handlers[fd] = handler
        self._fresh.add(fd)

    def modify(self, fd: int, mask: int) -> None:
        self._poller.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._poller.unregister(fd)

    def forget(self, fd: int) -> None:
        """As `unregister`, for a descriptor that is closed next and is the last of its socket: the kernel then does
        its part by itself. Another descriptor of the same socket, in whatever process, would keep the events coming."""
        self._handlers.pop(fd, None)

    def touch(self, flushable: Flushable) -> None:
        """Have `flush` called at the end of this turn (or by `settle`)."""
        self._dirty.add(flushable)

    def touch_next(self, flushable: Flushable) -> None:
        """Have `flush` called at the end of the next turn, which does not wait: after others had theirs."""
        self._later.add(flushable)

    def turn(self, *, wait: bool = False) -> int:
        """Handle what is ready now, or, with `wait`, as soon as something is; how many descriptors were."""
        fresh = self._fresh
        fresh.clear()
        if self._woke_at:
            self.turns.add(self._clock() - self._woke_at)
        events = self._poller.poll(-1 if wait and not self._later else 0, EVENTS_PER_TURN)
        if self._later:
            self._dirty |= self._later
            self._later.clear()
        self.now = self._clock()
        self._woke_at = self.now if events else 0.0
        handlers = self._handlers
        for fd, mask in events:
            handler = handlers.get(fd)
            if handler is not None and fd not in fresh:
                try:
                    handler.ready(mask)
                except BaseException as error:
                    self._crashed(handler, error)
        if self._dirty:
            self.settle()
        return len(events)

    def settle(self) -> None:
        """Write out what was queued. Code outside the loop calls this after it changed something."""
        while self._dirty:
            batch, self._dirty = self._dirty, set()
            for flushable in batch:
                try:  # as `guarded`, without the call: once or twice in every turn
                    flushable.flush()
                except BaseException as error:
                    self._crashed(flushable, error)

    def guarded(self, owner: Ready | Flushable, step: Callable[[], object]) -> None:
        """Do something for `owner` that costs it alone when it fails."""
        try:
            step()
        except BaseException as error:
            self._crashed(owner, error)

    def count_crash(self, error: BaseException) -> None:
        """An exception that its finder has dealt with already."""
        self.crashes += 1
        if self.on_crash is not None:
            self.on_crash(error)

    def _crashed(self, owner: Ready | Flushable, error: BaseException) -> None:
        if ends_the_process(error):
            raise error
        self.count_crash(error)
        try:
            owner.crashed(error)
        except BaseException as again:
            if ends_the_process(again):
                raise
            self.count_crash(again)

    def close(self) -> None:
        self._handlers.clear()
        self._poller.close()
