"""Pure: wrk's latency histogram, as our script writes it, and what is read out of it.

wrk adds samples that it never took: for every answer slower than twice the mean interval, one for each interval that
the connection "missed". At the start of a run that counts the handshakes of a proxy many times over and makes p99 a
figure about something else, so we take those samples out again and report what was really measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WrkRun:
    """One run of wrk; `counts` is how many answers took each number of microseconds."""

    duration_us: int
    requests: int
    errors: int
    counts: Mapping[int, int]


def parse(text: str) -> WrkRun:
    """`duration requests errors` on the first line, `microseconds count` on every other one. Raises ValueError."""
    first, *rest = text.splitlines() or [""]
    duration, requests, errors = (int(word) for word in first.split())
    counts: dict[int, int] = {}
    for line in rest:
        value, count = line.split()
        counts[int(value)] = int(count)
    return WrkRun(duration, requests, errors, counts)


def uncorrected(run: WrkRun, connections: int) -> dict[int, int]:
    """The samples that wrk took: one for each request.

    wrk put one sample at v - e, v - 2e, ... (as long as that is above e) for each sample at v >= 2e, with e the mean
    interval between two requests of one connection. So what it added at m is all that it has at m + e.
    """
    taken = sum(run.counts.values())
    per_connection = run.requests // connections
    if taken <= run.requests or per_connection == 0:
        return dict(run.counts)
    interval = run.duration_us // per_connection
    own = {
        value: count - (run.counts.get(value + interval, 0) if value > interval else 0)
        for value, count in run.counts.items()
    }
    return {value: count for value, count in own.items() if count > 0}


def percentile(counts: Mapping[int, int], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all samples do not exceed. Raises ValueError when empty."""
    total = sum(counts.values())
    if not total:
        raise ValueError("no answer at all")
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * total:
            return float(value)
    raise AssertionError("the last value has all samples")
