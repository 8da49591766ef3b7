"""I/O: the content of a file written by people, bounded. It reads; it must never create, follow or repair anything."""

from __future__ import annotations

from pathlib import Path

from inventory.errors import InputError


def read_bounded(path: Path, limit: int) -> bytes:
    """The file's bytes, at most `limit` + 1 of them: one more than allowed tells the parser that it is too large.

    Raises:
        InputError: it cannot be read, with the system's reason.
    """
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as exc:
        raise InputError(f"cannot be read: {exc.strerror}", where=str(path), hint="check the path") from None
