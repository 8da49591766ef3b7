"""I/O: (trio's clock) whose turn it is to probe a host from elsewhere: one at a time, and not too many a second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio

from bridge import limits


class _Host:
    def __init__(self) -> None:
        self.lock = trio.Lock()  # takes those who wait in the order in which they came
        self.next = -float("inf")
        self.waited = 0.0


class Turns:
    """The budget of each host (`limits.CHECK_RATE_PER_HOST`), however many services it has."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def of(self, host: str) -> AsyncIterator[None]:
        """Within it, it is this probe's turn."""
        came = trio.current_time()
        known = self._hosts.setdefault(host, _Host())
        async with known.lock:
            await trio.sleep_until(known.next)
            now = trio.current_time()
            known.next, known.waited = now + 1 / limits.CHECK_RATE_PER_HOST, now - came
            yield

    def keep(self, hosts: Iterable[str]) -> None:
        """Forget all others."""
        wanted = set(hosts)
        self._hosts = {name: known for name, known in self._hosts.items() if name in wanted}

    def late(self) -> dict[str, float]:
        """Hosts whose checks want more than the budget, and for how many seconds the last one waited for its turn."""
        return {name: known.waited for name, known in self._hosts.items() if known.waited > limits.CHECK_TURN_LATE}
