"""Pure: from the measured curve to estates that no machine of ours holds: what 100,000 hosts take, what gives first.

Everything that a gateway does for its hosts is a sum of four prices, taken from the largest point of the curve on which
what a host may see stays the same (so they do not grow with the estate, which that curve shows):

    full      CPU of telling one host everything, its handshake included
    change    CPU of one change that a team sees
    idle      CPU per second of a host for which nothing happens
    memory    bytes per host, as the slope of the curve

With H hosts, each of which changes something c times a second, one gateway needs

    cores     H x (idle + c x change)
    restart   H x full / processes that share it; handshakes come over BACKOFF_MAX seconds, so H / BACKOFF_MAX a second
    memory    what it takes without hosts + H x memory

and a change that all H see takes H x (CPU of one change that all see / hosts that saw it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bridge import limits
from tests.bench.metrics import Metric
from tests.bench.scale.figures import Grid, Section

ESTATES = (1_000, 10_000, 100_000)
CHANGES = 0.01
"""Changes a second of one host: something starts, stops or fails on it every 100 s."""
BACK_WITHIN = 60.0
"""All hosts should have been told everything this many seconds after a restart."""
GOAL = 0.25
MEMORY = 4e9
"""What a gateway's machine may give to its supervisor."""


_Value = Callable[[int, "Prices"], float]


@dataclass(frozen=True)
class Prices:
    """CPU in seconds, memory in bytes."""

    full: float
    full_bytes: float
    change: float
    seen_by_all: float
    """CPU per host of a change that all see."""
    idle: float
    memory: float
    memory_empty: float


def prices(curve: Grid, hosts: Sequence[int], seen_by_all: float) -> Prices:
    """From the points of a curve (at `hosts` each); memory from the line through the first and the last."""
    rows: Mapping[str, Sequence[float]] = {metric.key: values for metric, values in curve.rows}
    memory = [one + other for one, other in zip(rows["supervisor"], rows["workers"], strict=True)]
    slope = (memory[-1] - memory[0]) / (hosts[-1] - hosts[0]) if len(hosts) > 1 else memory[0] / hosts[0]
    return Prices(
        full=rows["told"][-1],
        full_bytes=rows["bytes"][-1],
        change=rows["change"][-1],
        seen_by_all=seen_by_all,
        idle=rows["idle"][-1],
        memory=slope,
        memory_empty=max(0.0, memory[0] - slope * hosts[0]),
    )


def section(found: Prices) -> Section:
    """The table, and where the first wall stands."""
    made = Section("On paper: one gateway with more hosts than were measured")
    made.grid = Grid(
        [f"{hosts:,} hosts" for hosts in ESTATES],
        [
            (Metric("cores", f"CPU, cores, {CHANGES:g} changes/s per host", "lower", "share"), _each(_cores, found)),
            (Metric("memory", "memory of its processes", "lower", "bytes"), _each(_memory, found)),
            (Metric("restart", "CPU to tell all after a restart", "lower", "seconds"), _each(_restart, found)),
            (Metric("restart-bytes", "bytes of that", "lower", "bytes"), _each(_restart_bytes, found)),
            (Metric("handshakes", "handshakes/s meanwhile", "lower", "count"), _each(_handshakes, found)),
            (Metric("heartbeats", "heartbeats/s, both ways", "lower", "count"), _each(_heartbeats, found)),
            (Metric("all", "CPU of a change that all see", "lower", "seconds"), _each(_all_see, found)),
        ],
    )
    reach = walls(found)
    made.notes += [f"On paper, {name}: up to {hosts:,.0f} hosts on one gateway." for name, hosts in reach]
    made.raw["prices"] = {name: getattr(found, name) for name in Prices.__dataclass_fields__}
    return made


def walls(found: Prices) -> list[tuple[str, float]]:
    """For each thing that gives, the number of hosts at which it does; the first wall first."""
    reach = {
        f"a change that all see in force within {GOAL:g} s": GOAL / found.seen_by_all,
        f"all told again within {BACK_WITHIN:.0f} s of a restart": BACK_WITHIN / found.full,
        "one core is enough for changes": 1.0 / (found.idle + CHANGES * found.change),
        f"memory within {MEMORY / 1e9:g} GB": (MEMORY - found.memory_empty) / found.memory,
    }
    return sorted(reach.items(), key=lambda item: item[1])


def _each(value: _Value, found: Prices) -> list[float]:
    return [value(hosts, found) for hosts in ESTATES]


def _cores(hosts: int, found: Prices) -> float:
    return hosts * (found.idle + CHANGES * found.change)


def _memory(hosts: int, found: Prices) -> float:
    return found.memory_empty + hosts * found.memory


def _restart(hosts: int, found: Prices) -> float:
    return hosts * found.full


def _restart_bytes(hosts: int, found: Prices) -> float:
    return hosts * found.full_bytes


def _handshakes(hosts: int, _found: Prices) -> float:
    return hosts / limits.BACKOFF_MAX


def _heartbeats(hosts: int, _found: Prices) -> float:
    return 2 * hosts / limits.HEARTBEAT_INTERVAL


def _all_see(hosts: int, found: Prices) -> float:
    return hosts * found.seen_by_all
