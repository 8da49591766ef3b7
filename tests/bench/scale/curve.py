"""I/O: the same measurements on small and large estates: does the cost follow what a host may see, or the estate?

Once with what one host may see held the same (teams of ten, more and more teams), once with it growing along (ten
teams, larger and larger), each host with fewer instances, so that its largest point sees as much as the first curve.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.metrics import Metric, Unit
from tests.bench.place import Place
from tests.bench.scale.figures import Grid, Section, percentile
from tests.bench.scale.shape import Shape
from tests.bench.scale.stand import Stand

_ROUNDS = 10
_ROUNDS_ALL = 3
_QUIET = 0.2
_WITHIN = 60.0
_IDLE = 5.0


@dataclass(frozen=True)
class Point:
    """One estate. CPU is the gateway's, supervisor and workers, in seconds."""

    hosts: int
    sees: int
    """Instances that one host may see."""
    told: float
    """CPU of telling one host everything, its handshake included."""
    bytes: int
    """Of that first update and its handshake, for one host."""
    change: float
    """CPU of one change that a team sees."""
    all_see: float
    """CPU of one change that every host sees."""
    lag: float
    """p99 from a report to in force at its team."""
    idle: float
    """CPU per second and host while nothing changes."""
    supervisor: float
    """Memory of the supervisor in bytes."""
    workers: float
    back: float
    """Seconds until every host was told again after a kill."""
    back_cpu: float
    """CPU per host of that."""


def same_view(hosts: int) -> Shape:
    """Teams of ten, each host with 100 instances: it sees 1,000 of them, however many hosts there are."""
    return Shape(hosts=hosts, team=10, services=10 * hosts, instances=100 * hosts, rules=10 * hosts)


def growing_view(hosts: int) -> Shape:
    """Ten teams, each host with 10 instances: it sees a tenth of the estate."""
    return Shape(hosts=hosts, team=max(1, hosts // 10), services=hosts, instances=10 * hosts, rules=hosts)


KINDS: dict[str, tuple[str, Callable[[int], Shape]]] = {
    "same": ("what a host may see stays the same", same_view),
    "growing": ("what a host may see grows with the estate", growing_view),
}


class Curve:
    """Points of one kind."""

    def __init__(self, place: Place, kind: str, sizes: Sequence[int]) -> None:
        self._place = place
        self._kind = kind
        self._sizes = sizes

    def measure(self) -> Section:
        title, shape = KINDS[self._kind]
        section = Section(f"The curve: {title}")
        points = []
        for hosts in self._sizes:
            with Stand(self._place, f"{self._kind}-{hosts}", shape(hosts)) as stand:
                stand.start()
                points.append(_point(stand))
        section.grid = _grid(points)
        sizes = [point.hosts for point in points]
        section.raw.update(kind=self._kind, hosts=sizes, seen_by_all=points[-1].all_see / points[-1].hosts)
        return section


def _point(stand: Stand) -> Point:
    shape = stand.shape
    before = stand.cpu()
    answer = stand.connect()
    told, hosts = stand.cpu() - before, len(answer["told"])
    time.sleep(1.0)
    before = stand.cpu()
    time.sleep(_IDLE)
    idle = stand.cpu() - before
    change, lags = _changes(stand, shape.hosts_of(0), shape.team, _ROUNDS)
    all_see, _ = _changes(stand, shape.core_hosts[:1], hosts, _ROUNDS_ALL)
    supervisor, workers = stand.memory()
    stand.ask("forget")
    began = time.time()
    stand.gateway.kill9()
    stand.start_gateway()
    back = stand.ask("back", count=hosts, within=_WITHIN)
    return Point(
        hosts=hosts,
        sees=shape.instances_of_host * shape.team + shape.core,
        told=told.gateway / hosts,
        bytes=answer["bytes"][hosts // 2],
        change=change,
        all_see=all_see,
        lag=percentile(lags, 0.99),
        idle=idle.gateway / _IDLE / hosts,
        supervisor=supervisor,
        workers=workers,
        back=max(back["told"]) - began,
        back_cpu=stand.cpu().gateway / hosts,
    )


def _changes(stand: Stand, hosts: Sequence[str], seen_by: int, rounds: int) -> tuple[float, list[float]]:
    """CPU of one change that one of these hosts reports, and how long it took to each host that sees it."""
    lags, spent = [], []
    for number in range(rounds):
        mark, host = f"curve {seen_by} {number}", hosts[number % len(hosts)]
        stand.ask("watch", mark=mark)
        before = stand.cpu()
        at = stand.ask("fail", host=host, mark=mark)["at"]
        seen = stand.ask("seen", count=seen_by, within=_WITHIN)
        time.sleep(_QUIET)
        spent.append((stand.cpu() - before).gateway)
        lags += [moment - at for moment in seen["applied"]]
    return statistics.mean(spent), lags


def _grid(points: Sequence[Point]) -> Grid:
    rows: list[tuple[Metric, list[float]]] = [
        (Metric(name, title, "lower", unit), [float(getattr(point, name)) for point in points])
        for name, title, unit in _ROWS
    ]
    return Grid([f"{point.hosts:,} hosts" for point in points], rows)


_ROWS: tuple[tuple[str, str, Unit], ...] = (
    ("sees", "instances that one host may see", "count"),
    ("told", "CPU of telling one host everything", "seconds"),
    ("bytes", "bytes of that", "bytes"),
    ("change", "CPU of one change that a team sees", "seconds"),
    ("all_see", "CPU of one change that all see", "seconds"),
    ("lag", "change in force at its team, p99", "seconds"),
    ("idle", "CPU per second and host, idle", "seconds"),
    ("supervisor", "memory of the supervisor", "bytes"),
    ("workers", "memory of the workers", "bytes"),
    ("back", "all told after a kill", "seconds"),
    ("back_cpu", "CPU per host of that", "seconds"),
)
