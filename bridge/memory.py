"""I/O: (the C library's allocator) memory that was used for a while and is free again goes back to the system.

The allocator keeps what was freed between pieces still in use. A process that held tens of megabytes for readers that
did not read would look as if it still did, for as long as it runs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from bridge import limits


def _trimmer() -> Callable[[], object]:
    """`malloc_trim`, where the C library has one (musl needs none)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda: None
    return lambda: trim(0)


class Returner:
    """Gives memory back once much of what waited for readers has gone.

    Args:
        trim: does it.
    """

    def __init__(self, trim: Callable[[], object] | None = None) -> None:
        self._trim = trim or _trimmer()
        self._most = 0

    def look(self, held: int) -> None:
        """Now and then, with the bytes that wait now."""
        self._most = max(self._most, held)
        if self._most - held >= limits.TRIM_AFTER and held <= self._most // 2:
            self._most = held
            self._trim()
