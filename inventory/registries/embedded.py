"""I/O: the embedded registry: one SQLite file in the gateway's home, for one gateway and the commands run beside it.

Durable: WAL with a sync at every commit, so what was acknowledged survives any kill (F03). Several processes may write;
each learns of the others' changes by `nudge` (the admin socket says so) and by looking once a second. Leases live in
the memory of the process that holds them. All SQLite calls of one registry run in worker threads, one at a time.

What is stored is not trusted: the authority log in it is signed, and verified by whoever reads it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from inventory.errors import InputError, Unavailable
from inventory.home import check_secret
from inventory.names import shown
from inventory.registries.interface import Change, Conflict, Record, parse_key

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process's transaction; ours take milliseconds."""
POLL_INTERVAL = 1.0
"""How long another process's change may go unnoticed when its nudge was lost."""
CLOSE_TIMEOUT = 10.0
APPLICATION_ID = 0x4D425231
SCHEMA_VERSION = 1

_SCHEMA = (
    "CREATE TABLE records (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE revision (number INTEGER NOT NULL)",
    "INSERT INTO revision VALUES (0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# After every key that starts with the prefix: keys are printable ASCII.
_AFTER = "\x7f"

T = TypeVar("T")


def _permission_hint(path: Path) -> str:
    """The exact command that lets SQLite write the file and its companions, as far as can be seen from here (F28)."""
    if not path.parent.is_dir():
        return "is this the right --home?"
    if not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        return f"chmod u+rwx {path.parent}"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"chmod 600 {path}"
    return f"put the file itself at {path}" if path.is_symlink() else "remount its file system read-write"


def _unavailable(path: Path, exc: sqlite3.Error) -> Unavailable:
    """SQLite's error as ours, by its primary result code (https://sqlite.org/rescode.html)."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    hints = {
        sqlite3.SQLITE_FULL: ("no space left for the registry", f"free space on the file system of {path.parent}"),
        sqlite3.SQLITE_READONLY: ("the registry is read-only", _permission_hint(path)),
        sqlite3.SQLITE_CANTOPEN: ("the registry cannot be opened", _permission_hint(path)),
        sqlite3.SQLITE_BUSY: ("the registry is locked by another process", "end the process that holds it"),
        sqlite3.SQLITE_CORRUPT: ("the registry is damaged", f"stop the gateway and put a backup in place of {path}"),
        sqlite3.SQLITE_NOTADB: ("this is not a registry", f"stop the gateway and put a backup in place of {path}"),
        sqlite3.SQLITE_IOERR: ("the disk failed under the registry", f"check the disk that holds {path}"),
    }
    what, hint = hints.get(code, (f"the registry does not answer: {shown(str(exc))}", ""))
    return Unavailable(what, where=str(path), hint=hint)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise _unavailable(path, exc) from None


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back after some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to an existing file, used by one thread at a time though not always the same one."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT,
        check_same_thread=False,
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _create_file(path: Path) -> None:
    """The empty file with its final mode: SQLite gives its WAL files the mode of the database (F28)."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        what = f"the registry cannot be opened: {exc.strerror}"
        raise Unavailable(what, where=str(path), hint=_permission_hint(path)) from None
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISREG(info.st_mode):
        raise InputError("the registry is not a regular file", where=str(path))
    check_secret(path, info)


def _open(path: Path) -> sqlite3.Connection:
    _create_file(path)
    with _errors_of(path):
        connection = _connect(path)
        try:
            with _transaction(connection):
                if connection.execute("PRAGMA schema_version").fetchone()[0] == 0:
                    for statement in _SCHEMA:
                        connection.execute(statement)
            _check_format(connection, path)
            connection.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            connection.close()
            raise
    return connection


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise InputError("this database is not a registry", where=str(path), hint="is this the right --home?")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise InputError(
            f"the registry has format {version}, this program knows {SCHEMA_VERSION}",
            where=str(path),
            hint="run the version of meshbridge that wrote it, or a later one",
        )


def _revision(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("SELECT number FROM revision").fetchone()[0]
    return number


def _apply(connection: sqlite3.Connection, changes: Sequence[Change]) -> int:
    with _transaction(connection):
        revision = _revision(connection) + 1
        for change in changes:
            row = connection.execute("SELECT version FROM records WHERE key = ?", (change.key,)).fetchone()
            if change.expect is not None and change.expect != (row[0] if row else 0):
                raise Conflict(change.key)
            if change.value is None:
                connection.execute("DELETE FROM records WHERE key = ?", (change.key,))
            else:
                connection.execute(
                    "INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (change.key, change.value, revision)
                )
        connection.execute("UPDATE revision SET number = ?", (revision,))
    return revision


def _select(connection: sqlite3.Connection, prefix: str) -> tuple[dict[str, Record], int]:
    with _transaction(connection, "BEGIN"):
        rows = connection.execute(
            "SELECT key, value, version FROM records WHERE key >= ? AND key < ? ORDER BY key", (prefix, prefix + _AFTER)
        )
        records = {key: Record(bytes(value), version) for key, value, version in rows}
        return records, _revision(connection)


def _copy(path: Path, to_path: Path, changes: Sequence[Change]) -> None:
    """A complete copy of the registry at one moment, with `changes` made in it, durable under `to_path`."""
    temporary = to_path.with_name(f".{to_path.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with (
            _errors_of(path),
            contextlib.closing(_connect(path)) as source,
            _errors_of(to_path),
            contextlib.closing(_connect(temporary)) as target,
        ):
            # In one step, which reads one WAL snapshot while others go on writing.
            source.backup(target, pages=-1)
            # One file without companions, which can be moved anywhere.
            target.execute("PRAGMA journal_mode = DELETE")
            if changes:
                _apply(target, changes)
        _sync(temporary)
        temporary.rename(to_path)
        _sync(to_path.parent)
    except OSError as exc:
        raise Unavailable(f"the backup cannot be written: {exc.strerror}", where=str(to_path)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
            with _errors_of(self._path):
                return work(self._connection)

        # Never abandoned: a cancelled caller still waits for its transaction, so its outcome is never unknown.
        return await trio.to_thread.run_sync(run, limiter=self._one_at_a_time)

    async def read(self, prefix: str) -> tuple[Mapping[str, Record], int]:
        records, revision = await self._run(lambda connection: _select(connection, prefix))
        return records, revision + self._expired_leases()

    async def get(self, key: str) -> Record | None:
        query = "SELECT value, version FROM records WHERE key = ?"
        row = await self._run(lambda connection: connection.execute(query, (key,)).fetchone())
        return None if row is None else Record(bytes(row[0]), row[1])

    async def transact(self, changes: Sequence[Change]) -> int:
        if len({change.key for change in changes}) != len(changes):
            raise InputError("a transaction names a key twice")
        revision = await self._run(lambda connection: _apply(connection, changes))
        self.nudge()
        return revision + self._expired_leases()

    async def watch(self, after_revision: int) -> int:
        while True:
            changed = self._changed
            revision = await self._run(_revision) + self._expired_leases()
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
        only (see `authority.closing_invites`). Restoring it is putting it in place of the registry's file.

        Raises:
            Unavailable: it cannot be written. No file is left behind.
        """
        await trio.to_thread.run_sync(_copy, self._path, to_path, changes)

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
    connection = await trio.to_thread.run_sync(_open, path)
    registry = EmbeddedRegistry(path, connection)
    try:
        yield registry
    finally:
        # Must happen on cancellation too, and waits only for a transaction under way and the disk.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await registry._run(lambda opened: opened.close())
