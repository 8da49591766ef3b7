"""I/O: kill -9 of any process of any node: what it carried ends with a reason, it starts from disk, traffic flows.

A worker is replaced by its supervisor. A supervisor's worker ends with it, and `run` on the same home goes on where it
was: the same identity, the same address for a service, nothing to be repaired by hand.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.identity.identity_file import load_identity
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, Pair, pids, restarts, start_pair, status, wait_connected, worker_pids
from tests.support.traffic import Backend, RequestFailed, ask, eventually, hold, is_alive, session, wait_cut

SOON = 20.0
KILLS = 5


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module", params=["direct", "through gw1"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def estate(way: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """Every test leaves it running, so one is enough for each way that a tunnel can go."""
    with Estate(tmp_path_factory.mktemp("killed")) as made:
        yield made


@pytest.fixture(scope="module")
def pair(estate: Estate, way: str) -> Iterator[Pair]:
    with Backend("one") as one, Backend("held", hold) as held:
        yield start_pair(estate, {"web": one.target, "held": held.target}, direct=way == "direct")


def wait_for_traffic(pair: Pair) -> float:
    """Seconds until a request succeeds."""
    began = time.monotonic()
    place = pair.place("web")

    def answered() -> bool:
        with contextlib.suppress(RequestFailed):
            return ask(*place, timeout=3) == "one"
        return False

    eventually(answered, timeout=SOON, what="a request answered again")
    return time.monotonic() - began


def kill_workers(pair: Pair, node: str) -> None:
    before = worker_pids(pair.estate, node)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not {*worker_pids(pair.estate, node)} & {*before}, timeout=SOON, what=f"other workers of {node}")
    assert all(map(is_gone, before))


def kill_supervisor(pair: Pair, node: str) -> None:
    """And start the node again as one would, at once: nothing of the old one is in the way."""
    estate = pair.estate
    before = pids(estate, node)
    estate.kill9(node)
    if node == OPERATOR:
        estate.start_gateway()
    else:
        estate.start_agent(node)
    eventually(lambda: all(is_gone(pid) for pid in before), timeout=SOON, what="the old workers ended by themselves")


def end_of_held_stream(pair: Pair) -> str:
    """What the caller's record says of the stream that was cut, last."""
    return str(pair.town.flow(CLIENT, "held", "failed")["reason"])


@pytest.mark.slow
def test_the_workers_of_either_host(pair: Pair) -> None:
    for node, reason in ((SERVER, "closed"), (CLIENT, "")):
        address = pair.place("web")
        wait_for_traffic(pair)
        with session(*pair.place("held")) as sock:
            assert is_alive(sock)
            kill_workers(pair, node)
            wait_cut(sock)
        took = wait_for_traffic(pair)
        if node == SERVER:  # the caller's own worker takes its records with it: a record is written when a stream ends
            assert reason in end_of_held_stream(pair), end_of_held_stream(pair)
            print(f"recorded at {CLIENT}: {end_of_held_stream(pair)}")
        print(f"workers of {node} killed: traffic {took:.2f} s after it was seen replaced")
        assert pair.place("web") == address
        assert restarts(pair.estate, node) >= 1


@pytest.mark.slow
def test_the_supervisor_of_either_host(pair: Pair) -> None:
    for node in (SERVER, CLIENT):
        address = pair.place("web")
        identity = load_identity(pair.estate.home(node) / "identity.pem").leaf
        with session(*pair.place("held")) as sock:
            kill_supervisor(pair, node)
            wait_cut(sock)
        took = wait_for_traffic(pair)
        print(f"supervisor of {node} killed: traffic {took:.2f} s after its ready line")
        assert pair.place("web") == address, "its services have the addresses they had"
        assert load_identity(pair.estate.home(node) / "identity.pem").leaf == identity


@pytest.mark.slow
def test_workers_and_supervisor_of_the_gateway(pair: Pair, way: str) -> None:
    wait_for_traffic(pair)
    for name, kill in (("workers", kill_workers), ("supervisor", kill_supervisor)):
        with session(*pair.place("held")) as sock:
            kill(pair, OPERATOR)
            if way == "direct":
                assert is_alive(sock), "a direct stream does not pass the gateway"
            else:
                wait_cut(sock)
        if way == "direct":
            assert ask(*pair.place("web")) == "one"
        wait_connected(pair.estate, SERVER, CLIENT)
        took = wait_for_traffic(pair)
        print(f"{name} of the gateway killed ({way}): traffic {took:.2f} s after both hosts were back")
        assert pair.town.command(OPERATOR, "host", "list")[0] == 0


@pytest.mark.slow
def test_anything_at_any_moment(pair: Pair, seed: int) -> None:
    """A random series of kills, faster than everything can recover; then all of it works without help."""
    chance = random.Random(seed)
    place = pair.place("web")
    for _ in range(KILLS):
        node = chance.choice([OPERATOR, SERVER, CLIENT])
        kill = chance.choice([kill_workers, kill_supervisor])
        with contextlib.suppress(RequestFailed):
            ask(*place, timeout=0.3)
        kill(pair, node)
    wait_connected(pair.estate, SERVER, CLIENT)
    print(f"traffic {wait_for_traffic(pair):.2f} s after the hosts were back")
    assert not [w for node in (SERVER, CLIENT, OPERATOR) for w in status(pair.estate, node)["warnings"]]
