"""I/O: a backend that falls over with one connection too many, behind two callers and 200 clients.

It never has more than it takes, whoever calls and whatever is killed; the callers get the same of it; and who is
refused hears why.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from tests.support.estate import OPERATOR, READY_TIMEOUT, Estate
from tests.support.fragile import seen
from tests.support.pair import join, locate, status, wait_connected, worker_pids
from tests.support.town import Town
from tests.support.traffic import eventually

SERVER = "vm1"
CALLERS = ("vm2", "vm3")
INSTANCE = "ledger/vm1/"
_PAUSE = 0.02
"""Between two requests of a client: a caller that is gone refuses thousands a second."""


class Clients:
    """Many clients of one place, each with one request after the other until the end. One thread for all."""

    def __init__(self, place: tuple[str, int], count: int) -> None:
        self._place = place
        self._count = count
        self.served = 0
        self.failed = 0
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join(30)

    def _begin(self, selector: selectors.BaseSelector) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self._place)
        selector.register(sock, selectors.EVENT_WRITE)

    def _run(self) -> None:
        due = [time.monotonic()] * self._count
        with selectors.DefaultSelector() as selector:
            while not self._ends:
                now = time.monotonic()
                for _ in [at for at in due if at <= now]:
                    self._begin(selector)
                due = [at for at in due if at > now]
                for key, events in selector.select(0.02):
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if self._goes_on(selector, sock, events):
                        continue
                    selector.unregister(sock)
                    sock.close()
                    due.append(time.monotonic() + _PAUSE)
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()

    def _goes_on(self, selector: selectors.BaseSelector, sock: socket.socket, events: int) -> bool:
        try:
            if events & selectors.EVENT_WRITE:
                sock.send(b"work\n")
                selector.modify(sock, selectors.EVENT_READ)
                return True
            answer = sock.recv(100)
        except OSError:
            answer = b""
        self.served += answer == b"done\n"
        self.failed += answer != b"done\n"
        return False


class Ledger:
    """An estate with a fragile backend at `vm1` and two hosts that call it."""

    def __init__(self, estate: Estate, *limits: str, most: int, work: float) -> None:
        self.estate = estate
        estate.init()
        estate.start_gateway()
        join(estate, SERVER, listen=estate.free_endpoint())
        for caller in CALLERS:
            join(estate, caller)
        argv = [sys.executable, "-m", "tests.support.fragile", "--most", str(most), "--work", str(work)]
        port, self._asked = map(int, estate.start("fragile", argv).stdout.wait_for("", READY_TIMEOUT).split())
        self.id = f"{INSTANCE}127.0.0.1:{port}"
        estate.service_add("ledger", *limits, host=SERVER, target=f"127.0.0.1:{port}", port=8000)
        subjects = ", ".join(f'"host:{name}"' for name in (SERVER, *CALLERS))
        estate.apply_policy(f'[[allow]]\nname = "all"\nfrom = [{subjects}]\nto = ["ledger"]\n')
        for name in (SERVER, *CALLERS):
            estate.start_agent(name, "--workers", "2", ready=False)
        for name in (SERVER, *CALLERS):
            estate.wait_ready(name)
        wait_connected(estate, SERVER, *CALLERS)
        self.places = [locate(estate, name, "ledger") for name in CALLERS]

    def seen(self) -> dict[str, object]:
        return seen(self._asked)

    def row(self) -> dict[str, object]:
        rows = [row for row in status(self.estate, SERVER).get("limited", ()) if row["instance"] == self.id]
        return rows[0] if rows else {}

    def is_free(self) -> bool:
        row = self.row()
        return bool(row) and (row["open"], row["waiting"]) == (0, 0)

    def hold(self, place: tuple[str, int], count: int) -> list[socket.socket]:
        """So many connections that stay."""
        held = [socket.create_connection(place, 10) for _ in range(count)]
        for sock in held:
            sock.sendall(b"hold\n")
        return held


def close(socks: Sequence[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def refusals(estate: Estate, home: str) -> list[str]:
    lines = estate.ok(home, "-o", "json", "flows", "--limit", "10000").splitlines()
    return [flow["reason"] for flow in map(json.loads, lines) if "takes at most" in flow["reason"]]


def busiest_in_a_second(begun: Sequence[float]) -> int:
    """The backend's process notices a connection late when the machine is busy, so the second is a short one."""
    return max(sum(1 for at in begun if first <= at < first + 0.9) for first in begun)


