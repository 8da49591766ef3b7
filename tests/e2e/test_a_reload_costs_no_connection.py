"""I/O: SIGHUP to every node in turn, again and again, under 200 new connections a second, half of them at work a while.

Each time new workers take over the listening sockets and the old ones end with their last stream. Not one connection is
refused, reset or left without its answer: at the agent of either end, and at the gateway.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, start_pair, status, worker_pids
from tests.support.traffic import Backend, Load, eventually, hold, is_alive, session, work

NODES = (CLIENT, SERVER, OPERATOR)
RELOADS = int(os.environ.get("MESHBRIDGE_RELOADS", "20"))
"""Of each node."""


def ending(estate: Estate, home: str) -> int:
    return sum(worker["state"] == "ending" for worker in status(estate, home)["workers"])


def reload(estate: Estate, home: str) -> float:
    """Seconds until new workers serve."""
    before = worker_pids(estate, home)
    began = time.monotonic()
    estate.nodes[home].signal(signal.SIGHUP)
    eventually(lambda: not {*before} & {*worker_pids(estate, home)}, what=f"new workers of {home}", timeout=30)
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("way", ["direct", "through gw1"])
def test_f10_no_connection_is_refused_or_reset_while_workers_are_renewed(estate: Estate, way: str) -> None:
    with Backend("quick") as quick, Backend("slow", work) as slow, Backend("held", hold) as held:
        services = {"quick": quick.target, "slow": slow.target, "held": held.target}
        pair = start_pair(estate, services, direct=way == "direct", workers=2)
        took = []
        with Load(*pair.place("quick"), rate=100) as short, Load(*pair.place("slow"), clients=48, rate=100) as long:
            short.wait_for(100)
            for _ in range(RELOADS):
                for home in NODES:
                    # Two generations may be ending, and of two workers one can belong to each.
                    eventually(lambda: ending(estate, home) <= 1, what=f"old workers of {home} ended", timeout=60)  # noqa: B023
                    took.append(reload(estate, home))
                    short.wait_for(20)
                    assert not short.failures and not long.failures, (short.failures + long.failures)[:3]
        print(
            f"{way}: {len(took)} reloads of {len(NODES)} nodes, new workers after {min(took):.2f} to {max(took):.2f} s"
        )
        print(f"{short.total} short and {long.total} long requests, 0 failed")
        for home in NODES:
            assert not [w for w in status(estate, home)["warnings"] if w["code"] != "loop-lag"], (
                "the machine may be slow"
            )


@pytest.mark.slow
def test_a_stream_lives_on_however_often_its_node_is_reloaded_and_old_workers_end_with_it(estate: Estate) -> None:
    with Backend("held", hold) as held:
        pair = start_pair(estate, {"held": held.target}, direct=True, workers=2)
        place = pair.place("held")
        with session(*place) as first, session(*place) as second:
            for home in (CLIENT, SERVER):
                reload(estate, home)
            assert is_alive(first) and is_alive(second)
            with session(*place) as third:
                reload(estate, CLIENT)
                estate.nodes[CLIENT].signal(signal.SIGHUP)
                eventually(lambda: "still ending" in status(estate, CLIENT)["last_reload"], what="one reload too many")
                assert is_alive(first) and is_alive(second) and is_alive(third)
                assert estate.cli(OPERATOR, "-o", "json", "host", "list").returncode == 0
                listed = estate.ok(CLIENT, "-o", "json", "status")
                assert listed.count('"ending"') >= 2
        for home in (CLIENT, SERVER, OPERATOR):
            eventually(lambda: not ending(estate, home), what=f"old workers of {home} ended", timeout=30)  # noqa: B023
