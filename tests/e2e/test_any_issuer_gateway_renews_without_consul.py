"""I/O: with Consul and the first gateway gone, certificates are renewed by another gateway that was given the issuer's
key, from what it verified; one that was not says so, and whoever asked goes to the next.

gw1 (issuer)   gw2 (issuer)   gw3        Consul is stopped and gw1 killed
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.consul_server import ConsulServer, new_consul, options
from tests.support.estate import OPERATOR, Estate
from tests.support.gateways import add_gateway, wait_linked
from tests.support.pair import CLIENT, SERVER, start_pair, status
from tests.support.traffic import Backend, ask, eventually

LIFETIME = "8s"


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    """One that this test may stop."""
    with new_consul(estate.path, estate) as server:
        yield server


def ends(estate: Estate, home: str) -> Any:
    return status(estate, home).get("certificate_ends")


def renewed(estate: Estate, *homes: str) -> None:
    before = {home: ends(estate, home) for home in homes}
    for home in homes:
        eventually(lambda home=home: ends(estate, home) not in (None, before[home]), what=f"{home} has a new one")


def test_f16_any_issuer_gateway_renews_without_consul(estate: Estate, own_consul: ConsulServer) -> None:
    place = own_consul.place()
    with Backend("one") as one:
        init = ("--registry", "consul", *options(place), "--certificate-lifetime", LIFETIME)
        pair = start_pair(estate, {"web": one.target}, init=init)
        add_gateway(estate, "gw2", place, "--issuer")
        add_gateway(estate, "gw3", place)
        assert not (estate.home("gw3") / "issuer.pem").exists()
        wait_linked(estate, (SERVER, CLIENT), "gw1", "gw2", "gw3")
        own_consul.stop()
        estate.kill9(OPERATOR)
        for _ in range(2):
            renewed(estate, SERVER, CLIENT, "gw2", "gw3")
        assert ask(*pair.place("web")) == "one"

        own_consul.start()
        estate.kill9("gw2")
        token = estate.ok(OPERATOR, "host", "add", "vm9")
        estate.start_gateway()
        estate.ok("vm9", "agent", "join", "-", "--addresses", estate.next_slice(), input=token)
