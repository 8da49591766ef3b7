"""I/O: replaces /etc/hosts by an edited copy, whole or not at all, with the same owner and mode.

Only this file touches it, and only when somebody asked for it: finding names in /etc/hosts is never the default.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bridge import limits
from inventory.errors import InputError, Unavailable


def edit(path: Path, change: Callable[[bytes], bytes]) -> bool:
    """Put `change(text)` in the place of the file's text; whether that made a difference.

    A symbolic link stays one: what it points to is replaced.

    Raises:
        InputError: `change` refused the text (`path` is put in as its place), or the file is absurdly large.
        Unavailable: the file cannot be read or replaced. It is then as it was.
    """
    real = Path(os.path.realpath(path))
    try:
        if real.stat().st_size > limits.HOSTS_FILE_MAX:
            raise InputError(f"it is larger than {limits.HOSTS_FILE_MAX} bytes", where=str(path))
        old = real.read_bytes()
        new = _changed(old, change, path)
        if new == old:
            return False
        _replace(real, new)
    except OSError as exc:
        hint = "run this as root, or use the agent's DNS server or `meshbridge resolve`, which need no such file"
        raise Unavailable(f"cannot be edited: {exc.strerror}", where=str(path), hint=hint) from None
    return True


def _changed(old: bytes, change: Callable[[bytes], bytes], path: Path) -> bytes:
    try:
        return change(old)
    except InputError as exc:
        raise InputError(exc.what, where=str(path), hint=exc.hint) from None


def _replace(path: Path, text: bytes) -> None:
    """A new file beside the old one, flushed to disk and renamed over it."""
    status = path.stat()
    descriptor, name = tempfile.mkstemp(prefix=".meshbridge-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, status.st_mode & 0o7777)
            _copy_attributes(path, descriptor)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def _copy_attributes(path: Path, descriptor: int) -> None:
    """Extended attributes, as far as we may: under SELinux the resolver is refused a file without its label."""
    with contextlib.suppress(OSError):
        for name in os.listxattr(path):
            os.setxattr(descriptor, name, os.getxattr(path, name))
