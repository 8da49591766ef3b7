"""I/O: the gateway that writes Consul's catalog is killed; another one goes on, with what it knows first-hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inventory.registries.consul_catalog import SESSION_TTL
from tests.support.catalog import Reader, new_place
from tests.support.consul_server import ConsulServer, new_consul, options
from tests.support.estate import OPERATOR, TRUST_DOMAIN, Estate
from tests.support.gateways import wait_linked
from tests.support.pair import CLIENT, SERVER, start_pair, status
from tests.support.traffic import Backend, eventually

LEASE = 15.0
"""Seconds for which a host counts as here after its connection has ended."""
MARGIN = 5.0


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    with new_consul(estate.path, estate) as server:
        yield server


def test_another_gateway_takes_the_catalog_over_from_one_that_was_killed(
    estate: Estate, own_consul: ConsulServer
) -> None:
    reader, place = Reader(own_consul), new_place(own_consul, TRUST_DOMAIN)

    def host_check(host: str) -> str:
        checks = own_consul.ask("GET", f"/v1/health/node/meshbridge_{TRUST_DOMAIN}_{host}")
        return next((str(c["Status"]) for c in checks if c["CheckID"] == "meshbridge:host"), "")

    def web() -> list[str]:
        rows = own_consul.ask("GET", "/v1/health/service/web")
        return [c["Status"] for row in rows for c in row["Checks"] if c["ServiceID"]]

    with Backend("one") as one:
        start_pair(estate, {"web": one.target}, init=("--registry", "consul", *options(place), "--consul-catalog"))
        address = estate.free_endpoint()
        token = estate.ok(OPERATOR, "gateway", "add", f"gw2={address}")
        estate.ok("gw2", "gateway", "join", "-", *options(place), "--consul-catalog", input=token)
        estate.start_gateway(home="gw2")
        wait_linked(estate, (SERVER, CLIENT), "gw1", "gw2")
        eventually(lambda: web() == ["passing"], what="gw1 wrote it")
        assert status(estate, "gw2")["catalog"]["writer"] == "gw1"
        before = reader.everything()

        estate.kill9(OPERATOR)
        began = time.monotonic()
        eventually(
            lambda: status(estate, "gw2")["catalog"]["writer"] == "gw2",
            what="gw2 writes",
            timeout=2 * SESSION_TTL + MARGIN,
        )
        print(f"taken over {time.monotonic() - began:.1f} s after the writer was killed")
        one.stop()
        eventually(lambda: web() == ["critical"], what="gw2 writes what it hears")
        one.start()
        eventually(lambda: web() == ["passing"], what="and again")
        now = reader.everything()
        assert now.keys() == before.keys() and host_check(SERVER) == host_check(CLIENT) == "passing"

        estate.kill9(CLIENT)
        began = time.monotonic()
        eventually(lambda: host_check(CLIENT) == "critical", what="the host is away", timeout=LEASE + MARGIN)
        print(f"a host that was killed is critical after {time.monotonic() - began:.1f} s")
        assert host_check(SERVER) == "passing"
