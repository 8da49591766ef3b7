"""I/O: one limit for all who call: over a tunnel, from the host itself, and where a gateway reaches the host."""

from __future__ import annotations

import json
import socket
import sys
import time
from functools import partial

from tests.support.estate import OPERATOR, READY_TIMEOUT, Estate
from tests.support.fragile import seen
from tests.support.pair import join, locate, status, wait_connected
from tests.support.traffic import eventually

POLICY = '[[allow]]\nname = "all"\nfrom = ["host:vm1", "host:vm2"]\nto = ["ledger", "box"]\n'


def fragile(estate: Estate) -> tuple[int, int]:
    argv = [sys.executable, "-m", "tests.support.fragile", "--most", "2"]
    port, asked = map(int, estate.start("fragile", argv).stdout.wait_for("", READY_TIMEOUT).split())
    return port, asked


def hold(place: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(place, 20)
    sock.sendall(b"hold\n")
    return sock


def opened(port: int, count: int) -> None:
    """Until so many are open that stay; a check comes and goes."""
    eventually(lambda: seen(port)["open"] == count, what=f"{count} open", timeout=20)


def counted(estate: Estate, node: str, service: str, expected: tuple[int, ...]) -> bool:
    """Open, waiting, refused and callers, when no check waits among them."""
    [row] = [row for row in status(estate, node)["limited"] if row["instance"].startswith(f"{service}/")]
    return (row["open"], row["waiting"], row["refused"], row["callers"]) == expected


def has_said_why(estate: Estate, home: str) -> bool:
    """The record of a stream comes a moment after its end."""
    flows = [json.loads(line) for line in estate.ok(home, "-o", "json", "flows", "--limit", "100").splitlines()]
    said = {flow["service"] for flow in flows if "takes at most 2 streams at once; 2 are open" in flow["reason"]}
    return said == {"ledger", "box"}


def test_from_the_host_itself_and_behind_a_gateway(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    join(estate, "vm1")
    join(estate, "vm2")
    estate.ok(OPERATOR, "host", "add", "lpar7", "--reach", "tcp://127.0.0.1", "--via", "gw1", "--allow-loopback")
    backends = {"ledger": fragile(estate), "box": fragile(estate)}
    for number, (service, host) in enumerate({"ledger": "vm1", "box": "lpar7"}.items()):
        target = f"127.0.0.1:{backends[service][0]}"
        estate.service_add(service, "--max-streams", "2", host=host, target=target, port=8000 + number)
    estate.apply_policy(POLICY)
    for name in ("vm1", "vm2"):
        estate.start_agent(name)
    wait_connected(estate, "vm1", "vm2")
    for service, node in {"ledger": "vm1", "box": OPERATOR}.items():
        places = [locate(estate, name, service) for name in ("vm1", "vm2")]
        port = backends[service][1]
        held = []
        for count, place in enumerate(places, 1):
            held.append(hold(place))
            opened(port, count)
        began = time.monotonic()
        late = [hold(place) for place in places]
        for sock in late:
            try:
                assert sock.recv(10) == b""
            except ConnectionResetError:
                pass
        assert 4 < time.monotonic() - began < 12
        eventually(partial(counted, estate, node, service, (2, 0, 2, 2)), what="what status says", timeout=20)
        held[0].close()
        opened(port, 1)
        held[0] = hold(places[1])
        opened(port, 2)
        for sock in (*held, *late):
            sock.close()
        assert seen(port)["falls"] == 0
    for home in ("vm1", "vm2"):
        eventually(partial(has_said_why, estate, home), what=f"why in the flows of {home}")
