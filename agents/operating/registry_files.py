"""I/O: the files of a registry in a home: all that is in one of them, and old ones set aside."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import trio

from agents import clock
from inventory.registries.embedded import open_embedded
from inventory.registries.interface import Change, Registry
from inventory.registries.sqlite_file import copy_file

COMPANIONS = ("", "-wal", "-shm")
"""What SQLite puts behind the name of its file."""


def with_companions(path: Path) -> list[Path]:
    """Those of a registry's files that exist, the file itself first."""
    return [found for suffix in COMPANIONS if (found := path.with_name(path.name + suffix)).exists()]


@contextlib.contextmanager
def temporary_registry(directory: Path) -> Iterator[Path]:
    """A name for a registry that is only for a while; gone at the end either way."""
    path = directory / f".registry.{secrets.token_hex(8)}.tmp"
    try:
        yield path
    finally:
        for suffix in COMPANIONS:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


async def write_out(registry: Registry, to_path: Path, changes: Sequence[Change] = ()) -> None:
    """All of `registry` at one moment in one file, 0600 and durable when this returns, with `changes` made in it.

    Raises:
        Unavailable: it cannot be written. No file is left behind.
    """
    records, _ = await registry.read("")
    with temporary_registry(to_path.parent) as temporary:
        async with open_embedded(temporary) as copy:
            await copy.transact([Change(key, 0, record.value) for key, record in records.items()])
        await trio.to_thread.run_sync(copy_file, temporary, to_path, changes)


def make_aside(home: Path) -> Path:
    """A new directory in the home, named after this moment. Raises OSError."""
    moment = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = home / f"registry-before-{moment}-{secrets.token_hex(2)}"
    aside.mkdir(mode=0o700)
    return aside


def move(paths: Iterable[Path], directory: Path) -> None:
    """In this order: of a registry the file itself first, as nobody can open the rest without it. Raises OSError."""
    for path in paths:
        path.rename(directory / path.name)


def sync(directory: Path) -> None:
    """Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
