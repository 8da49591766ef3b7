"""I/O: by name, in both directions, between hosts that no packet can get between.

vm1 10.77.1.2 ─── left ─── 10.77.1.1  gw  10.77.2.1 ─── right ─── 10.77.2.2 vm2
only dials out              does not forward                      takes tunnels, at an address without a route
"""

from __future__ import annotations

import socket
from functools import partial

import pytest

from tests.support.estate import Estate
from tests.support.network import TUNNEL_PORT, Network, start_estate, wait_paths
from tests.support.pair import locate
from tests.support.traffic import Backend, ask, eventually

pytestmark = pytest.mark.root


def test_a_gateway_joins_two_subnets_that_have_no_route(network: Network, estate: Estate) -> None:
    network.host("gw", left="10.77.1.1/24", right="10.77.2.1/24")
    network.host("vm1", left="10.77.1.2/24")
    network.host("vm2", right="10.77.2.2/24")
    network.route("vm2", "10.77.1.1/32", via="10.77.2.1")
    with network.inside("vm1"):
        one = Backend("one")
    with network.inside("vm2"):
        two = Backend("two")
    targets = {"on-vm1": one.target, "on-vm2": two.target}
    with one, two:
        start_estate(estate, network, gateway="10.77.1.1", targets=targets, listen={"vm2": "10.77.2.2"})
        for host, service, peer, answer in (("vm1", "on-vm2", "vm2", "two"), ("vm2", "on-vm1", "vm1", "one")):
            place = locate(estate, host, service)
            with network.inside(host):
                assert eventually(partial(ask, *place)) == answer
            wait_paths(estate, host, peer, {"through gw1"})
        with network.inside("vm1"), pytest.raises(OSError, match="unreachable"):
            socket.create_connection(("10.77.2.2", TUNNEL_PORT), 2)
