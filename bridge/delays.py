"""Pure: how late a loop is and how long its turns take, counted in buckets: what is reported, and the last minute.

A loop has two figures. *Lag* is how much later than due a timer came: what any task of the process waits for its turn.
*Turns* are how long one round of the relay loop took: what a byte waits that came in just after it began.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Annotated

import msgspec

from bridge import limits
from bridge.flows import Count

BOUNDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""20 ms and 100 ms, the goals for the 99th percentile and the longest under attack, are among them."""

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Buckets = Annotated[tuple[Count, ...], msgspec.Meta(max_length=64)]


class DelayCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Delays since the last report: how many fell below each of BOUNDS, their sum, and the longest; seconds."""

    counts: Buckets = ()
    sum: Seconds = 0.0
    longest: Seconds = 0.0


class Delays:
    """What is counted since it was last taken. Cheap enough for every turn of a loop. Not thread-safe."""

    __slots__ = ("_counts", "_sum", "longest")

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds
        if seconds > self.longest:
            self.longest = seconds

    def add_late(self, seconds: float, interval: float) -> None:
        """A timer that comes every `interval` was so late. Those that a stall left out are counted as late as they
        would have been, or one long stall among short waits would look like nothing."""
        while True:
            self.add(max(seconds, 0.0))
            seconds -= interval
            if seconds <= 0.0:
                return

    def take(self) -> DelayCounts:
        """Everything since the last take."""
        taken = DelayCounts(counts=tuple(self._counts), sum=self._sum, longest=self.longest)
        self._clear()
        return taken


class LastMinute:
    """The delays of about the last LAG_WINDOW seconds, for a person who looks now."""

    def __init__(self) -> None:
        self._parts: deque[tuple[float, DelayCounts]] = deque()

    def add(self, delays: DelayCounts, now: float) -> None:
        self._parts.append((now, delays))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._parts and self._parts[0][0] <= now - limits.LAG_WINDOW:
            self._parts.popleft()

    def longest(self, now: float) -> float:
        self._forget(now)
        return max((part.longest for _, part in self._parts), default=0.0)

    def p99(self, now: float) -> float:
        """The bound below which 99 of 100 were; the longest where that is less."""
        longest = self.longest(now)
        totals = [0] * (len(BOUNDS) + 1)
        for _, part in self._parts:
            for index, count in enumerate(part.counts[: len(totals)]):
                totals[index] += count
        return min(longest, percentile(totals, 0.99))


def percentile(counts: Sequence[int], share: float) -> float:
    """The bucket's upper bound that `share` of all counts do not exceed; 0 without any, infinity beyond the last."""
    wanted = share * sum(counts)
    running = 0
    for count, bound in zip(counts, (*BOUNDS, float("inf")), strict=False):
        running += count
        if running >= wanted:
            return bound if running else 0.0
    return 0.0
