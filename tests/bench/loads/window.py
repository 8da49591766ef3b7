"""I/O: the one way in which everything with a rate is measured: two readings of a counter and of processor time.

The readings lie inside the load's run, so neither its beginning (handshakes of all connections at once) nor its end
is part of any figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

RAMP = 0.6
"""Seconds from the start of a load to the first reading: 256 handshakes of the slowest peer take 0.35 s."""
TAIL = 0.15
"""Seconds that a load runs on after the second reading."""


@dataclass(frozen=True)
class Window:
    """What happened between two readings.

    Attributes:
        cpu: seconds of processor time by node.
    """

    seconds: float
    count: int
    cpu: Mapping[str, float]

    def values(self, *, unit: float = 1.0) -> dict[str, float]:
        """`rate` per second and `cpu` seconds for each `unit` of the counter, in all and by node."""
        units = self.count / unit
        values = {"rate": units / self.seconds}
        if units and self.cpu:
            values["cpu"] = sum(self.cpu.values()) / units
            values |= {f"cpu_{node}": used / units for node, used in self.cpu.items()}
        return values


def watch(count: Callable[[], int], cpu: Callable[[], Mapping[str, float]], seconds: float) -> Window:
    """Read, let `seconds` pass, read again."""
    before, used_before, began = count(), cpu(), time.monotonic()
    time.sleep(seconds)
    after, used_after, ended = count(), cpu(), time.monotonic()
    return Window(
        seconds=ended - began,
        count=after - before,
        cpu={node: used_after[node] - used for node, used in used_before.items()},
    )
