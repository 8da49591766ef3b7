"""I/O: the gateway cannot be reached and the hosts can reach each other: new streams go on, at once and later.

gw 10.77.0.1 ──╳── up ─── vm1 10.77.0.2
                    └──── vm2 10.77.0.3, takes tunnels
"""

from __future__ import annotations

from functools import partial

import pytest

from tests.support.estate import Estate
from tests.support.network import Network, paths, start_estate
from tests.support.pair import locate, status
from tests.support.traffic import Backend, Load, ask, eventually

pytestmark = pytest.mark.root


def test_f13_direct_streams_go_on_without_the_gateway(network: Network, estate: Estate) -> None:
    network.host("gw", up="10.77.0.1/24")
    network.host("vm1", up="10.77.0.2/24")
    network.host("vm2", up="10.77.0.3/24")
    with network.inside("vm2"):
        server = Backend("two")
    with server:
        targets = {"on-vm2": server.target}
        start_estate(estate, network, gateway="10.77.0.1", targets=targets, listen={"vm2": "10.77.0.3"})
        place = locate(estate, "vm1", "on-vm2")
        with network.inside("vm1"):
            assert eventually(lambda: ask(*place)) == "two"
            with Load(*place, clients=2, rate=50) as load:
                load.wait_for(20)
                network.cut("gw", "up")
                for host in ("vm1", "vm2"):
                    eventually(partial(warned, estate, host), timeout=25, what=f"{host} notices")
                load.wait_for(50)
            assert not load.failures, load.failures[:3]
            assert paths(estate, "vm1", "vm2") == {"direct"}

            estate.terminate("vm1")  # from disk, with nobody to ask
            estate.start_agent("vm1")
            assert locate(estate, "vm1", "on-vm2") == place
            assert eventually(lambda: ask(*place)) == "two"
            network.join("gw", "up")
            for host in ("vm1", "vm2"):
                eventually(partial(unwarned, estate, host), timeout=25, what=f"{host} is back")


def warned(estate: Estate, host: str) -> bool:
    return any(warning["code"] == "no-gateway" for warning in status(estate, host)["warnings"])


def unwarned(estate: Estate, host: str) -> bool:
    return not warned(estate, host)
