"""I/O: one run of the benchmark: everything is started, measured round by round and system by system, and ended."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from inventory.endpoints import Endpoint
from tests.bench import programs
from tests.bench.loads.bulk import Bulk, BulkEnds
from tests.bench.loads.idle import Idle, IdleEnds, NotMeasured
from tests.bench.loads.start_time import StartTime
from tests.bench.loads.wrk import Wrk
from tests.bench.machine import Neighbours, machine
from tests.bench.metrics import (
    CONNECTION_METRICS,
    START_METRICS,
    Metric,
    bulk_metrics,
    idle_metrics,
    request_metrics,
    share_metric,
)
from tests.bench.options import Options
from tests.bench.place import Place
from tests.bench.results import Failure, Results, Sample
from tests.bench.systems.base import System
from tests.bench.systems.build import Builder
from tests.bench.systems.nginx import WebServer

DIRECTIONS = ("up", "down")
STREAMS = (1, 4)
CONNECTING = 32
"""Connections that are opened, used once and closed at the same time."""


_TRIES = 2
"""After so many failures a system is not asked again for the same load."""


class Load(Protocol):
    id: str

    def measure(self, system: System) -> Mapping[str, float]: ...


@dataclass
class Run:
    """What came out of it."""

    results: Results = field(default_factory=Results)
    titles: dict[str, str] = field(default_factory=dict)
    peers: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)


class Missing(Exception):
    """Nothing can be measured without this program."""


def run(options: Options) -> Run:
    """Raises Missing."""
    done = Run()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    began, neighbours = time.monotonic(), Neighbours()
    with Place() as place:
        _Bench(options, place, done).measure()
    took = time.monotonic() - began
    done.about = {
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "took": f"{took:.0f} s",
        "used by other programs meanwhile": f"{neighbours.used() / took:.0%} of one core",
    }
    return done


class _Bench:
    def __init__(self, options: Options, place: Place, done: Run) -> None:
        self._options = options
        self._place = place
        self._done = done

    def measure(self) -> None:
        wrk = required("wrk", "apt-get install wrk")
        web = WebServer(self._place, required("nginx", "apt-get install nginx-light"))
        bulk, idle = BulkEnds(self._place), IdleEnds(self._place)
        targets = {
            "web": web.endpoint,
            "bulk": Endpoint("127.0.0.1", bulk.port),
            "idle": Endpoint("127.0.0.1", idle.port),
        }
        systems = self._start(targets)
        proxies = [system for system in systems if system.nodes]
        only = self._options.only
        if "requests" in only or "connections" in only:
            for system in systems:
                self._wrk(wrk, web, 32, keep_alive=True, seconds=0.5).measure(system)  # everything warm
        self._rounds(self._rated(wrk, web, bulk), systems, self._options.rounds)
        if "start" in only:
            self._rounds([StartTime()], proxies, self._options.rounds)
        if "idle" in only:  # once: memory does not vary as time does, and each one starts afresh
            self._rounds([Idle(idle, connections=number) for number in self._options.idle], proxies, 1)

    def _start(self, targets: Mapping[str, Endpoint]) -> list[System]:
        systems = Builder(self._place, targets, self._leave_out).build(self._options.systems)
        for system in systems:
            say(f"starting {system.title}")
            system.prepare()
            system.start()
            system.wait_ready(("web", "idle"))
            self._done.titles[system.name] = system.title
            if system.is_peer:
                self._done.peers.append(system.name)
        return systems

    def _leave_out(self, reason: str) -> None:
        say(reason)
        self._done.left_out.append(reason)

    def _wrk(self, wrk: Path, web: WebServer, connections: int, *, keep_alive: bool, seconds: float) -> Wrk:
        return Wrk(self._place, wrk, connections=connections, keep_alive=keep_alive, seconds=seconds, status=web.status)

    def _rated(self, wrk: Path, web: WebServer, bulk: BulkEnds) -> list[Load]:
        """The loads that have a rate, which every system gets in every round."""
        options = self._options
        loads: list[Load] = []
        if "requests" in options.only:
            loads += [self._wrk(wrk, web, n, keep_alive=True, seconds=options.seconds) for n in options.connections]
        if "connections" in options.only:
            loads.append(self._wrk(wrk, web, CONNECTING, keep_alive=False, seconds=options.seconds))
        if "bulk" in options.only:
            ways = [(direction, streams) for streams in STREAMS for direction in DIRECTIONS]
            loads += [Bulk(bulk, direction=d, streams=n, seconds=0.6 * options.seconds) for d, n in ways]
        return loads

    def _rounds(self, loads: Sequence[Load], systems: Sequence[System], rounds: int) -> None:
        """Load by load, one system directly after the other; each round begins with another system."""
        for number in range(rounds):
            first = number % len(systems) if systems else 0
            for load in loads:
                for system in [*systems[first:], *systems[:first]]:
                    self._sample(number + 1, load, system)

    def _sample(self, number: int, load: Load, system: System) -> None:
        results = self._done.results
        failed = [failure for failure in results.failures if (failure.load, failure.system) == (load.id, system.name)]
        if len(failed) >= _TRIES or any(failure.final for failure in failed):
            return
        try:
            values = load.measure(system)
        except (NotMeasured, RuntimeError, AssertionError, OSError, ValueError, subprocess.SubprocessError) as exc:
            say(f"{load.id} {system.name}: {exc}")
            results.failures.append(Failure(load.id, system.name, str(exc), final=isinstance(exc, NotMeasured)))
            return
        results.samples.append(Sample(number, load.id, system.name, values))
        say(f"round {number}  {load.id:<14} {system.name:<16} {_brief(values)}")


def metrics_of(options: Options) -> list[Metric]:
    """The rows that a run of these has, in order."""
    rows: list[Metric] = []
    if "requests" in options.only:
        rows += [metric for number in options.connections for metric in request_metrics(number)]
    if "connections" in options.only:
        rows += CONNECTION_METRICS
    if "bulk" in options.only:
        rows += [
            metric for streams in STREAMS for direction in DIRECTIONS for metric in bulk_metrics(direction, streams)
        ]
    if "requests" in options.only and 32 in options.connections:
        rows.append(share_metric("requests/32", "32 connections"))
    if "bulk" in options.only:
        rows.append(share_metric("bulk/down/1", "bulk from the service"))
    if "start" in options.only:
        rows += START_METRICS
    if "idle" in options.only:
        rows += [metric for number in options.idle for metric in idle_metrics(number)]
    return rows


def required(name: str, how: str) -> Path:
    found = programs.find(name)
    if found is None:
        raise Missing(f"the benchmark needs {name}: {how}")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _brief(values: Mapping[str, float]) -> str:
    shown = {name: f"{value:.4g}" for name, value in values.items() if not name.startswith("cpu_")}
    return "  ".join(f"{name} {value}" for name, value in shown.items())
