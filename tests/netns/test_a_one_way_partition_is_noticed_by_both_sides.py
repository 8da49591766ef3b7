"""I/O: a router loses what goes one way: both ends give the tunnel up, also the one that still hears the other.

          gw 10.77.0.1
               │
 ┌──────────── up ───────────────────────────┐
vm1                                         vm2 takes tunnels at 10.77.2.2
 └─ left ─ 10.77.1.1 router 10.77.2.1 ─ right ┘
           vm2 to vm1 is lost here
"""

from __future__ import annotations

import time

import pytest

from tests.support.estate import Estate
from tests.support.network import Network, start_estate, wait_paths
from tests.support.pair import locate
from tests.support.traffic import Backend, hold, session

pytestmark = pytest.mark.root
BOUND = 20.0


@pytest.mark.parametrize("deaf", ["vm1", "vm2"])
def test_f12_a_one_way_partition_is_noticed_by_both_sides(network: Network, estate: Estate, deaf: str) -> None:
    network.host("gw", up="10.77.0.1/24")
    network.host("router", forwards=True, left="10.77.1.1/24", right="10.77.2.1/24")
    network.host("vm1", up="10.77.0.2/24", left="10.77.1.2/24")
    network.host("vm2", up="10.77.0.3/24", right="10.77.2.2/24")
    network.route("vm1", "10.77.2.0/24", via="10.77.1.1")
    network.route("vm2", "10.77.1.0/24", via="10.77.2.1")
    with network.inside("vm2"):
        server = Backend("two", hold)
    with server:
        targets = {"on-vm2": server.target}
        start_estate(estate, network, gateway="10.77.0.1", targets=targets, listen={"vm2": "10.77.2.2"})
        place = locate(estate, "vm1", "on-vm2")
        with network.inside("vm1"), session(*place):
            ends = (("vm1", "vm2"), ("vm2", "vm1"))
            for host, peer in ends:
                wait_paths(estate, host, peer, {"direct"})
            network.blackhole("router", {"vm1": "10.77.1.2", "vm2": "10.77.2.2"}[deaf])
            began = time.monotonic()
            for host, peer in ends:
                wait_paths(estate, host, peer, set(), timeout=began + BOUND - time.monotonic())
            print(f"both gave up within {time.monotonic() - began:.1f} s")
            with session(*place):
                wait_paths(estate, "vm1", "vm2", {"through gw1"})
