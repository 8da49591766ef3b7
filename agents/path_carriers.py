"""I/O: which data worker of a gateway carries which path, and how many it can."""

from __future__ import annotations

import resource
from collections.abc import Callable

import trio

from agents.control.paths import Joined
from agents.data_workers import DataWorkers
from agents.supervisor import DataWorkerProcess
from agents.workers import messages as m
from bridge import limits

_FDS_PER_PATH = 8
"""Two sockets and two pipes in the worker, and room for all that is no path."""


def paths_max() -> int:
    """How many paths one worker may carry, by the descriptors that it may have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limits.SPLICES_MAX if hard == resource.RLIM_INFINITY else min(limits.SPLICES_MAX, hard // _FDS_PER_PATH)


class PathCarriers:
    """Owner of the list. `ended` is told of every path that is over."""

    def __init__(self, workers: DataWorkers, ended: Callable[[int], None]) -> None:
        self._workers = workers
        self._ended = ended
        self._carriers: dict[int, DataWorkerProcess] = {}

    async def join(self, joined: Joined) -> None:
        """Have the worker that carries the least splice it. Owns its sockets.

        Hosts find a gateway that became another version before its workers have started: they wait for these.
        """
        try:
            with trio.move_on_after(limits.WORKER_START_TIMEOUT):
                await self._workers.started()
        except trio.Cancelled:
            for sock in joined.sockets:
                sock.close()
            self._ended(joined.id)
            raise
        worker = self._workers.tell_one(m.Join(id=joined.id, a=joined.a, b=joined.b), joined.sockets)
        if worker is None:
            self._ended(joined.id)
        else:
            self._carriers[joined.id] = worker

    def unjoin(self, path_id: int, reason: str) -> None:
        worker = self._carriers.get(path_id)
        if worker is not None:
            worker.tell(m.Unjoin(id=path_id, reason=reason))

    def over(self, path_id: int) -> None:
        self._carriers.pop(path_id, None)
        self._ended(path_id)

    def worker_gone(self, worker: DataWorkerProcess) -> None:
        for path_id in [path_id for path_id, carrier in self._carriers.items() if carrier is worker]:
            self.over(path_id)
