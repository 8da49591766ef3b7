"""I/O: with Consul stopped, nothing that worked stops, and a gateway that is killed comes back from its own disk.

vm2 ── gateway ── vm1        Consul: stopped, then started again on its data
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_dns_answers_for_what_the_host_may_see import short
from tests.support.consul_server import ConsulServer, new_consul, options
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, Pair, start_pair, status, wait_connected
from tests.support.traffic import Backend, Load, ask, eventually, hold, is_alive, session

READY_WITHIN = 5.0
"""Seconds from the start of a gateway to its ready line, without a registry (F14)."""
AWAY = "Consul cannot be reached"


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    """One that this test may stop."""
    with new_consul(estate.path, estate) as server:
        yield server


def registry_warning(estate: Estate) -> str:
    return next((w["text"] for w in status(estate, OPERATOR)["warnings"] if w["code"] == "registry"), "")


def changes_are_refused(estate: Estate) -> None:
    for arguments in (("host", "add", "vm9"), ("host", "revoke", SERVER), ("host", "list")):
        done = estate.cli(OPERATOR, *arguments)
        assert (done.returncode, done.stdout) == (69, ""), done.stderr
        assert AWAY in done.stderr and "start it" in done.stderr


def works(pair: Pair) -> None:
    assert ask(*pair.place("web")) == "one"
    with session(*pair.place("held")) as sock:
        assert is_alive(sock)


def test_f13_f14_what_worked_goes_on_and_restarts_without_consul(estate: Estate, own_consul: ConsulServer) -> None:
    place = own_consul.place()
    with Backend("one") as one, Backend("held", hold) as held:
        services = {"web": one.target, "held": held.target}
        pair = start_pair(estate, services, init=("--registry", "consul", *options(place)))
        with session(*pair.place("held")) as sock:
            own_consul.stop()
            eventually(lambda: AWAY in registry_warning(estate), what="the gateway says that Consul is away")
            assert is_alive(sock), "a stream that was open goes on"
            works(pair)
            changes_are_refused(estate)

            estate.kill9(CLIENT)
            estate.start_agent(CLIENT)
            wait_connected(estate, CLIENT)
        works(pair)

        estate.kill9(OPERATOR)
        assert estate.cli(OPERATOR, "policy", "explain", f"host:{CLIENT}", "web").returncode == 0
        began = time.monotonic()
        estate.start_gateway()
        took = time.monotonic() - began
        print(f"gateway ready {took:.2f} s after its start, without Consul")
        assert took < READY_WITHIN
        said = estate.nodes[OPERATOR].stderr.tail(10_000).splitlines()
        alone = next(line for line in said if "started without the registry" in line)
        assert json.loads(alone)["level"] == "error", "a line of the log like any other"
        wait_connected(estate, SERVER, CLIENT)
        works(pair)
        assert AWAY in registry_warning(estate)
        changes_are_refused(estate)

        own_consul.start()
        eventually(lambda: not registry_warning(estate), what="the registry is followed again", timeout=30)
        pair.town.policy('[[allow]]\nname = "less"\nfrom = ["host:vm2"]\nto = ["held"]\n')
        assert estate.cli(OPERATOR, "policy", "explain", f"host:{CLIENT}", "web").returncode == 1
        estate.add_host("vm3")


def test_f13_names_policy_health_and_failover_go_on_without_consul(estate: Estate, own_consul: ConsulServer) -> None:
    with Backend("one") as one, Backend("two") as two:
        init = ("--registry", "consul", *options(own_consul.place()))
        pair = start_pair(estate, {"web": one.target, "closed": one.target}, init=init)
        check = ("--check", "tcp;interval=200ms;fall=1;timeout=1s")
        pair.town.place("web", SERVER, two.target, *check, port=pair.place("web")[1])
        pair.town.policy('[[allow]]\nname = "web"\nfrom = ["host:vm2"]\nto = ["web"]\n')
        web = pair.place("web")
        both = {"one", "two"}
        eventually(lambda: {ask(*web) for _ in range(12)} == both, what="both instances answer")
        own_consul.stop()
        eventually(lambda: AWAY in registry_warning(estate), what="the gateway says that Consul is away")

        assert pair.town.address(CLIENT, "web") == web
        assert not pair.town.knows(CLIENT, "closed"), "what is denied stays denied"
        for service, code in (("web", 0), ("closed", 1)):
            assert estate.cli(OPERATOR, "policy", "explain", f"host:{CLIENT}", service).returncode == code
        if shutil.which("dig") is not None:
            assert short(pair.town, CLIENT, "web.bridge.internal") == [web[0]]

        instance = f"web/{SERVER}/{two.target}"
        with Load(*web, clients=2, rate=40) as load:
            load.wait_for(20)
            two.stop()
            eventually(lambda: pair.town.health(SERVER)[instance][0] == "failing", what="its check fails")
            load.wait_for(20, of="one")
            two.start()
            load.wait_for(5, of="two")
        assert not load.failures, load.failures[:3]
        assert (pair.town.status(OPERATOR)["services"][1]["name"], AWAY in registry_warning(estate)) == ("web", True)

        estate.kill9(SERVER)
        estate.start_agent(SERVER)
        eventually(lambda: {ask(*web) for _ in range(12)} == both, what="its instances are back", timeout=20)


def test_f34_a_consul_that_went_back_is_not_believed(estate: Estate, own_consul: ConsulServer) -> None:
    """Yesterday's snapshot would bring back a host that was revoked and a rule that was taken away."""
    place = own_consul.place()
    with Backend("one") as one, Backend("held", hold) as held:
        services = {"web": one.target, "held": held.target}
        pair = start_pair(estate, services, init=("--registry", "consul", *options(place)))
        works(pair)
        yesterday = own_consul.snapshot()
        pair.town.policy('[[allow]]\nname = "less"\nfrom = ["host:vm2"]\nto = ["held"]\n')
        number = json.loads(estate.ok(OPERATOR, "-o", "json", "policy", "show"))["number"]
        eventually(lambda: status(estate, OPERATOR)["authority_number"] == number, what="the gateway knows it")
        own_consul.restore(yesterday)
        went_back = "the registry went back"
        eventually(lambda: went_back in registry_warning(estate), what="the gateway says so")
        before = own_consul.keys(place.prefix)
        for words in (("host", "add", "vm9"), ("host", "list"), ("policy", "log"), ("doctor",)):
            done = estate.cli(OPERATOR, *words)
            assert done.returncode in (1, 64) and went_back in done.stderr + done.stdout, (words, done)
        assert own_consul.keys(place.prefix) == before, "nothing was changed in it"
        assert status(estate, OPERATOR)["authority_number"] == number

        estate.kill9(OPERATOR)
        estate.start_gateway()
        wait_connected(estate, SERVER, CLIENT)
        assert status(estate, OPERATOR)["authority_number"] == number, "and after a restart as well"
        eventually(lambda: went_back in registry_warning(estate), what="the gateway says so again")
        with session(*pair.place("held")) as sock:
            assert is_alive(sock)
        assert [seen["name"] for seen in status(estate, CLIENT)["services"]] == ["held"]

        assert estate.terminate(OPERATOR) == 0
        backup = estate.path / "backup.db"
        estate.ok(OPERATOR, "registry", "backup", str(backup))
        refused = estate.cli(OPERATOR, "registry", "restore", str(backup))
        assert refused.returncode == 64 and f"--past {number}" in refused.stderr
        estate.ok(OPERATOR, "registry", "restore", str(backup), "--past", str(number))
        estate.start_gateway()
        wait_connected(estate, SERVER, CLIENT)
        eventually(lambda: not registry_warning(estate), what="one log again")
        works(pair)  # what the old backup said is said again, by an operator's command
