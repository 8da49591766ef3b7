"""I/O: with Consul stopped a gateway issues from what it verified: who is in the estate is renewed, and comes back
after days off; who was revoked is not. With no gateway either, certificates end, and that is said and not gone around.

vm2 ── gateway ── vm1        vm3: revoked before Consul was stopped
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.identity.identity_file import load_identity
from tests.support.consul_server import ConsulServer, new_consul, options
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, join, start_pair, status, wait_connected
from tests.support.traffic import Backend, RequestFailed, ask, eventually

REVOKED = "vm3"
NODES = (OPERATOR, SERVER, CLIENT)
LIFETIME = "6s"
ROTATIONS = 2
DAY = 86400
HOURS_OFF = 72
"""Longer than any certificate of a node lives (F16)."""


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    with new_consul(estate.path, estate) as server:
        yield server


def ends(estate: Estate, home: str) -> float:
    return load_identity(estate.home(home) / "identity.pem").leaf.not_after


def revoke(estate: Estate) -> None:
    """A host that is enrolled, has a certificate and runs no more."""
    join(estate, REVOKED)
    estate.start_agent(REVOKED)
    wait_connected(estate, REVOKED)
    estate.ok(OPERATOR, "host", "revoke", REVOKED, "--reason", "stolen")
    eventually(
        lambda: any(w["code"] == "revoked" for w in status(estate, REVOKED)["warnings"]), what=f"{REVOKED} knows it"
    )
    estate.terminate(REVOKED)


def renewed(estate: Estate, *homes: str) -> None:
    before = {home: ends(estate, home) for home in homes}
    eventually(lambda: all(ends(estate, home) > before[home] for home in homes), what="new certificates", timeout=20)


def reasons(estate: Estate, home: str) -> str:
    return " ".join(row["reason"] for row in status(estate, home).get("gateways", ()))


def test_f13_certificates_rotate_without_consul_and_a_revoked_host_gets_none(
    estate: Estate, own_consul: ConsulServer
) -> None:
    with Backend("one") as one:
        init = ("--registry", "consul", *options(own_consul.place()), "--certificate-lifetime", LIFETIME)
        pair = start_pair(estate, {"web": one.target}, init=init)
        revoke(estate)
        own_consul.stop()
        estate.start_agent(REVOKED)
        before_revoked = ends(estate, REVOKED)
        for _ in range(ROTATIONS):
            renewed(estate, *NODES)
            assert ask(*pair.place("web")) == "one"
        assert any(w["code"] == "registry" for w in status(estate, OPERATOR)["warnings"]), "Consul is away all the time"
        eventually(lambda: "revoked" in reasons(estate, REVOKED), what="the revoked host hears why")
        assert ends(estate, REVOKED) == before_revoked < time.time(), "it has ended, and there is no other"


def shifted(estate: Estate, hours: int, *homes: str) -> None:
    estate.variables["CLOCK_AHEAD"] = str(hours * 3600)
    for home in homes:
        estate.programs[home] = ("-m", "tests.support.shifted_clock", "node")


def test_f15_f16_all_off_for_three_days_comes_back_without_consul(estate: Estate, own_consul: ConsulServer) -> None:
    with Backend("one") as one:
        init = ("--registry", "consul", *options(own_consul.place()))
        pair = start_pair(estate, {"web": one.target}, init=init)
        web = pair.place("web")
        revoke(estate)
        eventually(lambda: (estate.home(CLIENT) / "allows.json").exists(), what="the host has saved its rules")
        own_consul.stop()
        for home in (CLIENT, SERVER, OPERATOR):
            assert estate.terminate(home) in (0, 1)

        # No gateway yet: nothing is extended, and the words say what ended, when, and what to do.
        shifted(estate, HOURS_OFF, *NODES, REVOKED)
        before = ends(estate, CLIENT)
        for home in (SERVER, CLIENT):
            estate.start_agent(home)
        with pytest.raises((RequestFailed, ConnectionError)):
            ask(*web)
        assert ends(estate, CLIENT) == before, "nobody makes a certificate for himself"
        told = {w["code"]: w["text"] for w in status(estate, CLIENT)["warnings"]}
        assert "ends at" in told["certificate-ends"] and "could not be renewed" in told["certificate-ends"]
        assert "certificate of host vm2 ended at" in told["outage-budget"]
        assert status(estate, CLIENT)["outage_budget_seconds"] == 0

        # The gateway has only its disk, and a certificate that has ended as well.
        began = time.monotonic()
        estate.start_gateway()
        wait_connected(estate, SERVER, CLIENT)
        assert eventually(lambda: ask(*web)) == "one"
        print(f"all back in service {time.monotonic() - began:.1f} s after the gateway's start, {HOURS_OFF} h on")
        assert all(ends(estate, home) > time.time() + HOURS_OFF * 3600 for home in NODES), "good at the clock's time"
        estate.start_agent(REVOKED)
        eventually(lambda: "enrol this host again" in reasons(estate, REVOKED) + str(told_of(estate)), what="a refusal")
        assert ends(estate, REVOKED) < time.time() + HOURS_OFF * 3600


def told_of(estate: Estate) -> list[str]:
    """What the revoked host's log says of its certificate."""
    return [line for line in estate.nodes[REVOKED].stderr.tail().splitlines() if "not renewed" in line]
