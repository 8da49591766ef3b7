"""I/O: with two gateways a host loses one without losing anything but the streams through it, and takes up new ones.

vm2 ── gw1, gw2 ── vm1        gw1 is killed; vm2 and vm1 go on through gw2
"""

from __future__ import annotations

import time

from tests.support.consul_server import ConsulServer, options
from tests.support.estate import OPERATOR, Estate
from tests.support.gateways import add_gateway, linked, wait_linked
from tests.support.pair import CLIENT, SERVER, start_pair, status
from tests.support.traffic import Backend, RequestFailed, ask, eventually, hold, is_alive, session

BACK_WITHIN = 3.0
"""Seconds after the kill until a request is answered through the other gateway (F01)."""


def back_in_service(web: tuple[str, int]) -> float:
    """Seconds until the first request is answered."""
    began = time.monotonic()
    while True:
        try:
            assert ask(*web) == "one"
            return time.monotonic() - began
        except RequestFailed:
            assert time.monotonic() < began + 4 * BACK_WITHIN


def test_f01_a_killed_gateway_costs_the_streams_through_it_and_nothing_else(
    estate: Estate, consul: ConsulServer
) -> None:
    place = consul.place()
    with Backend("one") as one, Backend("held", hold) as held:
        services = {"web": one.target, "held": held.target}
        pair = start_pair(estate, services, init=("--registry", "consul", *options(place)))
        with session(*pair.place("held")) as sock:
            add_gateway(estate, "gw2", place)
            wait_linked(estate, (SERVER, CLIENT), "gw1", "gw2")
            assert is_alive(sock), "a new gateway costs no stream"
        web = pair.place("web")
        estate.kill9(OPERATOR)
        took = back_in_service(web)
        print(f"back in service {took:.3f} s after kill -9 of the gateway")
        assert took < BACK_WITHIN
        with session(*pair.place("held")) as sock:
            assert is_alive(sock)
        assert pair.tunnel_paths() == ["through gw2"]
        assert all(seen["passing"] for seen in status(estate, "gw2")["services"]), "gw2 knows it first-hand"

        estate.start_gateway()
        wait_linked(estate, (SERVER, CLIENT), "gw1", "gw2")
        estate.kill9("gw2")
        eventually(lambda: linked(estate, CLIENT) == {"gw1"}, what="gw2 is lost")
        assert ask(*web) == "one"
