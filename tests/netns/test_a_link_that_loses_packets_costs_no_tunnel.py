"""I/O: F20: 5 % of all packets vanish, 200 ± 50 ms on the way, some overtaken: slower, and nothing given up.

gw 10.78.0.1 ─┐
vm1 10.78.0.2 ┼─ one rough link between any two of them; vm1 takes tunnels and serves, vm2 calls
vm2 10.78.0.3 ┘

How much of the link's throughput is kept is measured against a plain TCP copy between the same two hosts.
"""

from __future__ import annotations

import hashlib
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.network import Network, paths, start_estate
from tests.support.pair import admin, locate, status
from tests.support.rough_link import Roughness
from tests.support.traffic import QUESTION, Backend, ask

pytestmark = pytest.mark.root
LINK = Roughness(loss=0.05, delay=0.2, jitter=0.05, reorder=0.01)
REQUESTS = 40
AT_ONCE = 8
PATIENT = 30.0
"""A first stream may need a new tunnel: six round trips through the gateway, and what is lost comes seconds later."""
BULK = 1_000_000
KEPT = 0.1
"""Of what plain TCP carries directly. Two copies over such a link differ much from each other; a stream's window begins
small and grows with round trips, which are 0.4 s, and twice that through the gateway."""


def answer_or_digest(sock: socket.socket, name: str) -> None:
    """`?` is answered with the name; of `B` and what follows, the digest."""
    first = sock.recv(1 << 18)
    if first == QUESTION:
        sock.sendall(f"{name}\n".encode())
        return
    digest = hashlib.sha256(first[1:])
    while data := sock.recv(1 << 18):
        digest.update(data)
    sock.sendall(digest.hexdigest().encode())


def asked(place: tuple[str, int]) -> float:
    """Seconds that one request takes."""
    began = time.monotonic()
    assert ask(*place, timeout=PATIENT) == "one"
    return time.monotonic() - began


def copy(place: tuple[str, int], data: bytes) -> float:
    """Bytes per second of one transfer, which arrives whole."""
    with socket.create_connection(place, 20) as sock:
        sock.settimeout(60)
        began = time.monotonic()
        sock.sendall(b"B" + data)
        sock.shutdown(socket.SHUT_WR)
        said = b""
        while more := sock.recv(128):
            said += more
        took = time.monotonic() - began
    assert said.decode() == hashlib.sha256(data).hexdigest()
    return len(data) / took


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the gateway"])
def test_f20_loss_and_delay_eject_nobody_and_keep_every_tunnel(
    network: Network, estate: Estate, seed: int, direct: bool
) -> None:
    addresses = {"gw": "10.78.0.1", "vm1": "10.78.0.2", "vm2": "10.78.0.3"}
    for host in addresses:
        network.host(host)
    network.rough(LINK, seed, later=True, **{host: f"{address}/24" for host, address in addresses.items()})
    with network.inside("vm1"):
        server = Backend("one", answer_or_digest)
        plain = Backend("plain", answer_or_digest, host=addresses["vm1"])
    data = random.Random(seed).randbytes(BULK)
    with server, plain:
        targets = {"on-vm1": server.target}
        listen = {"vm1": addresses["vm1"]} if direct else {}
        start_estate(estate, network, gateway=addresses["gw"], targets=targets, listen=listen)
        place = locate(estate, "vm2", "on-vm1")
        network.roughen()
        with network.inside("vm2"):
            with ThreadPoolExecutor(AT_ONCE) as pool:
                took = sorted(pool.map(lambda _: asked(place), range(REQUESTS)))  # one ejected would answer nobody
            through_mesh = copy(place, data)
            through_tcp = copy((addresses["vm1"], plain.port), data)
        print(f"{REQUESTS} requests, {AT_ONCE} at once: p50 {took[REQUESTS // 2]:.1f} s, longest {took[-1]:.1f} s")
        print(f"bulk {through_mesh / 1e3:.0f} kB/s, plain TCP {through_tcp / 1e3:.0f} kB/s")
        assert paths(estate, "vm2", "vm1") == {"direct" if direct else "through gw1"}
        for host in ("vm1", "vm2"):
            assert not [w for w in status(estate, host)["warnings"] if w["code"] == "no-gateway"]
            said = estate.nodes[host].stderr.tail(1000)
            assert "tunnel-ended" not in said, "none was given up"
        seen = admin(estate, OPERATOR, "hosts")
        assert all(seen[host]["online"] for host in ("vm1", "vm2"))
    assert through_mesh > KEPT * through_tcp
