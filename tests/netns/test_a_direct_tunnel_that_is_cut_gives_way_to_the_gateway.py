"""I/O: hosts that can dial each other do; when that way dies in silence, the way through the gateway takes over.

          gw 10.77.0.1
               │
 ┌──────────── up ───────────┐
 │ 10.77.0.2       10.77.0.3 │
vm1                         vm2 takes tunnels at 10.77.1.3
 │ 10.77.1.2       10.77.1.3 │
 └────────── direct ────╳────┘
"""

from __future__ import annotations

import time

import pytest

from tests.support.estate import Estate
from tests.support.network import Network, start_estate, wait_paths
from tests.support.pair import locate
from tests.support.traffic import Backend, hold, session, wait_cut

pytestmark = pytest.mark.root
BOUND = 20.0
"""Seconds; the kernel alone takes 15 minutes or 2 hours."""


def test_f11_a_direct_tunnel_that_is_cut_gives_way_to_the_gateway(network: Network, estate: Estate) -> None:
    network.host("gw", up="10.77.0.1/24")
    network.host("vm1", up="10.77.0.2/24", direct="10.77.1.2/24")
    network.host("vm2", up="10.77.0.3/24", direct="10.77.1.3/24")
    with network.inside("vm2"):
        server = Backend("two", hold)
    with server:
        targets = {"on-vm2": server.target}
        start_estate(estate, network, gateway="10.77.0.1", targets=targets, listen={"vm2": "10.77.1.3"})
        place = locate(estate, "vm1", "on-vm2")
        with network.inside("vm1"), session(*place) as held:
            for host, peer in (("vm1", "vm2"), ("vm2", "vm1")):
                wait_paths(estate, host, peer, {"direct"})
            network.cut("vm2", "direct")
            began = time.monotonic()
            held.sendall(b"into the dark\n")  # a writer must not hang for the 15 minutes of TCP
            wait_cut(held, BOUND)
            with session(*place, timeout=BOUND):
                took = time.monotonic() - began
                assert took <= BOUND, f"the first new session came after {took:.1f} s"
                for host, peer in (("vm1", "vm2"), ("vm2", "vm1")):
                    wait_paths(estate, host, peer, {"through gw1"}, timeout=began + BOUND - time.monotonic() + 2)
            print(f"cut noticed and gone round in {took:.1f} s")
