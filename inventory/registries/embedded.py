"""I/O: the embedded registry: one SQLite file in the gateway's home, for one gateway and the commands run beside it.

Durable: WAL with a sync at every commit, so what was acknowledged survives any kill (F03). Several processes may write;
each learns of the others' changes by `nudge` (the admin socket says so) and by looking once a second. Leases live in
the memory of the process that holds them. All SQLite calls of one registry run in worker threads, one at a time.

What is stored is not trusted: the authority log in it is signed, and verified by whoever reads it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from inventory.errors import InputError
from inventory.registries.interface import Change, Record, parse_key
from inventory.registries.sqlite_file import (
    apply_changes,
    close_to_changes,
    copy_file,
    errors_of,
    open_file,
    read_prefix,
    read_revision,
)

POLL_INTERVAL = 1.0
"""How long another process's change may go unnoticed when its nudge was lost."""
CLOSE_TIMEOUT = 10.0

T = TypeVar("T")


class EmbeddedRegistry:
    """See `inventory.registries.interface.Registry` for the methods. Made by `open_embedded`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._changed = trio.Event()
        self._leases: dict[str, tuple[bytes, float]] = {}
        # Leases are not in the file, so their changes are counted here and added to the file's revision.
        self._lease_changes = 0

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            with errors_of(self._path):
                return work(self._connection)

        # Never abandoned: a cancelled caller still waits for its transaction, so its outcome is never unknown.
        return await trio.to_thread.run_sync(run, limiter=self._one_at_a_time)

    async def read(self, prefix: str) -> tuple[Mapping[str, Record], int]:
        records, revision = await self._run(lambda connection: read_prefix(connection, prefix))
        return records, revision + self._expired_leases()

    async def get(self, key: str) -> Record | None:
        query = "SELECT CAST(value AS BLOB), version FROM records WHERE key = ?"
        row = await self._run(lambda connection: connection.execute(query, (key,)).fetchone())
        return None if row is None else Record(bytes(row[0]), row[1])

    async def transact(self, changes: Sequence[Change]) -> int:
        if len({change.key for change in changes}) != len(changes):
            raise InputError("a transaction names a key twice")
        revision = await self._run(lambda connection: apply_changes(connection, changes))
        self.nudge()
        return revision + self._expired_leases()

    async def watch(self, after_revision: int) -> int:
        while True:
            changed = self._changed
            revision = await self._run(read_revision) + self._expired_leases()
            if revision != after_revision:
                return revision
            with trio.move_on_after(min(POLL_INTERVAL, self._until_next_expiry())):
                await changed.wait()

    def nudge(self) -> None:
        """Says that something changed, maybe in another process: every watch looks again now."""
        self._changed.set()
        self._changed = trio.Event()

    async def lease(self, key: str, value: bytes, ttl: float) -> None:
        parse_key(key)
        self._expired_leases()
        is_news = key not in self._leases or self._leases[key][0] != value
        self._leases[key] = (value, trio.current_time() + ttl)
        if is_news:
            self._lease_changes += 1
            self.nudge()
        await trio.lowlevel.checkpoint()

    async def tidy(self) -> int:
        return 0  # SQLite leaves nothing

    async def release(self, key: str) -> None:
        if self._leases.pop(key, None) is not None:
            self._lease_changes += 1
            self.nudge()
        await trio.lowlevel.checkpoint()

    async def leases(self, prefix: str) -> Mapping[str, bytes]:
        await trio.lowlevel.checkpoint()
        self._expired_leases()
        return {key: self._leases[key][0] for key in sorted(self._leases) if key.startswith(prefix)}

    async def backup(self, to_path: Path, changes: Sequence[Change] = ()) -> None:
        """A consistent copy while everything runs, 0600 and durable when this returns; `changes` are made in the copy
        only (see `authority.closing_invites`). To restore it, stop the gateway, remove the registry's
        file and its -wal and -shm companions, and copy the backup there.

        Raises:
            Unavailable: it cannot be written. No file is left behind.
        """
        await trio.to_thread.run_sync(copy_file, self._path, to_path, changes)

    async def close_to_changes(self, *, closed: bool = True) -> None:
        """Refuses all changes from now on, to every process, or takes them again: for a registry that is moved."""
        await self._run(lambda connection: close_to_changes(connection, closed=closed))

    def _expired_leases(self) -> int:
        """Forgets leases that ran out; returns the count of lease changes so far."""
        now = trio.current_time()
        expired = [key for key, (_, deadline) in self._leases.items() if deadline <= now]
        for key in expired:
            del self._leases[key]
        self._lease_changes += len(expired)
        return self._lease_changes

    def _until_next_expiry(self) -> float:
        deadlines = (deadline for _, deadline in self._leases.values())
        return max(0.0, min(deadlines, default=float("inf")) - trio.current_time())


@asynccontextmanager
async def open_embedded(path: Path) -> AsyncIterator[EmbeddedRegistry]:
    """The registry in the file `path`, created when there is none, closed at the end.

    Raises:
        InputError: another program's database, another format, or permissions that let others in (says the chmod).
        Unavailable: it cannot be opened or created.
    """
    connection = await trio.to_thread.run_sync(open_file, path)
    registry = EmbeddedRegistry(path, connection)
    try:
        yield registry
    finally:
        # Must happen on cancellation too, and waits only for a transaction under way and the disk.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await registry._run(lambda opened: opened.close())
