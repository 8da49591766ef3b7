"""I/O: a host that only dials out gets another address: its old session is superseded, and it is never there twice.

gw 10.77.0.1 ─── lan ─── vm1 10.77.0.2, then 10.77.0.9
                  └───── vm2 10.77.0.3
"""

from __future__ import annotations

import time

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.network import Network, start_estate
from tests.support.pair import locate, status
from tests.support.traffic import Backend, RequestFailed, ask, eventually

pytestmark = pytest.mark.root
BOUND = 20.0


def test_f19_a_host_whose_address_changes_is_back_soon(network: Network, estate: Estate) -> None:
    network.host("gw", lan="10.77.0.1/24")
    network.host("vm1", lan="10.77.0.2/24")
    network.host("vm2", lan="10.77.0.3/24")
    with network.inside("vm1"):
        server = Backend("one")
    with server:
        start_estate(estate, network, gateway="10.77.0.1", targets={"on-vm1": server.target}, listen={})
        place = locate(estate, "vm2", "on-vm1")
        said = estate.nodes[OPERATOR].stderr
        with network.inside("vm2"):
            assert eventually(lambda: ask(*place)) == "one"
            before = said.count
            network.move("vm1", "lan", "10.77.0.2/24", "10.77.0.9/24")
            began = time.monotonic()

            def is_back() -> bool:
                assert online(estate) <= 1, "two sessions of one host"
                try:
                    return ask(*place, timeout=1.0) == "one"
                except RequestFailed:
                    return False

            eventually(lambda: said_again(said.tail(1000)), timeout=BOUND, what="vm1 connects again")
            eventually(is_back, timeout=began + BOUND - time.monotonic(), what="a request to vm1")
            print(f"back after {time.monotonic() - began:.1f} s")
        assert "10.77.0.9" in said.wait_for('"host connected"', 1.0, after=before)
        eventually(lambda: tunnels(estate) == 1, what="the old tunnel is given up", timeout=BOUND)
        assert online(estate) == 1


def said_again(words: str) -> bool:
    return '"remote":"10.77.0.9' in words


def online(estate: Estate) -> int:
    return sum(1 for h in status(estate, OPERATOR)["hosts"] if h["name"] == "vm1" and h["state"] == "online")


def tunnels(estate: Estate) -> int:
    return sum(1 for t in status(estate, OPERATOR)["tunnels"] if t["peer"] == "host:vm1")
