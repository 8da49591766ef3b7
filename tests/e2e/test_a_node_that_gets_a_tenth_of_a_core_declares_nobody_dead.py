"""I/O: F31: a host and the gateway share a tenth of a core each, with more to do than that: slow, and nothing else.

Streams stand, no instance fails its check, no tunnel is given up and no host is away. That it is slow is in the metrics
and in `status`.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time

import pytest

from bridge import limits
from tests.support.estate import OPERATOR, Estate
from tests.support.lag import OPTIONS, LagWatch
from tests.support.pair import CLIENT, SERVER, admin, pids, start_pair, status, worker_pids
from tests.support.starve import starved
from tests.support.traffic import Backend, RequestFailed, ask, eventually, hold, is_alive, session

SPAN = 60.0
SERVICES = 20
STANDING = 10
CHUNK = bytes(256 * 1024)
DEATHS = re.compile("control session ended|host disconnected|tunnel ended|control link|data worker ended|lost|away")


def bulk(place: tuple[str, int], over: threading.Event, moved: list[int]) -> None:
    """More than they can carry, there and back, until it is over."""
    with socket.create_connection(place, 10) as sock:
        sock.setblocking(False)
        while not over.wait(0.001):
            with contextlib.suppress(BlockingIOError):
                sock.send(CHUNK)
            with contextlib.suppress(BlockingIOError):
                moved[0] += len(sock.recv(1 << 20))


def deaths(estate: Estate, since: dict[str, int]) -> list[str]:
    """What the nodes said of somebody's end, and of checks that failed."""
    found = []
    for home, count in since.items():
        for line in estate.nodes[home].stderr.path.read_text().splitlines()[count:]:
            event = json.loads(line) if line.startswith("{") else {"event": line}
            if DEATHS.search(event["event"]) or event.get("state") == "failing":
                found.append(f"{home}: {line}")
    return found


@pytest.mark.slow
def test_f31_a_tenth_of_a_core_for_a_minute_kills_nobody(estate: Estate) -> None:
    homes = (OPERATOR, SERVER, CLIENT)
    estate.options.update(dict.fromkeys(homes, OPTIONS))
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(Backend("held", hold))
        web = stack.enter_context(Backend("web"))
        echo = f"127.0.0.1:{estate.start_server('echo')}"
        services = {"hold": held.target, "echo": echo} | {f"web{n}": web.target for n in range(SERVICES)}
        pair = start_pair(estate, services)  # through the gateway: it carries every byte
        places = [pair.place(f"web{n}") for n in range(SERVICES)]
        standing = [stack.enter_context(session(*pair.place("hold"))) for _ in range(STANDING)]
        for place in places:
            assert ask(*place) == "web"
        workers = {home: worker_pids(estate, home) for home in homes}
        said = {home: estate.nodes[home].stderr.count for home in homes}
        watches = [LagWatch(estate, home) for home in homes]
        over, moved = threading.Event(), [0]
        load = threading.Thread(target=bulk, args=[pair.place("echo"), over, moved])
        asked, failed, broken = 0, [], 0
        with contextlib.ExitStack() as hunger:
            how = [hunger.enter_context(starved(pids(estate, home))) for home in (SERVER, OPERATOR)]
            load.start()
            until = time.monotonic() + SPAN
            while time.monotonic() < until:
                asked += 1
                try:
                    ask(*places[asked % SERVICES], timeout=limits.OPEN_WAIT_TIMEOUT)
                except RequestFailed as exc:
                    failed.append(str(exc))
                time.sleep(0.2)
            warned = [w["code"] for home in (SERVER, OPERATOR) for w in status(estate, home).get("warnings", ())]
            lags = {watch.home: watch.report() for watch in watches}
            over.set()
            load.join()
        broken = sum(not is_alive(sock) for sock in standing)
        false = deaths(estate, said)
        hosts = admin(estate, OPERATOR, "hosts")
        print(f"{how[0]}: {SPAN:.0f} s, {moved[0] / 1e6:.0f} MB of bulk, {asked} requests, {len(failed)} failed")
        print(f"false deaths: {len(false)}; streams broken: {broken}; warnings: {warned}")
        assert not false, false
        assert not broken and not failed, failed[:3]
        assert {home: worker_pids(estate, home) for home in homes} == workers
        assert all(hosts[host]["online"] for host in (SERVER, CLIENT))
        services_seen = status(estate, CLIENT)["services"]
        assert all(seen["passing"] for seen in services_seen), services_seen
        assert lags[SERVER]["worker"].p99 > 0.02, "the metric shows it"
        assert "loop-lag" in warned
        eventually(lambda: ask(*places[0]) == "web")
