"""Pure: a registry in memory: the slow obvious one, which passes the same contract as the real ones.

For tests of what stands on a registry. `put` writes as a lying registry would; `before_transact` runs between what a
caller read and what it writes, so that a lost race needs no second task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import trio

from inventory.errors import InputError
from inventory.registries.interface import Change, Conflict, Record, parse_key


class MemoryRegistry:
    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.revision = 0
        self.reads = 0
        self.before_transact: Callable[[], None] | None = None
        self._leases: dict[str, tuple[bytes, float]] = {}
        self._changed = trio.Event()

    def put(self, key: str, value: bytes) -> None:
        self._bump()
        self.records[key] = Record(value, self.revision)

    def _bump(self) -> None:
        self.revision += 1
        self._changed.set()
        self._changed = trio.Event()

    async def read(self, prefix: str) -> tuple[Mapping[str, Record], int]:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        self._expire()
        return {key: self.records[key] for key in sorted(self.records) if key.startswith(prefix)}, self.revision

    async def get(self, key: str) -> Record | None:
        await trio.lowlevel.checkpoint()
        self.reads += 1
        return self.records.get(key)

    async def transact(self, changes: Sequence[Change]) -> int:
        await trio.lowlevel.checkpoint()
        if self.before_transact is not None:
            hook, self.before_transact = self.before_transact, None
            hook()
        if len({change.key for change in changes}) != len(changes):
            raise InputError("a transaction names a key twice")
        for change in changes:
            record = self.records.get(change.key)
            if change.expect is not None and change.expect != (record.version if record else 0):
                raise Conflict(change.key)
        self._bump()
        for change in changes:
            if change.value is None:
                self.records.pop(change.key, None)
            else:
                self.records[change.key] = Record(change.value, self.revision)
        return self.revision

    async def watch(self, after_revision: int) -> int:
        while True:
            changed = self._changed
            await trio.lowlevel.checkpoint()
            self._expire()
            if self.revision != after_revision:
                return self.revision
            deadlines = (deadline for _, deadline in self._leases.values())
            with trio.move_on_at(min(deadlines, default=float("inf"))):
                await changed.wait()

    def nudge(self) -> None:
        pass

    async def lease(self, key: str, value: bytes, ttl: float) -> None:
        parse_key(key)
        await trio.lowlevel.checkpoint()
        self._expire()
        is_news = key not in self._leases or self._leases[key][0] != value
        self._leases[key] = (value, trio.current_time() + ttl)
        if is_news:
            self._bump()

    async def tidy(self) -> int:
        return 0

    async def release(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if self._leases.pop(key, None) is not None:
            self._bump()

    async def leases(self, prefix: str) -> Mapping[str, bytes]:
        await trio.lowlevel.checkpoint()
        self._expire()
        return {key: self._leases[key][0] for key in sorted(self._leases) if key.startswith(prefix)}

    def _expire(self) -> None:
        for key in [key for key, (_, deadline) in self._leases.items() if deadline <= trio.current_time()]:
            del self._leases[key]
            self._bump()
