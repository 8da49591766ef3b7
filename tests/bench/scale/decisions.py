"""I/O: (a process of its own) decisions on the whole estate: making the snapshot, its memory, asking it cold and again.

python -m tests.bench.scale.decisions SHAPE         prints one JSON object
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from bridge.policy.decide import Permit, Subject
from bridge.policy.permits import PermitCache
from inventory.health import HealthByHost
from inventory.model import Health, Instance
from inventory.snapshot import Snapshot
from inventory.visibility import visible
from tests.bench.cpu import pss_of
from tests.bench.place import ROOT, environment
from tests.bench.scale.figures import Section, percentile
from tests.bench.scale.shape import Shape, team_of
from tests.support.estates import NOON, snapshot

_PAIRS = 5000
_CHANGES = 50
_TIMEOUT = 120.0


def measure(shape: Shape) -> Section:
    """What the other process found."""
    argv = [sys.executable, "-m", "tests.bench.scale.decisions", msgspec.json.encode(shape).decode()]
    done = subprocess.run(
        argv, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=_TIMEOUT, check=True
    )
    found = json.loads(done.stdout)
    section = Section("Decisions on the whole estate, in one process")
    section.add("decide/made", "making the snapshot", "seconds", found["made"], 1.0)
    section.add("decide/memory", "memory of everything known", "bytes", found["memory"], 250e6)
    section.add("decide/cold", "a decision never asked before: median", "seconds", found["cold"], 50e-6)
    section.add("decide/cold-p99", "a decision never asked before: p99", "seconds", found["cold_p99"])
    section.add("decide/cached", "a decision asked before: median", "seconds", found["cached"], 5e-6)
    section.add("decide/change", "the next snapshot, one instance changed", "seconds", found["change"])
    section.add("decide/visible", "what one host may see", "seconds", found["visible"])
    section.raw.update(found)
    return section


def everything_known(shape: Shape) -> Snapshot:
    """As a gateway has it: every host's report was read from the wire by itself."""
    hosts = shape.all_hosts()
    reported = {host.name: _as_read(shape.instances_on(host.name)) for host in hosts}
    health = {instance.id: Health(state="passing") for instances in reported.values() for instance in instances}
    return replace(snapshot(hosts, (), shape.policy, reported=reported), health=HealthByHost(health))


def _as_read(instances: tuple[Instance, ...]) -> tuple[Instance, ...]:
    return msgspec.json.decode(msgspec.json.encode(instances), type=tuple[Instance, ...])


def look(shape: Shape) -> dict[str, float]:
    before = _memory()
    known = everything_known(shape)
    took = _timed(lambda: (known.services, known.index, known.services_by_target, known.hosts_by_source))
    assert len(known.services) == shape.teams * shape.services_of_team + 1
    gc.collect()
    memory = _memory() - before
    rng = random.Random(1)
    pairs = [_pair(shape, rng) for _ in range(_PAIRS)]
    cache = PermitCache(known)
    cold = [_timed(_asking(cache, pair)) for pair in pairs]
    cached = [_timed(_asking(cache, pair)) for pair in pairs]
    assert all(isinstance(cache.get(subject, service, None, NOON), Permit) for subject, service in pairs)
    hosts = rng.sample(shape.team_hosts, min(_CHANGES, shape.hosts))
    return {
        "made": took,
        "memory": memory,
        "cold": statistics.median(cold),
        "cold_p99": percentile(cold, 0.99),
        "cached": statistics.median(cached),
        "change": statistics.median(_timed(_changing(known, host)) for host in hosts),
        "visible": statistics.median(_timed(_seeing(known, host)) for host in hosts),
    }


def _pair(shape: Shape, rng: random.Random) -> tuple[Subject, str]:
    host = rng.choice(shape.team_hosts)
    services = shape.services_in(team_of(host))[: shape.rules_of_team]
    return Subject("host", host), rng.choice(services)


def _asking(cache: PermitCache, pair: tuple[Subject, str]) -> Callable[[], object]:
    return lambda: cache.get(pair[0], pair[1], None, NOON)


def _changing(known: Snapshot, host: str) -> Callable[[], object]:
    fewer = {**known.reported, host: known.reported[host][1:]}
    return lambda: known.evolved(reported=fewer, revision=known.revision + 1).services


def _seeing(known: Snapshot, host: str) -> Callable[[], object]:
    return lambda: visible(known, host)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _memory() -> int:
    return pss_of(Path("/proc/self/smaps_rollup").read_text())


if __name__ == "__main__":
    print(json.dumps(look(msgspec.json.decode(sys.argv[1], type=Shape))))
