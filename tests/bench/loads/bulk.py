"""I/O: bulk transfers, one stream and several, towards the service (`up`) and from it (`down`)."""

from __future__ import annotations

import time

from tests.bench.loads.window import watch
from tests.bench.place import Helper, Place
from tests.bench.systems.base import System

GB = 1e9
_RAMP = 0.3


class BulkEnds(Helper):
    """The process with both ends; it lives as long as the benchmark, because systems are told its port."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, "tests.bench.loads.bulk_ends")
        self.port = int(self.hear())


class Bulk:
    """One transfer: `rate` in GB/s, `cpu` in seconds for one GB (10^9 bytes that have arrived)."""

    def __init__(self, ends: BulkEnds, *, direction: str, streams: int, seconds: float) -> None:
        self.id = f"bulk/{direction}/{streams}"
        self._ends = ends
        self._direction = direction
        self._streams = streams
        self._seconds = seconds

    def measure(self, system: System) -> dict[str, float]:
        entry = system.entries["bulk"]
        answer = self._ends.ask("start", self._direction, self._streams, entry.host, entry.port)
        if answer != "ok":
            raise RuntimeError(f"bulk transfer: {answer}")
        try:
            time.sleep(_RAMP)
            window = watch(lambda: int(self._ends.ask("count")), system.cpu, self._seconds)
        finally:
            self._ends.ask("stop")
        return window.values(unit=GB)
