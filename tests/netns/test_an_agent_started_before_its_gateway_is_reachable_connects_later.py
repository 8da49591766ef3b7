"""I/O: machines start in any order: an agent without its gateway is up, says so, and connects when it can.

gw 10.77.0.1 ──╳── lan ─── vm1 10.77.0.2
                    └───── vm2 10.77.0.3
"""

from __future__ import annotations

import time

import pytest

from tests.support.estate import Estate
from tests.support.network import Network, start_estate
from tests.support.pair import locate, status, wait_connected
from tests.support.traffic import Backend, ask, eventually

pytestmark = pytest.mark.root


def test_an_agent_started_before_its_gateway_is_reachable_connects_later(network: Network, estate: Estate) -> None:
    network.host("gw", lan="10.77.0.1/24")
    network.host("vm1", lan="10.77.0.2/24")
    network.host("vm2", lan="10.77.0.3/24")
    with network.inside("vm1"):
        server = Backend("one")
    with server:
        start_estate(estate, network, gateway="10.77.0.1", targets={"on-vm1": server.target}, listen={})
        for host in ("vm1", "vm2"):
            assert estate.terminate(host) == 0
        network.cut("gw", "lan")
        for host in ("vm1", "vm2"):
            estate.start_agent(host)

        def reason() -> str:
            gateway = status(estate, "vm2")["gateways"][0]
            assert gateway["state"] == "away"
            return str(gateway["reason"])

        def connected() -> bool:
            wait_connected(estate, "vm1", "vm2")
            return True

        assert "10.77.0.1:7443" in eventually(lambda: "10.77" in reason() and reason())
        network.join("gw", "lan")
        began = time.monotonic()
        eventually(connected, timeout=25, what="both connect")
        print(f"connected {time.monotonic() - began:.1f} s after the gateway could be reached")
        place = locate(estate, "vm2", "on-vm1")
        with network.inside("vm2"):
            assert eventually(lambda: ask(*place)) == "one"
