"""I/O: with two gateways a host loses one without losing anything but the streams through it, and takes up new ones.

vm2 ── gw1, gw2 ── vm1        gw1 is killed; vm2 and vm1 go on through gw2
"""

from __future__ import annotations

import json

from tests.support.consul_server import ConsulServer, options
from tests.support.estate import OPERATOR, Estate
from tests.support.gateways import add_gateway, at, linked, times_to_answer, wait_linked
from tests.support.pair import CLIENT, SERVER, Pair, start_pair, status
from tests.support.traffic import Backend, ask, eventually, hold, is_alive, session

BACK_WITHIN = 3.0
"""Seconds after the kill until p99 of the clients are answered through the other gateway (F01)."""


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
        waits = []
        for home, other in ((OPERATOR, "gw2"), ("gw2", "gw1")):
            estate.kill9(home)
            waits += times_to_answer(*web)
            goes_through(pair, other)
            estate.start_gateway(home=home)
            wait_linked(estate, (SERVER, CLIENT), "gw1", "gw2")
        print(f"back in service after kill -9 of a gateway: p50 {at(waits, 0.5):.3f} s, p99 {at(waits, 0.99):.3f} s")
        assert at(waits, 0.99) < BACK_WITHIN


def goes_through(pair: Pair, gateway: str) -> None:
    estate = pair.estate
    with session(*pair.place("held")) as sock:
        assert is_alive(sock)
    eventually(lambda: set(pair.tunnel_paths()) == {f"through {gateway}"}, what=f"all through {gateway}")
    eventually(lambda: linked(estate, CLIENT) == {gateway}, what="the other one is lost")
    seen = {row["name"]: row for row in status(estate, OPERATOR if gateway == "gw1" else gateway)["services"]}
    assert seen["web"]["passing"] == 1, "it knows first-hand what is where"


def test_a_gateway_that_was_removed_is_left_and_may_not_come_back(estate: Estate, consul: ConsulServer) -> None:
    place = consul.place()
    with Backend("one") as one:
        pair = start_pair(estate, {"web": one.target}, init=("--registry", "consul", *options(place)))
        add_gateway(estate, "gw2", place)
        wait_linked(estate, (SERVER, CLIENT), "gw1", "gw2")
        refused = estate.cli(OPERATOR, "gateway", "remove", "gw1")
        assert refused.returncode == 1 and "no gateway would be left that issues" in refused.stderr
        estate.ok(OPERATOR, "gateway", "remove", "gw2")
        wait_linked(estate, (SERVER, CLIENT), "gw1")
        assert ask(*pair.place("web")) == "one"
        listed = json.loads(estate.ok(OPERATOR, "-o", "json", "gateway", "list"))
        assert [(row["name"], row["issuer"]) for row in listed] == [("gw1", True)]
        eventually(lambda: "removed" in warnings(estate, "gw2"), what="it says so itself")


def warnings(estate: Estate, home: str) -> set[str]:
    return {warning["code"] for warning in status(estate, home).get("warnings", ())}
