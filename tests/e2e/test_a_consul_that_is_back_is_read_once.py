"""I/O: 250 hosts, a gateway whose Consul is out of reach for a while, and operators who go on changing things in it.

250 simulated hosts ── gateway ──✂── Consul ── operators

The gateway is killed meanwhile, so that every host comes back to one that knows only what it kept.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agents.estate import load_config, store_config
from inventory.registries.consul_place import ConsulPlace
from tests.bench.place import Place
from tests.bench.scale.shape import Shape
from tests.bench.scale.stand import Stand
from tests.support.consul_server import ConsulServer, new_consul, options
from tests.support.cut_relay import CutRelay
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import status
from tests.support.traffic import eventually

SHAPE = Shape(hosts=250, team=10, services=50, instances=500, rules=50)
TOLD_WITHIN = 60.0
FOLLOWED_WITHIN = 10.0
LOOKED_FOR = 6.0
"""Seconds after that, in which nothing that was removed may come back: a round of the gateway's watch and more."""
REQUESTS_MAX = 40
"""To Consul in all that time; it would be 250 more if each host had one of its own."""
DIRECT = "direct"
"""The home of the operators who reach Consul."""


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    with new_consul(estate.path, estate) as server:
        yield server


def states(estate: Estate) -> dict[str, str]:
    return {row["name"]: row["state"] for row in status(estate, OPERATOR).get("hosts", ())}


def online(estate: Estate) -> int:
    return list(states(estate).values()).count("online")


def test_f35_what_changed_meanwhile_is_taken_in_one_reading_and_brings_nothing_back(
    estate: Estate, own_consul: ConsulServer
) -> None:
    direct = own_consul.place()
    _, _, port = direct.address.rpartition(":")
    cable_to = ("127.0.0.1", int(port))
    with CutRelay(estate.free_port(), cable_to) as cable, Place() as place, Stand(place, "herd", SHAPE) as stand:
        stand.start()
        run(stand, cable, direct)


def run(stand: Stand, cable: CutRelay, direct: ConsulPlace) -> None:
    estate = stand.estate
    through = msgspec.structs.replace(direct, address=f"http://127.0.0.1:{cable.port}")
    assert estate.terminate(OPERATOR) == 0
    estate.ok(OPERATOR, "registry", "copy", "--from", "embedded", "--to", "consul", *options(through))
    estate.start_gateway()
    hosts = SHAPE.hosts + SHAPE.core
    assert len(stand.connect()["told"]) == hosts

    shutil.copytree(estate.home(OPERATOR), estate.home(DIRECT), ignore=shutil.ignore_patterns("admin.sock", "*.db*"))
    config = load_config(estate.home(DIRECT))
    store_config(estate.home(DIRECT), msgspec.structs.replace(config, consul=direct))
    cable.cut()
    eventually(lambda: any(w["code"] == "registry" for w in status(estate, OPERATOR)["warnings"]), what="it says so")

    removed, revoked = SHAPE.hosts_of(0)[0], SHAPE.hosts_of(1)[0]
    estate.ok(DIRECT, "host", "remove", removed)
    estate.ok(DIRECT, "host", "revoke", revoked, "--reason", "stolen")
    estate.ok(DIRECT, "host", "add", "newcomer")

    stand.ask("forget")
    estate.kill9(OPERATOR)
    estate.start_gateway()
    assert len(stand.ask("back", count=hosts, within=TOLD_WITHIN)["told"]) == hosts, "all come back without Consul"
    assert online(estate) == hosts and states(estate)[removed] == "online", "as far as is known here"
    before = stand.ask("state")

    cable.requests = 0
    cable.mend()
    began = time.monotonic()
    eventually(lambda: "newcomer" in states(estate), what="the changes", timeout=FOLLOWED_WITHIN)
    took = time.monotonic() - began
    until = time.monotonic() + LOOKED_FOR
    eventually(lambda: online(estate) == hosts - 2, what="the two are out")
    while time.monotonic() < until:
        seen = states(estate)
        assert removed not in seen and seen[revoked] == "revoked", "it came back"
        assert list(seen.values()).count("online") == hosts - 2
        time.sleep(0.1)
    asked = cable.requests
    print(
        f"{hosts} hosts: followed again after {took:.2f} s; {asked} requests to Consul until {LOOKED_FOR:.0f} s later"
    )
    after = stand.ask("state")
    assert after["handshakes"] == before["handshakes"], "nobody else has connected anew"
    assert after["linked"] == hosts - 2 and not after["refused"] and not after["crashes"]
    assert asked <= REQUESTS_MAX

    cable.cut()
    estate.kill9(OPERATOR)
    estate.start_gateway()
    seen = states(estate)
    assert removed not in seen and seen[revoked] == "revoked" and "newcomer" in seen, "nor does it from the disk"
