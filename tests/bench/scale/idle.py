"""I/O: what a gateway costs while nothing changes, and what it cost to tell every host all that it may see."""

from __future__ import annotations

import time
from typing import Any

from tests.bench.scale.figures import Section
from tests.bench.scale.stand import Cpu, Stand

MEMORY_GOAL = 250e6
_LOOK = 10.0
"""Two heartbeats of every host."""


class FirstUpdates:
    """Every host links up for the first time and is told everything."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand

    def measure(self) -> Section:
        stand, section = self._stand, Section("Every host is told all that it may see")
        before, began = stand.cpu(), time.time()
        with stand.supervisor_lag() as lags:
            answer = stand.connect()
        cpu = stand.cpu() - before
        hosts = len(answer["told"])
        section.add("first/made", "the estate is made", "seconds", stand.made_in)
        section.add("first/started", "gateway: start until ready", "seconds", stand.started_in)
        section.add("first/told", f"until all of {hosts:,} hosts are told", "seconds", answer["told"][-1] - began)
        section.add("first/bytes", "bytes of a full update: median", "bytes", answer["bytes"][hosts // 2])
        section.add("first/bytes-max", "bytes of a full update: largest", "bytes", answer["bytes"][-1])
        _per_host(section, cpu, hosts)
        section.add("first/lag", "supervisor busy for", "seconds", max(lags, default=0.0))
        section.raw.update(_without_long_lists(answer))
        return section


class Idle:
    """A gateway with all its hosts, and nothing happens but heartbeats."""

    def __init__(self, stand: Stand, seconds: float = _LOOK) -> None:
        self._stand = stand
        self._seconds = seconds

    def measure(self) -> Section:
        stand, section = self._stand, Section("While nothing changes")
        stand.loop_lag()
        before, began = stand.cpu(), time.monotonic()
        time.sleep(self._seconds)
        took, cpu = time.monotonic() - began, stand.cpu() - before
        supervisor, workers = stand.memory()
        section.add("idle/supervisor", "memory of the gateway's supervisor", "bytes", supervisor, MEMORY_GOAL)
        section.add("idle/workers", "memory of its workers", "bytes", workers)
        section.add("idle/cpu-supervisor", "CPU of the supervisor, cores", "share", cpu.supervisor / took)
        section.add("idle/cpu-workers", "CPU of the workers, cores", "share", cpu.workers / took)
        for process, lag in sorted(stand.loop_lag().items()):
            section.add(f"idle/lag-{process}", f"loop lag of the {process}, longest", "seconds", lag)
        return section


def _per_host(section: Section, cpu: Cpu, hosts: int) -> None:
    section.add("first/cpu-supervisor", "CPU of the gateway's supervisor per host", "seconds", cpu.supervisor / hosts)
    section.add("first/cpu-workers", "CPU of its workers per host", "seconds", cpu.workers / hosts)
    section.add("first/cpu-simulator", "CPU of a simulated host", "seconds", cpu.simulator / hosts)


def _without_long_lists(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if not isinstance(value, list) or len(value) < 20}
