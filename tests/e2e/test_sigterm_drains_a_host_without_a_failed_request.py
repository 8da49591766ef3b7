"""I/O: two hosts serve a service under 200 new connections a second; one host's agent gets SIGTERM, then the other's.

Not one request fails, and each agent ends by itself with exit code 0. One is reached directly, the other through the
gateway: the goodbye works on both ways.
"""

from __future__ import annotations

import time

import pytest

from tests.support.estate import Estate
from tests.support.town import Town, allow
from tests.support.traffic import Backend, Load, ask, eventually

HOSTS = ("direct", "relayed")


@pytest.mark.slow
def test_f08_no_request_fails_while_hosts_drain_and_come_back(estate: Estate) -> None:
    town = Town(estate)
    estate.init()
    estate.start_gateway()
    estate.add_host("direct", listen=estate.free_endpoint())
    estate.add_host("relayed")
    estate.add_host("caller")
    with Backend("direct") as one, Backend("relayed") as two:
        for host, backend in zip(HOSTS, (one, two), strict=True):
            town.place("web", host, backend.target)
        for node in (*HOSTS, "caller"):
            estate.start_agent(node, ready=False)
        for node in (*HOSTS, "caller"):
            estate.wait_ready(node)
            town.wait_online(node)
        town.policy(allow("web", '"host:caller"', '"web"'))
        address = town.address("caller", "web")
        eventually(lambda: ask(*address))
        with Load(address[0], address[1], rate=200) as load:
            for host in HOSTS:
                load.wait_for(50)
                load.wait_for(10, of=host)
                began = time.monotonic()
                assert estate.terminate(host) == 0
                assert time.monotonic() - began < 5
                load.wait_for(100)
                estate.start_agent(host)
                town.wait_online(host)
                load.wait_for(10, of=host)
        assert not load.failures, f"{len(load.failures)} of {load.total} failed: {load.failures[:3]}"
