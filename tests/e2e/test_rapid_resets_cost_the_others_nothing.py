"""I/O: C29: an enrolled host that opens and resets 100,000 streams on its tunnel is bounded, and its neighbours go on.

The far end answers every one, at no more than OPENS_PER_SECOND; what it costs is linear, and nothing of it stays.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from agents.estate import load_config
from bridge import limits
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import SERVER, Pair, start_pair, worker_pids
from tests.support.proc import cpu_seconds, resident_bytes
from tests.support.traffic import eventually

STREAMS = 100_000
PINGS = 300
ROOM = 0.02
STUCK = 2.0
"""Seconds."""
MEMORY_TOLERANCE = 48 * limits.MIB
"""FLOWS_KEPT records that wait to be written are the most of it."""


def round_trips(sock: socket.socket, go_on: Callable[[], bool]) -> list[float]:
    took: list[float] = []
    while len(took) < PINGS or go_on():
        began = time.perf_counter()
        sock.sendall(b"neighbour")
        got = 0
        while got < 9:
            got += len(sock.recv(64))
        took.append(time.perf_counter() - began)
        time.sleep(0.003)  # a keystroke, not a load of its own
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[len(took) * 99 // 100]


def flood(estate: Estate, pair: Pair, service: str, target: str) -> tuple[dict[str, Any], list[float]]:
    """What the attacker was answered, and the round trips of a neighbour meanwhile."""
    address = load_config(estate.home(SERVER)).listen
    argv = ["-m", "tests.support.rapid_reset", str(address), str(estate.home("evil")), str(STREAMS), service, target]
    with pair.connect("near") as sock:
        sock.sendall(b"?")
        assert sock.recv(1) == b"?"
        attacker = estate.start("attacker", [sys.executable, *argv])
        took = round_trips(sock, lambda: attacker.running)
    said: dict[str, Any] = json.loads(attacker.stdout.wait_for("{", 10.0))
    return said, took


@pytest.mark.slow
@pytest.mark.parametrize("service", ["echo", "nothing"], ids=["a service it may use", "a service that is not there"])
def test_c29_a_hundred_thousand_opens_and_resets(estate: Estate, service: str) -> None:
    # In processes of their own: what they cost is not what the neighbour waits for.
    services = {name: f"127.0.0.1:{estate.start_server('echo', name=name)}" for name in ("echo", "near")}
    pair = start_pair(estate, services, direct=True, workers=1)  # nobody gets out of the way
    estate.add_host("evil")
    estate.apply_policy('[[allow]]\nname = "all"\nfrom = ["host:vm2", "host:evil"]\nto = ["echo", "near"]\n')
    with pair.connect("near") as sock:
        before = round_trips(sock, lambda: False)
    (pid,) = worker_pids(estate, SERVER)
    memory, cpu = resident_bytes(pid), cpu_seconds(pid)
    said, beside = flood(estate, pair, service, services["echo"])
    cpu = cpu_seconds(pid) - cpu
    eventually(lambda: resident_bytes(pid) < memory + MEMORY_TOLERANCE, what="memory back", timeout=30)
    print(f"{said}\n{STREAMS / said['seconds']:.0f} opens/s, {cpu / STREAMS * 1e6:.0f} µs of the far end for each")
    print(f"memory {memory / 1e6:.1f} MB before, {resident_bytes(pid) / 1e6:.1f} MB after")
    for name, took in (("before", before), ("beside", beside)):
        print(f"{name}: p50 {took[len(took) // 2] * 1e3:.2f} ms, p99 {p99(took) * 1e3:.2f} ms of {len(took)}")
    assert worker_pids(estate, SERVER) == [pid], "the worker lived"
    assert not said["closed"] and said["last"] == 2 * STREAMS - 1, "every stream was answered"
    judged = STREAMS - said["answers"].get("refuse limit", 0)
    assert judged < limits.OPENS_PER_SECOND * (said["seconds"] + 2)
    # The attacker, its target and both ends share two cores: the slowest of them is the machine's, the middle is ours.
    assert beside[len(beside) // 2] < 2 * before[len(before) // 2] + ROOM
    assert p99(beside) < STUCK
    assert estate.nodes[OPERATOR].running
