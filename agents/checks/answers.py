"""Pure: what a probe finds, in words."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from bridge import limits
from inventory.names import shown

TOO_LONG = f"the answer is longer than {limits.CHECK_READ_MAX // limits.KIB} KiB; check something smaller"


class Failed(Exception):
    """The target did not do what it should; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe found.

    Args:
        passed: the verdict.
        reason: why not, or what is worth saying of one that passed; one printable line.
        seconds: how long it took; well above the timeout means that this machine was stalled.
        timed_out: the target was too slow to be judged otherwise.
    """

    passed: bool
    reason: str = ""
    seconds: float = 0.0
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A target that did what it should.

    Args:
        note: what is worth saying of it all the same, one printable line.
        farewell: how its protocol ends a session, where just leaving would count as a broken one.
    """

    note: str = ""
    farewell: bytes | None = None


def why(exc: BaseException) -> str:
    """The system's own word for it. trio wraps what each address of a name answered; the first one speaks for all."""
    found: BaseException | None = exc
    while found is not None:
        if isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        elif isinstance(found, OSError) and found.errno is not None and found.errno in errno.errorcode:
            return os.strerror(found.errno).lower()
        else:
            found = found.__cause__
    return shown(str(exc))[1:-1] or type(exc).__name__


def sample(data: bytes) -> str:
    """The beginning of what a target said, safe to print."""
    return shown(data[:80].decode("latin-1"))
