"""I/O: an operator has a gateway elsewhere reach a host: with a key that only that gateway can open, and by TLS.

operator, gw1 ── caller ── gw2 (a home of its own, registry in Consul) ── aix1 (sshd), box1 (TLS)
"""

from __future__ import annotations

import json

import pytest

from agents.knowledge.gateway_keys import seal_key_of
from bridge.identity.seal_keys import GatewaySealKey
from inventory.errors import InputError
from tests.e2e.test_an_agentless_host_is_a_host_like_any_other import find, place
from tests.support.consul_server import ConsulServer, options
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate, allow
from tests.support.gateways import add_gateway, wait_linked
from tests.support.pair import CLIENT, join, status
from tests.support.sshd import Sshd
from tests.support.town import Town
from tests.support.traffic import Backend, ask, eventually


@pytest.fixture
def town(estate: Estate, consul: ConsulServer) -> Town:
    consul_place = consul.place()
    estate.init("--registry", "consul", *options(consul_place))
    estate.start_gateway()
    add_gateway(estate, "gw2", consul_place)
    join(estate, CLIENT)
    estate.start_agent(CLIENT)
    wait_linked(estate, (CLIENT,), "gw1", "gw2")
    return Town(estate)


def test_a_key_is_sealed_to_the_gateway_that_is_to_use_it_and_to_no_other(
    estate: Estate, town: Town, openssh: Program
) -> None:
    with Sshd(estate.path / "box", estate.free_port()) as box, Backend("ledger") as ledger:
        pinned = estate.path / "aix1.pub"
        pinned.write_text(box.host_key_line + "\n")
        where = ("--reach", box.url, "--via", "gw2", "--host-key", str(pinned))
        key = str(box.new_user_key())
        eventually(lambda: add(town, "aix1", *where, "--key", key), what="gw2 has said what its keys are")
        place(town, "ledger", "aix1", ledger.target)
        town.policy(allow(f"host:{CLIENT}", "ledger"))
        at = find(estate, "ledger")
        eventually(lambda: ask(*at) == "ledger", what="through gw2", timeout=20)
        eventually(lambda: [row["state"] for row in status(estate, "gw2")["reached"]] == ["up"])
        assert not status(estate, OPERATOR)["reached"]
        sealed = sealed_credential(town)
        assert b"PRIVATE KEY" in seal_key_of(estate.home("gw2")).open(sealed, "aix1")
        for stranger in (seal_key_of(estate.home(OPERATOR)), GatewaySealKey.generate()):
            with pytest.raises(InputError):
                stranger.open(sealed, "aix1")
        assert "certificates" not in town.ok(OPERATOR, "host", "show", "aix1")
        ca = town.ok(OPERATOR, "gateway", "ssh-ca", "gw2")
        assert ca.startswith("ssh-ed25519 ") and ca != town.ok(OPERATOR, "gateway", "ssh-ca", "gw1")


def add(town: Town, name: str, *args: str) -> bool:
    code, out, words = town.command(OPERATOR, "host", "add", name, *args)
    assert code == 0 and not out, words
    return True


def sealed_credential(town: Town) -> str:
    log = json.loads(town.ok(OPERATOR, "-o", "json", "policy", "log"))
    found = [line["body"]["reach"]["credential"] for line in log if line["key"] == "reach/aix1"]
    return str(found[-1])
