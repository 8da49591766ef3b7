"""I/O: a node with two data workers: connections and tunnels that come at once are spread over both."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from tests.support.estate import Estate
from tests.support.pair import CLIENT, SERVER, start_pair, status
from tests.support.traffic import Backend, eventually, hold
from tests.support.tunnel_client import TunnelClient, root_of

TUNNELS = 16
STREAMS = 200


def carried(estate: Estate, home: str, what: str) -> list[Any]:
    return [worker[what] for worker in status(estate, home)["workers"]]


def test_streams_of_one_program_and_tunnels_of_one_host_are_spread(estate: Estate) -> None:
    with Backend("held", hold) as backend, contextlib.ExitStack() as stack:
        pair = start_pair(estate, {"held": backend.target}, direct=True, workers=2)
        place = pair.place("held")
        for home in (SERVER, CLIENT):  # one that is still starting takes nothing, and its node is ready without it
            eventually(lambda h=home: set(carried(estate, h, "state")) == {"serving"}, what=f"all workers of {home}")
        streams = [stack.enter_context(socket.create_connection(place, 10)) for _ in range(STREAMS)]
        for sock in streams:
            sock.settimeout(10)
            assert sock.recv(100) == b"held\n"
        eventually(lambda: sum(carried(estate, CLIENT, "streams")) == STREAMS, what="all streams in the status")
        spread = carried(estate, CLIENT, "streams")
        print(f"{STREAMS} streams of one program: {spread}")
        assert min(spread) >= 0.4 * STREAMS

        (listening,) = [h for h in status(estate, SERVER)["host"].values() if h][:1]
        # A report has streams and tunnels of one moment: with the last stream the last tunnel is in it.
        eventually(lambda: sum(carried(estate, SERVER, "streams")) == STREAMS, what="all streams at the other end")
        before = carried(estate, SERVER, "tunnels")
        identity, root = estate.home(CLIENT) / "identity.pem", root_of(estate.home(CLIENT))
        for _ in range(TUNNELS):
            stack.enter_context(TunnelClient(listening, identity=identity, root=root)).wait_up()
        eventually(
            lambda: sum(carried(estate, SERVER, "tunnels")) == sum(before) + TUNNELS, what="all tunnels in the status"
        )
        after = carried(estate, SERVER, "tunnels")
        print(f"{TUNNELS} tunnels more: {before} before, {after} after")
        assert max(after) - min(after) <= 4
