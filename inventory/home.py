"""I/O: the home directory's files: written whole or not at all, secrets for their owner only, one node per home.

A file is written to a new temporary file in the same directory (created 0600 for a secret, never opened through a
link), synced, renamed over the old one, and the directory is synced: after a crash it is the old file or the new one
(F03). Checks are on the open file descriptor, so nobody can swap the file in between. Nothing here parses content.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from inventory.errors import InputError, Unavailable

SECRET_MAX_BYTES = 1024 * 1024
"""Largest secret file read; the largest of ours is a key with its certificates."""
FILE_MAX_BYTES = 256 * 1024 * 1024

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _failed(verb: str, path: Path, exc: OSError, *, size: int = 0) -> Unavailable:
    """The error for a failed system call on `path`: what, where, and what to do about it."""
    if exc.errno in _FULL:
        return Unavailable(
            f"no space left to {verb} {f'{size} bytes' if size else 'it'}",
            where=str(path),
            hint=f"free space on the file system of {path.parent}",
        )
    hint = ""
    if exc.errno == errno.EROFS:
        hint = "remount the file system read-write, or choose another --home"
    elif exc.errno in (errno.EACCES, errno.EPERM):
        hint = f"run as the owner of {path.parent}, or chmod u+rwx {path.parent}"
    elif exc.errno == errno.ENOENT:
        hint = "is the path right, and is this the right --home?"
    elif exc.errno == errno.ELOOP:
        hint = "it is a symbolic link; put the file itself there"
    return Unavailable(f"cannot {verb} it: {exc.strerror}", where=str(path), hint=hint)


def make_home(home: Path) -> None:
    """Creates the directory (0700) when there is none, and checks it.

    Raises:
        InputError: others can write to it, or it belongs to somebody else; says the exact command (F28).
        Unavailable: it cannot be created.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise _failed("create", home, exc) from None
    with _directory(home):
        pass


def _check_owner(path: Path, info: os.stat_result) -> None:
    if info.st_uid != os.geteuid():
        raise InputError(
            f"it belongs to user {info.st_uid}, this process runs as user {os.geteuid()}",
            where=str(path),
            hint=f"chown {os.geteuid()} {path}",
        )


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """The directory as a descriptor, once it is known that nobody else can put files into it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise _failed("open", path, exc) from None
    try:
        info = os.fstat(fd)
        _check_owner(path, info)
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InputError("other users can write to this directory", where=str(path), hint=f"chmod go-w {path}")
        yield fd
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _replace(path: Path, content: bytes, mode: int, *, keep: bool = False) -> None:
    with _directory(path.parent) as directory:
        temporary = f".{path.name}.{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, mode, dir_fd=directory)
            try:
                _write_all(fd, content)
                os.fsync(fd)
            finally:
                os.close(fd)
            if keep:
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
                os.unlink(temporary, dir_fd=directory)
            else:
                os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except BaseException as exc:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            if isinstance(exc, OSError):
                raise _failed("write", path, exc, size=len(content)) from None
            raise


def write_secret(path: Path, content: bytes) -> None:
    """Writes a secret: 0600 from its creation on, durable when this returns.

    Raises:
        InputError: the directory is open to others.
        Unavailable: disk full, read-only and the like. The old file is intact.
    """
    _replace(path, content, 0o600)


def write_new_secret(path: Path, content: bytes) -> None:
    """As `write_secret`, but whoever made one meanwhile was first, and theirs stays."""
    _replace(path, content, 0o600, keep=True)


def write_file(path: Path, content: bytes) -> None:
    """Writes what is no secret (0644 less the umask) just as safely. Raises as `write_secret` does."""
    _replace(path, content, 0o644)


def _read(path: Path, most: int, *, is_secret: bool) -> bytes:
    try:
        # A FIFO in its place must not hang us; a link must not lead elsewhere.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise _failed("read", path, exc) from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise InputError("it is not a regular file", where=str(path), hint="move it away and put the file back")
        if is_secret:
            check_secret(path, info)
        if info.st_size > most:
            raise InputError(f"it has {info.st_size} bytes, at most {most} are allowed", where=str(path))
        with os.fdopen(fd, "rb", closefd=False) as file:
            # One more than allowed, so that a file that grows meanwhile is noticed.
            content = file.read(most + 1)
    except OSError as exc:
        raise _failed("read", path, exc) from None
    finally:
        os.close(fd)
    if len(content) > most:
        raise InputError(f"it has more than {most} bytes", where=str(path))
    return content


def check_secret(path: Path, info: os.stat_result) -> None:
    """Refuses a secret file that others can read or write, or that somebody else owns (F28).

    Raises:
        InputError: says the exact command that repairs it.
    """
    _check_owner(path, info)
    if info.st_mode & 0o077:
        raise InputError(
            f"other users can reach this secret (mode {stat.S_IMODE(info.st_mode):04o})",
            where=str(path),
            hint=f"chmod 600 {path}",
        )


def read_secret(path: Path, most: int = SECRET_MAX_BYTES) -> bytes:
    """A secret file's content.

    Raises:
        InputError: others can read it, wrong owner, a link, not a file, larger than `most` bytes.
        Unavailable: it is not there, or cannot be read.
    """
    return _read(path, most, is_secret=True)


def read_file(path: Path, most: int = FILE_MAX_BYTES) -> bytes:
    """The content of a file that is no secret. Raises as `read_secret` does, permissions aside."""
    return _read(path, most, is_secret=False)


class HomeLock:
    """The right to run a node in this home; held until `close` or the end of the process, however it ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> HomeLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _note_holder(fd: int) -> None:
    """Our process id, for whoever finds the home taken. On a full disk it is left out: the lock holds without it."""
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    except OSError as exc:
        if exc.errno not in _FULL:
            raise


def lock_home(home: Path) -> HomeLock:
    """Takes the home for this process (F17). Children started by exec do not inherit it.

    Raises:
        Unavailable: another process has it; names its process id.
    """
    path = home / "lock"
    with _directory(home) as directory:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open("lock", flags, 0o600, dir_fd=directory)
        except OSError as exc:
            raise _failed("open", path, exc) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _note_holder(fd)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace")
        os.close(fd)
        raise Unavailable(
            f"another meshbridge node runs in this home (process {holder if holder.isdigit() else 'unknown'})",
            where=str(home),
            hint="stop it first, or choose another --home",
        ) from None
    except OSError as exc:
        os.close(fd)
        raise _failed("lock", path, exc) from None
    return HomeLock(fd)
