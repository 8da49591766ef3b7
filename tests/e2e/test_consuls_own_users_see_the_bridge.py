"""I/O: `consul catalog`, Consul's DNS and its health endpoints show the estate as they show anything else.

vm2 ── gateway ── vm1 (serves web)        Consul: one server with DNS, ACLs that deny
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.catalog import Reader, new_place
from tests.support.consul_program import find_consul
from tests.support.consul_server import ConsulServer, new_consul, options
from tests.support.estate import OPERATOR, TRUST_DOMAIN, Estate
from tests.support.pair import PORT, SERVER, admin, start_pair, status
from tests.support.traffic import Backend, eventually

NODE = f"meshbridge_{TRUST_DOMAIN}_{SERVER}"
FOLLOWS_WITHIN = 1.0
"""Seconds from the agent's report at the gateway to the check in Consul."""


class OwnConsul:
    def __init__(self, server: ConsulServer, dns: int) -> None:
        self.server = server
        self.dns = dns

    def cli(self, *args: str) -> str:
        access = {"CONSUL_HTTP_ADDR": self.server.address, "CONSUL_HTTP_TOKEN": self.server.token}
        command = [str(find_consul()), *args]
        done = subprocess.run(
            command, env={**os.environ, **access}, capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout

    def dig(self, *args: str) -> list[str]:
        command = ["dig", "+short", "+time=5", "@127.0.0.1", "-p", str(self.dns), *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.splitlines()

    def health(self, service: str, *, passing: bool = False) -> list[Any]:
        found: list[Any] = self.server.ask("GET", f"/v1/health/service/{service}{'?passing' if passing else ''}")
        return found

    def check(self, service: str) -> tuple[str, str]:
        """What the one instance's own check says."""
        (row,) = self.health(service)
        return next((c["Status"], c["Output"]) for c in row["Checks"] if c["ServiceID"])


@pytest.fixture
def consul(consul_program: Path, estate: Estate) -> Iterator[OwnConsul]:
    server = new_consul(estate.path, estate)
    file, dns = server.directory / "consul.json", estate.free_port()
    config = json.loads(file.read_text())
    config["ports"]["dns"] = dns
    file.write_text(json.dumps(config))
    with server:
        server.ask("PUT", "/v1/agent/token/default", {"Token": server.token})  # that DNS answers with
        yield OwnConsul(server, dns)


def agent_says(estate: Estate, state: str) -> float:
    """When the gateway was seen to know that the one instance of web is in this state."""

    def known() -> bool:
        health = admin(estate, OPERATOR, "health") or {}
        return [h["state"] for i, h in health.items() if i.startswith("web/")] == [state]

    eventually(known, what=f"web is {state}", timeout=20)
    return time.monotonic()


def test_consuls_own_users_see_hosts_services_and_their_health(estate: Estate, consul: OwnConsul) -> None:
    reader = Reader(consul.server)
    place = new_place(consul.server, TRUST_DOMAIN)
    with Backend("one") as one:
        services = {"web": one.target}
        start_pair(estate, services, init=("--registry", "consul", *options(place), "--consul-catalog"))
        agent_says(estate, "passing")
        eventually(lambda: len(consul.health("web", passing=True)) == 1, what="web passes in Consul")

        others = reader.everything(reader.nodes_of(TRUST_DOMAIN))

        nodes = consul.cli("catalog", "nodes")
        assert NODE in nodes and f"meshbridge_{TRUST_DOMAIN}_vm2" in nodes
        assert "web" in consul.cli("catalog", "services").split()
        assert NODE in consul.cli("catalog", "nodes", "-service=web")

        assert consul.dig("web.service.consul") == ["web.bridge.internal."]
        (srv,) = consul.dig("web.service.consul", "SRV")
        assert srv.split()[2:] == [str(PORT), "web.bridge.internal."]
        assert consul.dig(f"{NODE}.node.consul") == [f"{SERVER}."]

        (row,) = consul.health("web")
        assert row["Node"]["Meta"]["meshbridge-domain"] == TRUST_DOMAIN
        assert row["Service"]["Meta"]["meshbridge-target"] == one.target
        assert {check["Status"] for check in row["Checks"]} == {"passing"}
        catalog = status(estate, OPERATOR)["catalog"]
        assert (catalog["writer"], catalog["nodes"], catalog["services"]) == ("gw1", 2, 1)

        one.stop()
        known = agent_says(estate, "failing")
        eventually(lambda: consul.check("web")[0] == "critical", what="web is critical in Consul")
        took = time.monotonic() - known
        print(f"critical in Consul at most {took * 1000:.0f} ms after the agent's report")
        assert took < FOLLOWS_WITHIN
        assert "refused" in consul.check("web")[1]
        assert consul.dig("web.service.consul") == []
        one.start()
        known = agent_says(estate, "passing")
        eventually(lambda: consul.check("web")[0] == "passing", what="web passes again in Consul")
        assert time.monotonic() - known < FOLLOWS_WITHIN

        estate.ok(OPERATOR, "service", "remove", "web", "--host", SERVER, "--target", one.target)
        eventually(lambda: not consul.health("web"), what="the service is gone")
        estate.ok(OPERATOR, "host", "remove", "vm2")
        eventually(lambda: "vm2" not in consul.cli("catalog", "nodes"), what="the host is gone")
        estate.ok(OPERATOR, "host", "remove", SERVER)
        eventually(lambda: reader.everything() == others, what="what others have is as it was, and nothing more")
