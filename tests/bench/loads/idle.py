"""I/O: what a connection that does nothing costs in memory."""

from __future__ import annotations

import resource
import time

from tests.bench.place import Helper, Place
from tests.bench.systems.base import System

_SPARE_FDS = 300
"""Descriptors that a proxy needs for itself."""
_SETTLE = 0.5
"""For what follows the last connection: records sent, buffers given back."""


class IdleEnds:
    """The two processes that hold the ends; `port` is where connections arrive."""

    def __init__(self, place: Place) -> None:
        self.client = Helper(place, "tests.bench.loads.idle_ends", "client")
        self._server = Helper(place, "tests.bench.loads.idle_ends", "server")
        self.port = int(self._server.hear())


class NotMeasured(Exception):
    """This system cannot do it here; the text says why."""


class Idle:
    """`bytes` for one idle connection, all processes of the system together; `node`: all that the larger of near and
    far holds then. The system is started afresh before."""

    def __init__(self, ends: IdleEnds, *, connections: int) -> None:
        self.id = f"idle/{connections}"
        self._ends = ends
        self._connections = connections

    def measure(self, system: System) -> dict[str, float]:
        """Raises NotMeasured when the system needs more descriptors in one process than there may be."""
        needed = int(self._connections * system.fds_per_connection) + _SPARE_FDS
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if needed > limit:
            raise NotMeasured(f"one process needs {needed:,} descriptors for it and the hard limit here is {limit:,}")
        system.stop()
        system.start()
        system.wait_ready(("web", "idle"))
        time.sleep(_SETTLE)
        before = system.memory()
        entry = system.entries["idle"]
        answer = self._ends.client.ask("open", self._connections, entry.host, entry.port)
        try:
            if answer != "ok":
                raise RuntimeError(f"{self._connections} connections: {answer}")
            time.sleep(_SETTLE)
            after = system.memory()
        finally:
            self._ends.client.ask("close")
        grown = sum(after.values()) - sum(before.values())
        values = {"bytes": grown / self._connections}
        if after:
            values["node"] = float(max(after["near"], after["far"]))
        return values
