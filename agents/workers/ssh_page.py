"""I/O: a page of memory on which an ssh worker notes the host whose bytes it is working on, for its supervisor to read.

A worker that hangs can say nothing. The supervisor that kills it learns here which host hung it, and can leave that one
alone, so that it costs the others one restart and not one after the other. Nothing else depends on what the page says.
"""

from __future__ import annotations

import mmap
import os

_BYTES = 512
_NAME_MAX = 255


class _Page:
    """A length byte and a name of ASCII."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _BYTES)

    def close(self) -> None:
        self._memory.close()


class SuspectPage(_Page):
    """The supervisor's hold on it. `fd` goes to the worker with its first message."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("meshbridge-ssh")
        os.ftruncate(self.fd, _BYTES)
        super().__init__(self.fd)

    def suspect(self) -> str | None:
        """The host that the worker is, or was when it ended, busy with."""
        length = self._memory[0]
        return self._memory[1 : 1 + length].decode("ascii", "replace") or None

    def clear(self) -> None:
        """Before another worker uses it."""
        self._memory[0] = 0

    def close(self) -> None:
        super().close()
        os.close(self.fd)


class SuspectNote(_Page):
    """The worker's hold on it; owns the descriptor."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        os.close(fd)

    def busy_with(self, name: bytes) -> None:
        """Called around every handful of bytes that a host sends: two small copies."""
        self._memory[1 : 1 + len(name)] = name
        self._memory[0] = len(name)

    def idle(self) -> None:
        self._memory[0] = 0


def noted(host: str) -> bytes:
    """A host's name as it is noted."""
    return host.encode("ascii", "replace")[:_NAME_MAX]
