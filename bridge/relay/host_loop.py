"""I/O: trio as a guest of the relay loop: one thread, in which the loop waits and trio's tasks get their turns.

Why this way round: with trio outside, every wake for bytes went through trio's own poll, its scheduler and a task
before the loop asked the kernel a second time what was ready. At one request at a time that was half of all the time
spent. Now bytes cost one epoll_wait, and trio costs something only when it has something to do.

Rules: a turn of the loop and a tick of trio alternate as long as both have something to do, so neither starves the
other; what tasks touched is flushed after their tick; an error of trio's main task is raised here, and one of the loop
itself leaves trio where it is: the process has to end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from bridge.relay.loop import READ, Loop

if TYPE_CHECKING:
    from outcome import Outcome

T = TypeVar("T")


def run_with_guest(loop: Loop, main: Callable[..., Awaitable[T]], *args: object) -> T:
    """Turn `loop` until `main`, which runs in trio, returns or raises; the same happens here."""
    guest = _Guest()
    loop.register(guest.wakeup, guest, READ)
    try:
        trio.lowlevel.start_guest_run(
            main,
            *args,
            run_sync_soon_threadsafe=guest.soon_from_thread,
            run_sync_soon_not_threadsafe=guest.soon.append,
            done_callback=guest.done,
        )
        while guest.outcome is None:
            loop.turn(wait=not guest.soon)
            guest.tick()
            loop.settle()
        result: T = guest.outcome.unwrap()
        return result
    finally:
        loop.unregister(guest.wakeup)
        os.close(guest.wakeup)


class _Guest:
    """What trio wants called, and its result. Trio waits for its own descriptors and clock in a thread, which hands
    back what happened through `soon_from_thread`."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], object]] = deque()
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.outcome: Outcome[Any] | None = None

    def soon_from_thread(self, call: Callable[[], object]) -> None:
        self.soon.append(call)  # in this order: whoever sees the descriptor ready finds the call
        os.eventfd_write(self.wakeup, 1)

    def tick(self) -> None:
        """Call what was wanted until now; what these calls want waits until the loop has had its turn."""
        for _ in range(len(self.soon)):
            self.soon.popleft()()

    def done(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome

    def ready(self, events: int) -> None:
        os.eventfd_read(self.wakeup)

    def crashed(self, error: BaseException) -> None:
        """Reading a ready eventfd does not fail."""
