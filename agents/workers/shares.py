"""I/O: how much each data worker of a node carries, in a page of memory that all of them and their supervisor share.

All workers wait on the same listening sockets, and which of them the kernel wakes first has little to do with what each
carries: without this page a few long-lived tunnels would all end up with one. A worker looks here before it takes a
connection, and lets the others have it first when it is ahead of them. Nothing but the spread depends on what it says:
a number that is a moment old, or a worker that ended without a word, costs a few milliseconds at most.
"""

from __future__ import annotations

import mmap
import os
from typing import Literal

from bridge import limits

Kind = Literal["streams", "tunnels"]

_ROWS = limits.WORKERS_MAX * (limits.OLD_GENERATIONS_MAX + 2)
"""Those that accept, old ones that end, and those that are about to take over."""
_WIDTH = 4
_ACCEPTS, _STREAMS, _TUNNELS = 0, 1, 2
_COLUMNS: dict[Kind, int] = {"streams": _STREAMS, "tunnels": _TUNNELS}
_FIRST = _WIDTH
_BYTES = 8 * _WIDTH * (_ROWS + 1)


class _Page:
    """Numbers of 8 bytes: cell 0 says where the last row in use ends, the rows follow."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _BYTES)
        self._cells = memoryview(self._memory).cast("q")

    def close(self) -> None:
        self._cells.release()
        self._memory.close()


class SharesBoard(_Page):
    """The supervisor's hold on the page: it gives out the rows. `fd` goes to every worker."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("meshbridge-shares")
        os.ftruncate(self.fd, _BYTES)
        super().__init__(self.fd)
        self._taken: set[int] = set()

    def take(self) -> int:
        """A row for a new worker. There is one for as many as there may ever be."""
        row = next(row for row in range(_FIRST, _FIRST + _WIDTH * _ROWS, _WIDTH) if row not in self._taken)
        self._taken.add(row)
        self._cells[0] = max(self._taken) + _WIDTH
        return row

    def free(self, row: int) -> None:
        """Its worker is gone: nobody waits for it."""
        for cell in range(row, row + _WIDTH):
            self._cells[cell] = 0
        self._taken.discard(row)
        self._cells[0] = max(self._taken, default=0) + _WIDTH

    def load(self, row: int) -> int:
        """What its worker carries, as one number."""
        return self._cells[row + _STREAMS] + self._cells[row + _TUNNELS]

    def close(self) -> None:
        super().close()
        os.close(self.fd)


class Shares(_Page):
    """One worker's hold on the page. `row` is its own; owns the descriptor."""

    def __init__(self, fd: int, row: int) -> None:
        super().__init__(fd)
        os.close(fd)
        self._row = row

    def publish(self, *, accepts: bool, streams: int, tunnels: int) -> None:
        """What this worker carries now, and whether it takes new connections at all."""
        cells, row = self._cells, self._row
        cells[row + _STREAMS], cells[row + _TUNNELS] = streams, tunnels
        cells[row + _ACCEPTS] = accepts

    def is_ahead(self, kind: Kind) -> bool:
        """Whether another worker that accepts carries clearly less of it than this one."""
        cells, column = self._cells, _COLUMNS[kind]
        mine = cells[self._row + column]
        for row in range(_FIRST, cells[0], _WIDTH):
            theirs = cells[row + column]
            if cells[row] and mine - theirs >= limits.SHARE_LEAD + theirs // limits.SHARE_LEAD_DIVISOR:
                return True
        return False
