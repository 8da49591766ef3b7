"""I/O: C29: an enrolled host that opens and resets 100,000 streams on its tunnel is bounded, and its neighbours go on.

The far end answers every one, at no more than OPENS_PER_SECOND; what it costs is linear, and nothing of it stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import pytest

from agents.estate import load_config
from bridge import limits
from tests.support.estate import OPERATOR, Estate
from tests.support.lag import OPTIONS, LagWatch
from tests.support.pair import SERVER, start_pair, worker_pids
from tests.support.pinger import Pinger, p99, shown
from tests.support.proc import cpu_seconds, resident_bytes
from tests.support.traffic import eventually

STREAMS = 100_000
SPAN = 3.0
ROOM = 0.15
"""Seconds of a round trip that are the machine's: its cores are shared with more than this test."""
TURN_P99 = 0.1
"""Seconds. A turn of the node under attack, which takes a few milliseconds on a core of its own."""
MEMORY_TOLERANCE = 48 * limits.MIB
"""FLOWS_KEPT records that wait to be written are the most of it."""


def flood(estate: Estate, service: str, target: str) -> dict[str, Any]:
    """What the attacker was answered."""
    address = load_config(estate.home(SERVER)).listen
    argv = ["-m", "tests.support.rapid_reset", str(address), str(estate.home("evil")), str(STREAMS), service, target]
    attacker = estate.start("attacker", [sys.executable, *argv])
    with contextlib.suppress(OSError):
        os.sched_setaffinity(attacker.pid, {min(os.sched_getaffinity(0))})
    said: dict[str, Any] = json.loads(attacker.stdout.wait_for("{", 150.0))
    return said


def keep_apart(estate: Estate, target: int) -> bool:
    """The attacker, its target service and all that only accompanies them on one core, the node under attack on the
    other: so that the figure is about its loop, and not about who gets a core. Whether there are two."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return False
    for node in estate.nodes.values():
        for pid in (node.pid, *node.children()):
            os.sched_setaffinity(pid, {cores[0]})
    os.sched_setaffinity(target, {cores[1]})
    return True


@pytest.mark.slow
@pytest.mark.parametrize("service", ["echo", "nothing"], ids=["a service it may use", "a service that is not there"])
def test_c29_a_hundred_thousand_opens_and_resets(estate: Estate, service: str) -> None:
    # In processes of their own: what they cost is not what the neighbour waits for.
    services = {name: f"127.0.0.1:{estate.start_server('echo', name=name)}" for name in ("echo", "near")}
    estate.options[SERVER] = OPTIONS
    pair = start_pair(estate, services, direct=True, workers=1)  # nobody gets out of the way
    estate.add_host("evil")
    estate.apply_policy('[[allow]]\nname = "all"\nfrom = ["host:vm2", "host:evil"]\nto = ["echo", "near"]\n')
    (pid,) = worker_pids(estate, SERVER)
    apart = keep_apart(estate, pid)
    pinger = Pinger(estate, pair.place("near"), cpu=max(os.sched_getaffinity(0)))
    watch = LagWatch(estate, SERVER)
    before = pinger.during(SPAN)
    memory, cpu = resident_bytes(pid), cpu_seconds(pid)
    said = flood(estate, service, services["echo"])
    beside = pinger.took()
    cpu = cpu_seconds(pid) - cpu
    lag = watch.report()["turns"]
    eventually(lambda: resident_bytes(pid) < memory + MEMORY_TOLERANCE, what="memory back", timeout=30)
    print(f"{said}\n{STREAMS / said['seconds']:.0f} opens/s, {cpu / STREAMS * 1e6:.0f} µs of the far end for each")
    print(f"memory {memory / 1e6:.1f} MB before, {resident_bytes(pid) / 1e6:.1f} MB after")
    print(f"{'attacker and target on cores of their own' if apart else 'one core for all'}")
    for name, took in (("before", before), ("beside", beside)):
        print(f"neighbour {name}: {shown(took)}")
    assert worker_pids(estate, SERVER) == [pid], "the worker lived"
    assert not said["closed"] and said["last"] == 2 * STREAMS - 1, "every stream was answered"
    judged = STREAMS - said["answers"].get("refuse limit", 0)
    assert judged < limits.OPENS_PER_SECOND * (said["seconds"] + 2)
    assert p99(beside) < 2 * p99(before) + ROOM
    assert lag.p99 <= TURN_P99
    assert estate.nodes[OPERATOR].running
