"""I/O: a service that others registered in Consul is reached through the gateway, by its name and under policy.

vm2 ── gateway ── backends that nobody but Consul knows        Consul: real, its catalog written as Nomad would write it
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.estate import load_config
from bridge.tunnels.frames import Code
from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_catalog import Catalog
from tests.support.consul_server import ConsulServer, documented_catalog_policy, documented_policy, new_consul, options
from tests.support.estate import OPERATOR, TRUST_DOMAIN, Estate, allow
from tests.support.gateways import add_gateway, linked, wait_linked
from tests.support.pair import CLIENT, join, locate, status, wait_connected
from tests.support.town import Town
from tests.support.traffic import Backend, Load, ask, eventually, hold, is_alive, is_refused, session, wait_cut
from tests.support.tunnel_client import TunnelClient, root_of


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    """One that this test may stop."""
    with new_consul(estate.path, estate) as server:
        yield server


@pytest.fixture
def catalog(consul: ConsulServer) -> Iterator[Catalog]:
    """Of a server that no test stops; empty again afterwards."""
    with Catalog(consul) as made:
        yield made


@pytest.fixture
def town(estate: Estate, consul: ConsulServer) -> Town:
    return build(estate, consul.place())


def build(estate: Estate, place: ConsulPlace, *more: str) -> Town:
    """A gateway and one host, and nothing that they serve."""
    estate.init("--registry", "consul", *options(place), *more)
    estate.start_gateway()
    join(estate, CLIENT)
    estate.start_agent(CLIENT)
    wait_connected(estate, CLIENT)
    return Town(estate)


def bring_in(town: Town, name: str, *args: str) -> None:
    town.ok(OPERATOR, "service", "import", name, "--allow-loopback", *args)


def answering(estate: Estate, service: str, count: int) -> set[str]:
    """Who answers, once so many different ones have."""
    place = locate(estate, CLIENT, service)
    seen: set[str] = set()

    def enough() -> bool:
        seen.add(ask(*place))
        return len(seen) == count

    eventually(enough, what=f"{count} instances of {service}")
    return seen


def passing(estate: Estate, service: str) -> int:
    rows = [row for row in status(estate, CLIENT).get("services", ()) if row["name"] == service]
    return int(rows[0]["passing"]) if rows else 0


def import_row(estate: Estate, service: str) -> dict[str, object]:
    return next(row for row in status(estate, OPERATOR)["imports"] if row["service"] == service)


def test_what_consul_lists_is_reached_balanced_and_followed(estate: Estate, town: Town, catalog: Catalog) -> None:
    with contextlib.ExitStack() as stack:
        pods = [stack.enter_context(Backend(f"pod-{number}")) for number in range(3)]
        for pod in pods:
            catalog.register("Checkout_v2", pod.target)
        catalog.register("Checkout_v2", "127.0.0.1:9", status="critical")
        bring_in(town, "Checkout_v2", "--as", "shop", "--port", "8080")
        place = locate_denied(estate, town)
        assert is_refused(*place), "no rule allows it"
        assert town.flow(CLIENT, "shop", "refused")["reason"].startswith("no rule allows")

        town.policy(allow(f"host:{CLIENT}", "shop"))
        assert locate(estate, CLIENT, "shop")[1] == 8080
        assert answering(estate, "shop", 3) == {"pod-0", "pod-1", "pod-2"}
        assert town.ok(CLIENT, "resolve", "shop").split()[0].startswith("127.")
        record = town.flow(CLIENT, "shop", "ok")
        assert record["instance"].startswith("shop/gateway:gw1/127.0.0.1:")
        both_ends = {"gw1", CLIENT}
        eventually(
            lambda: both_ends == {flow["host"] for flow in town.flows(OPERATOR, "shop") if flow["result"] == "ok"}
        )

        catalog.deregister("Checkout_v2", pods[0].target)
        eventually(lambda: passing(estate, "shop") == 2, what="one is gone")
        answering(estate, "shop", 2)
        listed = json.loads(town.ok(OPERATOR, "-o", "json", "service", "show", "shop"))
        assert [(row["id"], row["source"], row["port"]) for row in listed] == [("shop/gw1", "Checkout_v2", 8080)]
        assert "consul:Checkout_v2" in town.ok(OPERATOR, "service", "list")
        assert import_row(estate, "shop")["instances"] == 2

        town.ok(OPERATOR, "service", "remove", "shop")
        eventually(lambda: not town.knows(CLIENT, "shop"), what="the name is gone")
        assert town.command(OPERATOR, "service", "show", "shop")[0] == 1


def locate_denied(estate: Estate, town: Town) -> tuple[str, int]:
    """Where the service is while only a rule that is over lets the host see it."""
    seen = "until = 2020-01-01\n"
    town.policy(allow(f"host:{CLIENT}", "shop") + seen)
    return locate(estate, CLIENT, "shop")


def test_tags_ports_and_where_an_instance_may_be(estate: Estate, town: Town, catalog: Catalog) -> None:
    with Backend("v1") as old, Backend("v2") as new:
        catalog.register("api", old.target, tags=["v1", "eu"])
        catalog.register("api", new.target, tags=["v2", "eu"])
        catalog.register("meta", "169.254.169.254:80")
        catalog.register("near", new.target)
        town.policy(allow("host:*", "*"))
        bring_in(town, "api", "--tag", "v2", "--tag", "eu")
        town.ok(OPERATOR, "service", "import", "meta", "--allow-loopback")
        town.ok(OPERATOR, "service", "import", "near")
        assert answering(estate, "api", 1) == {"v2"}
        assert locate(estate, CLIENT, "api")[1] == new.port, "its instances' own port"
        eventually(lambda: "cannot be a target" in str(import_row(estate, "meta")["problem"]), what="C38")
        eventually(lambda: "the gateway itself" in str(import_row(estate, "near")["problem"]), what="C38")
        assert import_row(estate, "meta")["instances"] == import_row(estate, "near")["instances"] == 0
        assert "import" in town.warnings(OPERATOR)
        assert not town.knows(CLIENT, "meta") and not town.knows(CLIENT, "near")

        bring_in(town, "near")  # the same again, with what was missing
        assert answering(estate, "near", 1) == {"v2"}


def test_what_the_estate_itself_shows_in_consul_does_not_come_back(estate: Estate, consul: ConsulServer) -> None:
    """It would go round in circles: a host serves it, Consul shows it, a gateway brings it in."""
    place = consul.place(rules=documented_policy("loop/") + documented_catalog_policy(TRUST_DOMAIN), prefix="loop/")
    town = build(estate, place, "--consul-catalog")
    with Catalog(consul) as catalog, Backend("ours") as ours, Backend("theirs") as theirs:
        town.place("loop", CLIENT, ours.target)
        eventually(lambda: consul.ask("GET", "/v1/health/service/loop?passing"), what="Consul shows it")
        town.policy(allow("host:*", "*"))
        bring_in(town, "loop", "--as", "again")
        eventually(lambda: "of this very estate" in str(import_row(estate, "again")["problem"]), what="it is known")
        assert import_row(estate, "again")["instances"] == 0 and not town.knows(CLIENT, "again")
        catalog.register("loop", theirs.target)
        assert answering(estate, "again", 1) == {"theirs"}


def test_c38_a_gateway_opens_what_consul_lists_to_whom_policy_allows_and_nothing_else(
    estate: Estate, town: Town, catalog: Catalog
) -> None:
    """Asked by a host's own tunnel, with whatever the host's agent would never ask."""
    with Backend("web", hold) as web, Backend("secret") as secret:
        catalog.register("web", web.target)
        bring_in(town, "web", "--port", "80")
        town.policy(allow(f"host:{CLIENT}", "web"))
        place = locate(estate, CLIENT, "web")
        home = estate.home(CLIENT)
        with (
            session(*place) as sock,
            TunnelClient(estate.gateway_address, identity=home / "identity.pem", root=root_of(home)) as peer,
        ):
            peer.wait_up()

            def answer(service: str, target: str) -> int | None:
                stream = peer.ask(service, target)
                return None if stream.refused is None else stream.refused.code

            assert answer("web", web.target) is None
            for target in (secret.target, "127.0.0.1:22", "169.254.169.254:80", "localhost:80", ""):
                assert answer("web", target) == Code.UNKNOWN_SERVICE, target
            assert answer("secret", secret.target) == Code.DENIED, "no such service"

            catalog.deregister("web", web.target)
            eventually(lambda: answer("web", web.target) == Code.DRAINING, what="Consul lists it no more")
            assert is_alive(sock)
            catalog.register("web", web.target)
            eventually(lambda: answer("web", web.target) is None, what="and again")

            town.policy("")
            assert wait_cut(sock) < 1.0, "both ends decide again"
            assert answer("web", web.target) == Code.DENIED
            assert secret.served == 0


def test_f52_without_consul_the_last_answer_stays(estate: Estate, own_consul: ConsulServer) -> None:
    town, catalog = build(estate, own_consul.place()), Catalog(own_consul)
    with Backend("one") as one, Backend("held", hold) as held, Backend("two") as two:
        catalog.register("web", one.target)
        catalog.register("held", held.target)
        town.policy(allow("host:*", "*"))
        bring_in(town, "web", "--port", "80")
        bring_in(town, "held")
        answering(estate, "web", 1)
        with session(*locate(estate, CLIENT, "held")) as sock:
            own_consul.stop()
            eventually(lambda: "cannot be reached" in str(import_row(estate, "web")["problem"]), what="it is said")
            assert is_alive(sock)
            assert answering(estate, "web", 1) == {"one"}
            own_consul.start()
            catalog.register("web", two.target)
            assert answering(estate, "web", 2) == {"one", "two"}

            catalog.deregister("held", held.target)
            eventually(lambda: not passing(estate, "held"), what="none is left")
            assert town.knows(CLIENT, "held"), "the name goes on resolving"
            assert is_alive(sock), "a stream that was open goes on"
            catalog.register("held", held.target)
            eventually(lambda: passing(estate, "held") == 1, what="it is back")
            with session(*locate(estate, CLIENT, "held")):
                assert is_alive(sock)
        own_consul.stop()
        estate.kill9(OPERATOR)
        estate.start_gateway()
        wait_connected(estate, CLIENT)
        assert answering(estate, "web", 2) == {"one", "two"}


def test_f01_several_gateways_bring_in_the_same_and_one_may_die(estate: Estate, town: Town, catalog: Catalog) -> None:
    place = load_config(estate.home(OPERATOR)).consul
    assert place is not None
    add_gateway(estate, "gw2", place)
    wait_linked(estate, (CLIENT,), "gw1", "gw2")
    with Backend("one") as one, Backend("two") as two:
        for pod in (one, two):
            catalog.register("web", pod.target)
        town.policy(allow("host:*", "web"), CLIENT)
        bring_in(town, "web", "--port", "80")
        web = locate(estate, CLIENT, "web")
        eventually(lambda: passing(estate, "web") == 4, what="two instances through each of two gateways")
        eventually(lambda: through(town) == {"gateway:gw1", "gateway:gw2"} if ask(*web) else False, what="balanced")

        with Load(*web, rate=50) as load:
            load.wait_for(20)
            killed = time.monotonic()
            estate.kill9("gw2")
            eventually(lambda: linked(estate, CLIENT) == {"gw1"}, what="gw2 is lost")
            load.wait_for(50)
        failed = [began - killed for began in load.failed_from]
        print(f"{load.total} requests, {len(failed)} failed, from {min(failed, default=0):.3f} s on")
        assert all(began < 0.1 for began in failed), "only what ran through it"
        catalog.deregister("web", one.target)
        eventually(
            lambda: ask(*web) == "two" and {ask(*web) for _ in range(10)} == {"two"}, what="followed through gw1"
        )


def through(town: Town) -> set[str]:
    """The places whose instances took streams."""
    return {flow["instance"].split("/")[1] for flow in town.flows(CLIENT, "web") if flow["instance"]}
