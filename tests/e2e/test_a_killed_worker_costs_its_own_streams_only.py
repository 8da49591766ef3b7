"""I/O: kill -9 of one of two data workers under 200 new connections a second, at either end and at the gateway.

Only requests that were under way on the killed one fail: whoever connects afterwards is served, by the other worker
until there are two again, which takes less than a second.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, start_pair, status, worker_pids
from tests.support.traffic import Backend, Load, eventually, work

KILLS = 2
REPLACED = 1.0


def start_of_a_worker() -> float:
    """Seconds that a Python process takes on this machine at the moment to begin and to import what a worker does."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import agents.workers.data_worker"], check=True)
    return time.monotonic() - began


def kill(pid: int) -> float:
    """The moment from which on it is dead."""
    watched = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        select.select([watched], [], [], 10)
        return time.monotonic()
    finally:
        os.close(watched)


def busiest(estate: Estate, home: str) -> int:
    """Of its workers the one with most to lose."""
    worker_pids(estate, home)
    return int(max(status(estate, home)["workers"], key=lambda worker: (worker["streams"], worker["tunnels"]))["pid"])


def replaced(estate: Estate, home: str, killed: int) -> bool:
    pids = [worker["pid"] for worker in status(estate, home)["workers"]]
    return all(pids) and killed not in pids


def not_ok(estate: Estate) -> str:
    """What both ends wrote down of streams that did not end well."""
    lines = (
        line
        for home in (CLIENT, SERVER)
        for line in estate.ok(home, "-o", "json", "flows", "--limit", "10000").splitlines()
    )
    return "\n".join(line for line in lines if '"result":"ok"' not in line)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["direct", "through gw1"])
def test_one_of_two_workers_is_killed_under_load(estate: Estate, way: str) -> None:
    with Backend("quick") as quick, Backend("slow", work) as slow:
        services = {"quick": quick.target, "slow": slow.target}
        pair = start_pair(estate, services, direct=way == "direct", workers=2)
        for home in (CLIENT, SERVER, OPERATOR):
            for _ in range(KILLS):
                with (
                    Load(*pair.place("quick"), rate=100) as short,
                    Load(*pair.place("slow"), clients=48, rate=100) as long,
                ):
                    short.wait_for(100)
                    long.wait_for(50)
                    start = start_of_a_worker()
                    killed = busiest(estate, home)
                    at = time.monotonic()
                    dead = kill(killed)
                    eventually(lambda: replaced(estate, home, killed), what="another worker")  # noqa: B023
                    took = time.monotonic() - at
                    short.wait_for(100)
                    long.wait_for(50)
                failed = [began - dead for load in (short, long) for began in load.failed_from]
                total = short.total + long.total
                figures = f"replaced in {took:.2f} s (a start takes {start:.2f} s now)"
                print(f"{home}: {figures}; {len(failed)} of {total} requests failed")
                late = sorted(began for began in failed if began > 0)
                assert not late, f"failed although they began {late} s after it was dead:\n{not_ok(estate)}"
                assert took < max(REPLACED, 3 * start)
                if home == OPERATOR and way == "direct":
                    assert not failed, "nothing of it goes through the gateway"
