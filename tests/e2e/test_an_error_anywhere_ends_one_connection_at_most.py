"""I/O: F43: an exception at each place of a node under load costs the connection at hand, and is counted; no process
ends and no other stream notices. Whatever class it has: MemoryError, a stray cancellation and groups as well.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from inventory.endpoints import parse_endpoint
from tests.support import failpoints as f
from tests.support.estate import OPERATOR, Estate
from tests.support.lag import OPTIONS, LagWatch
from tests.support.pair import CLIENT, SERVER, Pair, admin, allow_all, start_pair, worker_pids
from tests.support.traffic import Backend, Load, RequestFailed, ask, eventually, hold, is_alive, session

STANDING = 10
HOMES = (OPERATOR, SERVER, CLIENT)


class Breaker:
    """Has places fail, in one process of the estate at a time."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.fired = 0
        self.swallowed = 0
        self._rng = random.Random(seed)

    def arm(self, pid: int, place: str, kind: str) -> None:
        (self.path / f"{pid}.json").write_text(json.dumps({place: kind}))
        os.kill(pid, signal.SIGUSR2)

    def has_fired(self, pid: int, place: str, times: int) -> bool:
        file = self.path / "fired"
        return file.exists() and file.read_text().splitlines().count(f"{pid} {place}") >= times

    def break_all(
        self,
        pid: int,
        places: dict[str, tuple[str, str]],
        stir: Callable[[], object] = lambda: None,
        *,
        each: int = len(f.ERRORS),
    ) -> int:
        """Each place with each error, or with so many of them, in any order; how often it fired."""
        wanted = [(place, kind) for place in places for kind in self._rng.sample(sorted(f.ERRORS), each)]
        self._rng.shuffle(wanted)
        times: dict[str, int] = {}
        for place, kind in wanted:
            times[place] = times.get(place, 0) + 1
            self.arm(pid, place, kind)

            def happened(place: str = place) -> bool:
                stir()
                return self.has_fired(pid, place, times[place])

            eventually(happened, what=f"{place} to raise {kind}", timeout=20)
            assert Path(f"/proc/{pid}").exists(), f"{kind} at {place} ended the process"
        self.fired += len(wanted)
        self.swallowed += sum(kind == "Cancelled" for _, kind in wanted)
        return len(wanted)


def start(estate: Estate, path: Path, services: dict[str, str]) -> Pair:
    path.mkdir()
    estate.variables["FAILPOINTS"] = str(path)
    for home in HOMES:
        estate.programs[home] = ("-m", "tests.support.failpoints", "node")
        estate.options[home] = (*OPTIONS, "--workers", "1")
    return start_pair(estate, services, direct=True)


@pytest.mark.slow
def test_f43_no_error_ends_a_process_or_another_stream(estate: Estate, seed: int, tmp_path: Path) -> None:
    breaker = Breaker(tmp_path / "failpoints", seed)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(Backend("held", hold))
        web = stack.enter_context(Backend("web"))
        services = {"hold": held.target, "web": web.target}
        pair = start(estate, breaker.path, services)
        place = pair.place("web")
        standing = [stack.enter_context(session(*pair.place("hold"))) for _ in range(STANDING)]
        workers = {home: worker_pids(estate, home)[0] for home in HOMES}
        watches = {home: LagWatch(estate, home) for home in HOMES}
        fired = dict.fromkeys(HOMES, 0)
        with Load(*place, clients=2) as load:
            load.wait_for(20)
            fired[SERVER] += breaker.break_all(workers[SERVER], f.STREAM_PLACES | f.SERVER_PLACES)
            fired[CLIENT] += breaker.break_all(workers[CLIENT], f.STREAM_PLACES | f.CLIENT_PLACES)
            load.wait_for(20)
        of_streams = breaker.fired
        broken = sum(not is_alive(sock) for sock in standing)
        print(f"{of_streams} errors in streams: {len(load.failures)} of {load.total} requests failed, {broken} broken")
        assert not broken
        assert len(load.failures) <= of_streams
        assert {home: worker_pids(estate, home)[0] for home in HOMES} == workers
        fired[SERVER] += breaker.break_all(workers[SERVER], f.PERIODIC_PLACES)
        assert all(is_alive(sock) for sock in standing), "what is done now and then costs nobody anything"
        supervisors(breaker, estate, fired)
        assert all(is_alive(sock) for sock in standing), "a supervisor's errors reach no stream"
        assert {home: worker_pids(estate, home)[0] for home in HOMES} == workers
        for home in (SERVER, CLIENT):
            fired[home] += breaker.break_all(workers[home], f.TUNNEL_PLACES, functools.partial(tried, place), each=2)
        eventually(lambda: ask(*place) == "web", what="service after tunnels ended", timeout=20)
        assert {home: worker_pids(estate, home)[0] for home in HOMES} == workers
        assert all(estate.nodes[home].running for home in HOMES)
        print(f"raised and counted: {counted(watches, fired)}; processes ended: 0")


def endpoint(estate: Estate) -> tuple[str, int]:
    parsed = parse_endpoint(estate.gateway_address)
    return parsed.host, parsed.port


def tried(place: tuple[str, int]) -> None:
    with contextlib.suppress(RequestFailed):
        ask(*place)


def supervisors(breaker: Breaker, estate: Estate, fired: dict[str, int]) -> None:
    """Errors in what supervisors do, brought about by commands, changes of the policy, flows and guests."""
    rules = itertools.count()
    place = Pair(estate, {}).place("web")

    def stir(home: str) -> None:
        admin(estate, home, "status")
        tried(place)
        with socket.create_connection(endpoint(estate), 5) as guest:
            guest.sendall(b"MBE1\n")
        more = f'[[allow]]\nname = "{next(rules)}"\nfrom = ["host:vm2"]\nto = ["x"]\n'
        estate.apply_policy(allow_all({"hold": "", "web": ""}) + more)

    for home in HOMES:
        places = f.NODE_PLACES | (f.GATEWAY_PLACES if home == OPERATOR else f.HOST_PLACES)
        breaker.swallowed = 0
        fired[home] += breaker.break_all(estate.nodes[home].pid, places, functools.partial(stir, home), each=2)
        fired[home] -= breaker.swallowed  # a nursery takes a stray cancellation of a child for its own


def counted(watches: dict[str, LagWatch], fired: dict[str, int]) -> dict[str, tuple[int, float]]:
    """What each node raised, and what its metrics say, once these have all of it."""
    found = {}
    for home, watch in watches.items():

        def enough(watch: LagWatch = watch, least: int = fired[home]) -> bool:
            return watch.value("meshbridge_internal_errors_total") >= least

        eventually(enough, what=f"{fired[home]} errors in the metrics of {home}", timeout=20)
        found[home] = (fired[home], watch.value("meshbridge_internal_errors_total"))
    return found
