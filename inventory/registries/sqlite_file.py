"""I/O: the registry's SQLite file: opened, read, changed and copied by plain functions that block until it is done.

What is committed is on the disk (WAL, a sync at every commit). SQLite's errors become ours here and nowhere else.
`embedded` calls these in worker threads; nothing here knows of trio, leases or watches.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from inventory.errors import InputError, Unavailable
from inventory.home import check_secret
from inventory.names import shown
from inventory.registries.interface import Change, Conflict, Record

BUSY_TIMEOUT = 5.0
"""Seconds to wait for another process's transaction; ours take milliseconds."""
APPLICATION_ID = 0x4D425231
SCHEMA_VERSION = 1

_SCHEMA = (
    "CREATE TABLE records (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE revision (number INTEGER NOT NULL)",
    "INSERT INTO revision VALUES (0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_CLOSED = {
    f"closed_to_{what}": f"CREATE TRIGGER closed_to_{what} BEFORE {what} ON records "
    "BEGIN SELECT RAISE(ABORT, 'closed'); END"
    for what in ("insert", "delete")
}
"""Trigger -> the statement that makes it."""

# After every key that starts with the prefix: keys are printable ASCII.
_AFTER = "\x7f"


def _permission_hint(path: Path) -> str:
    """The exact command that lets SQLite write the file and its companions, as far as can be seen from here (F28)."""
    if not path.parent.is_dir():
        return "is this the right --home?"
    if not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        return f"chmod u+rwx {path.parent}"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"chmod 600 {path}"
    return f"put the file itself at {path}" if path.is_symlink() else "remount its file system read-write"


def _restore_hint(path: Path) -> str:
    # A write-ahead log that stays behind would be played into the restored file and damage it.
    return f"stop the gateway, rm -f {path} {path}-wal {path}-shm, then copy a backup to {path}"


def _unavailable(path: Path, exc: sqlite3.Error) -> Unavailable:
    """SQLite's error as ours, by its primary result code (https://sqlite.org/rescode.html)."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    hints = {
        sqlite3.SQLITE_FULL: ("no space left for the registry", f"free space on the file system of {path.parent}"),
        sqlite3.SQLITE_READONLY: ("the registry is read-only", _permission_hint(path)),
        sqlite3.SQLITE_CANTOPEN: ("the registry cannot be opened", _permission_hint(path)),
        sqlite3.SQLITE_BUSY: ("the registry is locked by another process", "end the process that holds it"),
        sqlite3.SQLITE_CORRUPT: ("the registry is damaged", _restore_hint(path)),
        sqlite3.SQLITE_NOTADB: ("this is not a registry", _restore_hint(path)),
        sqlite3.SQLITE_CONSTRAINT: (  # of the triggers below; the tables have none that ours could break
            "the registry is being moved to Consul, or was",
            "run the command again; if `registry copy` was killed, run that again first",
        ),
        # SQLite says this, and not FULL, when there is no room for its shared memory or the limit of a file is reached.
        sqlite3.SQLITE_IOERR: (
            "the disk is full or has failed under the registry",
            f"look at `df {path.parent}` first; if there is space, check that disk",
        ),
    }
    what, hint = hints.get(code, (f"the registry does not answer: {shown(str(exc))}", ""))
    return Unavailable(what, where=str(path), hint=hint)


@contextlib.contextmanager
def errors_of(path: Path) -> Iterator[None]:
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
    try:
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
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


def open_file(path: Path) -> sqlite3.Connection:
    _create_file(path)
    with errors_of(path):
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


def read_revision(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("SELECT number FROM revision").fetchone()[0]
    return number


def apply_changes(connection: sqlite3.Connection, changes: Sequence[Change]) -> int:
    with _transaction(connection):
        revision = read_revision(connection) + 1
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


def read_prefix(connection: sqlite3.Connection, prefix: str) -> tuple[dict[str, Record], int]:
    with _transaction(connection, "BEGIN"):
        rows = connection.execute(
            # Whatever type somebody else's hand gave a value, it is bytes to us, to be verified.
            "SELECT key, CAST(value AS BLOB), version FROM records WHERE key >= ? AND key < ? ORDER BY key",
            (prefix, prefix + _AFTER),
        )
        records = {key: Record(bytes(value), version) for key, value, version in rows}
        return records, read_revision(connection)


def close_to_changes(connection: sqlite3.Connection, *, closed: bool) -> None:
    """By triggers, which whoever has the file open already obeys too. They change nothing of its content."""
    with _transaction(connection):
        for name, statement in _CLOSED.items():
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
            if closed:
                connection.execute(statement)


def copy_file(path: Path, to_path: Path, changes: Sequence[Change]) -> None:
    """A complete copy of the registry at one moment, with `changes` made in it, durable under `to_path`."""
    temporary = to_path.with_name(f".{to_path.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with (
            errors_of(path),
            contextlib.closing(_connect(path)) as source,
            errors_of(to_path),
            contextlib.closing(_connect(temporary)) as target,
        ):
            # In one step, which reads one WAL snapshot while others go on writing.
            source.backup(target, pages=-1)
            # One file without companions, which can be moved anywhere.
            target.execute("PRAGMA journal_mode = DELETE")
            close_to_changes(target, closed=False)
            if changes:
                apply_changes(target, changes)
        _sync(temporary)
        temporary.rename(to_path)
        _sync(to_path.parent)
    except OSError as exc:
        hint = f"check that {to_path.parent} is a directory, that you may write to it, and that it has space"
        raise Unavailable(f"the backup cannot be written: {exc.strerror}", where=str(to_path), hint=hint) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
