"""I/O: how late the loops of a node were while something was done to it, from its metrics page."""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import dataclass

from bridge.delays import BOUNDS, percentile
from tests.support.estate import Estate

OPTIONS = ("--metrics", "127.0.0.1:0")
"""What a node has to be started with."""
GOAL_P99 = 0.02
GOAL_LONGEST = 0.1
"""Seconds. What a machine that does nothing else is held to; a shared one stalls by itself."""
SHARED_P99 = 0.25
"""What holds on a shared machine of two cores, where the test, its servers and all nodes compete."""

_WHAT = {
    "worker": 'meshbridge_loop_lag_seconds_bucket{le="%s",process="worker"}',
    "supervisor": 'meshbridge_loop_lag_seconds_bucket{le="%s",process="supervisor"}',
    "turns": 'meshbridge_loop_turn_seconds_bucket{le="%s"}',
}


@dataclass
class Lag:
    """Seconds. `longest` is the bound of the highest bucket with anything in it."""

    count: int
    p99: float
    longest: float

    def __str__(self) -> str:
        return f"p99 <= {self.p99 * 1e3:g} ms, longest <= {self.longest * 1e3:g} ms of {self.count}"


class LagWatch:
    """Counts from its making on.

    Args:
        home: a node that was started with OPTIONS.
    """

    def __init__(self, estate: Estate, home: str) -> None:
        self.home = home
        told = json.loads(estate.nodes[home].stderr.wait_for("metrics are served", 30))
        self._endpoint = told["endpoint"]
        self._before = self._counts()

    def page(self) -> str:
        with urllib.request.urlopen(f"http://{self._endpoint}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def value(self, name: str) -> float:
        """The sum of a metric's series."""
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", self.page(), re.MULTILINE)
        return sum(map(float, found))

    def _counts(self) -> dict[str, list[int]]:
        values = dict(line.rsplit(" ", 1) for line in self.page().splitlines() if not line.startswith("#"))
        found = {}
        for what, series in _WHAT.items():
            running = [int(float(values[series % bound])) for bound in (*BOUNDS, "+Inf")]
            found[what] = [now - before for before, now in zip([0, *running], running, strict=False)]
        return found

    def since(self) -> dict[str, Lag]:
        """Of the `worker` and the `supervisor`, and the worker's `turns`."""
        found = {}
        for what, counts in self._counts().items():
            new = [now - before for before, now in zip(self._before[what], counts, strict=True)]
            found[what] = Lag(sum(new), percentile(new, 0.99), percentile(new, 1.0))
        return found

    def report(self) -> dict[str, Lag]:
        """As `since`, and prints it."""
        found = self.since()
        for what, lag in found.items():
            goal = "within" if lag.p99 <= GOAL_P99 and lag.longest <= GOAL_LONGEST else "beyond"
            print(f"{self.home} {what}: {lag} ({goal} the goal of {GOAL_P99 * 1e3:g} and {GOAL_LONGEST * 1e3:g} ms)")
        return found
