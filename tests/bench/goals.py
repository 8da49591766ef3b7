"""Pure: the figures to beat, and whether they were.

Goals for the data plane; those for a large estate are measured elsewhere (`make bench-scale`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.bench.metrics import Metric
from tests.bench.results import Results

OURS = "bridge"
OURS_GATEWAY = "bridge-gateway"


@dataclass(frozen=True)
class Goal:
    """`value (of system) <= limit x reference`, or `>=` where more is better.

    Args:
        reference: `best` of the peers, `envoy`, or `absolute`: then the limit is a value of the metric itself.
    """

    limit: float
    reference: Literal["best", "envoy", "absolute"] = "best"
    system: str = OURS

    def shown(self, metric: Metric) -> str:
        sign = "≥" if metric.better == "higher" else "≤"
        if self.reference == "absolute":
            return f"{sign} {metric.shown(self.limit)}"
        return f"{sign} {self.limit:g} × {self.reference}"


@dataclass(frozen=True)
class Verdict:
    """How we stand in one metric.

    Attributes:
        peer: the peer that is best, with its value.
        ratio: ours / that peer's.
        met: None when there is no goal or nothing to compare with.
    """

    peer: str | None
    ratio: float | None
    goal: Goal | None
    met: bool | None


def goal_of(key: str) -> Goal | None:
    """The goal for a metric, or None."""
    if key in _GOALS:
        return _GOALS[key]
    load, _, name = key.rpartition("/")
    if load.startswith("bulk/"):
        return {"rate": Goal(1.2), "cpu": Goal(1.0), "share": _GATEWAY}.get(name)
    if load.startswith("idle/") and name == "bytes":
        return Goal(0.05)
    return None


_GATEWAY = Goal(0.25, "absolute", OURS_GATEWAY)
_GOALS = {
    "requests/32/cpu": Goal(0.6),
    "requests/32/rate": Goal(1.5),
    "requests/256/rate": Goal(1.5),
    "requests/1/p50": Goal(1.0, "envoy"),
    "requests/32/share": _GATEWAY,
    "connections/rate": Goal(5.0),
    "connections/cpu": Goal(0.15),
    "idle/10000/node": Goal(150e6, "absolute"),
}


def judge(results: Results, metric: Metric, peers: Sequence[str]) -> Verdict:
    """Compare medians: ours with the best peer's (a peer in several set-ups counts with its best)."""
    goal = goal_of(metric.key)
    ours = results.median(metric.key, goal.system if goal is not None else OURS)
    peer, best = _best(results, metric, peers)
    ratio = ours / best if ours is not None and best else None
    if goal is None or ours is None:
        return Verdict(peer, ratio, goal, None)
    if goal.reference == "absolute":
        limit: float | None = goal.limit
    else:
        wanted = peers if goal.reference == "best" else [p for p in peers if p.partition(":")[0] == goal.reference]
        _, reference = _best(results, metric, wanted)
        limit = goal.limit * reference if reference is not None else None
    if limit is None:
        return Verdict(peer, ratio, goal, None)
    return Verdict(peer, ratio, goal, ours >= limit if metric.better == "higher" else ours <= limit)


def _best(results: Results, metric: Metric, peers: Sequence[str]) -> tuple[str | None, float | None]:
    best: tuple[str | None, float | None] = (None, None)
    for peer in peers:
        value = results.median(metric.key, peer)
        if value is not None and (best[1] is None or metric.is_better(value, best[1])):
            best = (peer, value)
    return best
