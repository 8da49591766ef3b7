"""I/O: what a node knows is on disk soon after it changed; while it cannot be, the node says so and tries again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from agents.node import warning
from agents.supervisor import Latest
from bridge import limits
from inventory.errors import MeshError


class Saving:
    """Calls `write` once for everybody who asks within SAVE_DELAY, and again after SAVE_RETRY until it succeeds.

    Args:
        write: puts on disk what is to be there by then. Raises MeshError when it cannot.
    """

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        self._write = write
        self._wanted = Latest()
        self._failure = ""

    def ask(self) -> None:
        self._wanted.ask()

    async def run(self) -> None:
        while True:
            await self._wanted.asked()
            await trio.sleep(limits.SAVE_DELAY)
            try:
                await self._write()
                self._failure = ""
            except MeshError as exc:
                self._failure = f"what is known is not saved: {exc}; {exc.hint or 'it is tried again'}"
                await trio.sleep(limits.SAVE_RETRY)
                self.ask()

    def warnings(self) -> list[dict[str, str]]:
        return [warning("save", self._failure, severity="error")] if self._failure else []
