"""I/O: (a timer) how late this process comes round to what it should do, counted for reports and for `status`."""

from __future__ import annotations

import trio

from bridge import limits
from bridge.delays import DelayCounts, Delays, LastMinute


async def watch_lag(delays: Delays) -> None:
    """Sleeps for a moment, again and again, and counts how late it wakes."""
    while True:
        due = trio.current_time() + limits.LAG_PROBE
        await trio.sleep_until(due)
        delays.add_late(trio.current_time() - due, limits.LAG_PROBE)


class LagStatus:
    """What a node says of the lag of its processes: `worker` (all of them together) and `supervisor`."""

    def __init__(self) -> None:
        self._recent = {"worker": LastMinute(), "supervisor": LastMinute(), "turns": LastMinute()}

    def heard(self, of: str, delays: DelayCounts) -> None:
        self._recent[of].add(delays, trio.current_time())

    def status(self) -> dict[str, float]:
        """Milliseconds, of the last minute."""
        now = trio.current_time()
        found = {}
        for of, recent in self._recent.items():
            found[f"{of}_p99_ms"] = _ms(recent.p99(now))
            found[f"{of}_longest_ms"] = _ms(recent.longest(now))
        return found

    def warnings(self) -> list[str]:
        """One for each process that is too late too often."""
        now = trio.current_time()
        return [
            f"the {of} was late by {p99:.1f} s or more one time in a hundred in the last minute: "
            "it gets too little CPU, or has too much to do"
            for of in ("worker", "supervisor")
            if (p99 := self._recent[of].p99(now)) > limits.LAG_WARNED
        ]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
