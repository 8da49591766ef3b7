"""I/O: an agent with 256 descriptors gets 400 clients: what stands goes on, status answers, it recovers by itself."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.support.estate import Estate
from tests.support.pair import CLIENT, SERVER, start_pair, worker_pids
from tests.support.traffic import Backend, eventually, hold, is_alive, session

DESCRIPTORS = 256
CLIENTS = 400


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
            flood = [stack.enter_context(socket.create_connection(place, 10)) for _ in range(CLIENTS)]
            for sock in flood:
                sock.setblocking(False)
            eventually(lambda: greeted(flood) >= 100, what="many of them are served")
            for _ in range(3):
                assert all(is_alive(sock) for sock in standing), "streams that were there go on"
                assert worker_pids(estate, short) == workers, "nobody was restarted"
            assert greeted(flood) < CLIENTS, "there were not enough descriptors for all"
            assert estate.cli(short, "status").returncode == 0
            lines = said.count - before
            print(f"{greeted(flood)} of {CLIENTS} served; {lines} lines in the log")
            assert lines <= 30, said.tail(40)
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