def test_two_hundred_clients_of_two_callers_and_one_that_is_killed(estate: Estate) -> None:
    most = 20
    ledger = Ledger(estate, "--max-streams", str(most), most=most, work=0.1)
    with Clients(ledger.places[0], 180) as many, Clients(ledger.places[1], 20) as few:
        eventually(lambda: few.served > 200, what="200 answers", timeout=30)
        shares = (many.served, few.served)

        # A worker of the host that serves dies with all that it carries.
        pid = worker_pids(estate, SERVER)[0]
        os.kill(pid, signal.SIGKILL)
        before = few.served
        eventually(lambda: few.served > before + 100, what="answers after a worker's death", timeout=30)

        # So does a caller, with all its processes.
        estate.kill9(CALLERS[0])
        before = few.served
        eventually(lambda: few.served > before + 200, what="answers after a caller's death", timeout=30)
    found = ledger.seen()
    print(f"shares {shares}, {many.failed} and {few.failed} failed, at most {found['most']} at once")
    assert found["falls"] == 0 and found["most"] == most
    assert 0.7 < shares[0] / shares[1] < 1.5, shares
    eventually(ledger.is_free, what="all slots given back", timeout=20)

    held = ledger.hold(ledger.places[1], most)
    eventually(lambda: ledger.seen()["open"] == most, what="every slot taken again", timeout=10)
    close(held)
    assert ledger.seen()["falls"] == 0


@pytest.mark.slow
def test_who_is_refused_hears_why_and_the_rate_is_kept(estate: Estate) -> None:
    rate = 10
    ledger = Ledger(estate, "--max-streams", "4", "--max-rate", str(rate), most=4, work=0.05)
    held = ledger.hold(ledger.places[0], 3)
    eventually(lambda: ledger.seen()["open"] == 3, what="three that stay", timeout=10)
    with Clients(ledger.places[0], 100) as one, Clients(ledger.places[1], 100) as other:
        eventually(lambda: one.failed and other.failed, what="refusals", timeout=30)
        eventually(lambda: other.served > 20, what="answers", timeout=30)
        shares = (one.served, other.served)
        warned = [warning["text"] for warning in status(estate, SERVER)["warnings"] if warning["code"] == "busy"]
        row = ledger.row()
    found = ledger.seen()
    begun = found["begun"]
    assert isinstance(begun, list)
    print(f"shares {shares}, refused {row['refused']}, {busiest_in_a_second(begun)} in the busiest second")
    assert found["falls"] == 0 and busiest_in_a_second(begun) <= rate
    assert shares[1] > shares[0], "the first caller has three of four already"
    said = refusals(estate, CALLERS[1])
    assert said and all("vm1 refused it: ledger takes at most" in reason for reason in said), said[:3]
    assert any("waited before you" in reason for reason in said)
    assert warned and ledger.id in warned[0]
    close(held)
    limits = json.loads(estate.ok(OPERATOR, "-o", "json", "service", "show", "ledger"))[0]
    assert (limits["max_streams"], limits["max_rate"]) == (4, rate)
    assert "4 at once, 10/s" in Town(estate).ok(OPERATOR, "service", "list")


@pytest.mark.slow
def test_slots_stay_counted_when_the_workers_are_renewed(estate: Estate) -> None:
    most = 5
    ledger = Ledger(estate, "--max-streams", str(most), most=most, work=0.05)
    held = ledger.hold(ledger.places[0], 3)
    eventually(lambda: ledger.seen()["open"] == 3, what="three that stay", timeout=10)
    with Clients(ledger.places[1], 50) as clients:
        eventually(lambda: clients.served > 50, what="answers", timeout=30)
        before = worker_pids(estate, SERVER)
        os.kill(estate.nodes[SERVER].pid, signal.SIGHUP)
        eventually(lambda: not set(before) & set(worker_pids(estate, SERVER)), what="new workers", timeout=30)
        at = clients.served
        eventually(lambda: clients.served > at + 50, what="answers by new workers", timeout=30)
    eventually(lambda: ledger.seen()["open"] == 3, what="the three that stayed", timeout=20)
    found = ledger.seen()
    assert found["falls"] == 0 and found["most"] == most
    close(held)
    eventually(ledger.is_free, what="all slots given back", timeout=20)
