"""I/O: a node with 256 descriptors gets 400 clients: what stands goes on, status answers, it recovers by itself."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from bridge import limits
from inventory.endpoints import parse_endpoint
from tests.support.estate import OPERATOR, Estate
from tests.support.lag import OPTIONS, SHARED_P99, LagWatch
from tests.support.pair import CLIENT, SERVER, start_pair, status, wait_connected, worker_pids
from tests.support.traffic import Backend, eventually, hold, is_alive, session

DESCRIPTORS = 256
CLIENTS = 400
HELD = 5
"""Seconds for which the flood stays."""
LINES_PER_SECOND = 1.0
MUTE_FOR = limits.PREAUTH_TIMEOUT + 2
"""Seconds: the first of them have been turned away by then, and others came in their place."""


@pytest.mark.parametrize("short", [CLIENT, SERVER])
def test_f29_running_out_of_descriptors_breaks_nothing_that_stands(estate: Estate, short: str) -> None:
    estate.prefixes[short] = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    with Backend("held", hold) as server:
        pair = start_pair(estate, {"hold": server.target})
        place = pair.place("hold")
        workers = worker_pids(estate, short)
        with contextlib.ExitStack() as stack:
            standing = [stack.enter_context(session(*place)) for _ in range(20)]
            said = estate.nodes[short].stderr
            before = said.count
            began = time.monotonic()
            flood = [stack.enter_context(socket.create_connection(place, 10)) for _ in range(CLIENTS)]
            for sock in flood:
                sock.setblocking(False)
            eventually(lambda: greeted(flood) >= 100, what="many of them are served")
            for _ in range(HELD):
                assert all(is_alive(sock) for sock in standing), "streams that were there go on"
                assert worker_pids(estate, short) == workers, "nobody was restarted"
                time.sleep(1.0)  # the flood stays for so long
            assert greeted(flood) < CLIENTS, "there were not enough descriptors for all"
            assert estate.cli(short, "status").returncode == 0
            lines = said.count - before
            took = time.monotonic() - began
            print(f"{greeted(flood)} of {CLIENTS} served; {lines} lines in the log in {took:.1f} s; broken streams: 0")
            assert lines <= max(took, 1.0) * LINES_PER_SECOND, said.tail(40)
            for sock in flood:
                sock.close()
            eventually(lambda: opens(place), what="new clients are taken again")
            assert all(is_alive(sock) for sock in standing)
        assert worker_pids(estate, short) == workers


def greeted(socks: list[socket.socket]) -> int:
    """How many have been greeted by the server; what they were told stays to be read."""
    count = 0
    for sock in socks:
        with contextlib.suppress(OSError):
            count += bool(sock.recv(1, socket.MSG_PEEK))
    return count


def opens(place: tuple[str, int]) -> bool:
    with session(*place) as sock:
        return is_alive(sock)


@pytest.mark.slow
def test_f29_a_gateway_out_of_descriptors_carries_on_with_what_it_has(estate: Estate) -> None:
    estate.prefixes[OPERATOR] = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    estate.options[OPERATOR] = (*OPTIONS, "--workers", "1")
    with Backend("held", hold) as server, contextlib.ExitStack() as stack:
        pair = start_pair(estate, {"hold": server.target})
        standing = [stack.enter_context(session(*pair.place("hold"))) for _ in range(20)]
        workers, watch = worker_pids(estate, OPERATOR), LagWatch(estate, OPERATOR)
        said = estate.nodes[OPERATOR].stderr
        before, began = said.count, time.monotonic()
        endpoint = parse_endpoint(estate.gateway_address)
        mute = [socket.create_connection((endpoint.host, endpoint.port), 10) for _ in range(CLIENTS)]
        stack.callback(lambda: [sock.close() for sock in mute])
        while time.monotonic() - began < MUTE_FOR:
            assert all(is_alive(sock) for sock in standing), "streams through it go on"
            assert worker_pids(estate, OPERATOR) == workers and status(estate, OPERATOR)["node"] == "gw1"
            time.sleep(0.5)
        assert estate.cli(OPERATOR, "status").returncode == 0
        lines, took = said.count - before, time.monotonic() - began
        print(f"{lines} lines in the log in {took:.1f} s; broken streams: 0")
        lag = watch.report()
        for sock in mute:
            sock.close()
        estate.kill9(CLIENT)  # its new start is a guest of the gateway like any other
        estate.start_agent(CLIENT)
        wait_connected(estate, CLIENT)
        assert lines <= took * LINES_PER_SECOND, said.tail(40)
        assert lag["turns"].p99 <= SHARED_P99
