"""I/O: `-o json status` of each kind of node: the fields that people's scripts read, and nothing but JSON on stdout."""

from __future__ import annotations

import json
from typing import Any

from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually, hold, session

COMMON = {
    *("node", "role", "trust_domain", "version", "pid", "started", "running", "certificate_ends"),
    *("authority_number", "policy_number", "workers", "streams", "tunnels", "warnings", "services"),
}
WORKER = {"pid", "state", "streams", "tunnels", "restarts"}
TUNNEL = {"peer", "path", "streams", "age_seconds", "peer_certificate_ends"}


def shown(town: Town, node: str) -> dict[str, Any]:
    done = town.estate.cli(node, "-o", "json", "status")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_status_has_every_part_and_says_what_is(town: Town) -> None:
    service = town.name("ledger")
    with Backend("one", hold) as backend:
        town.place(service, "db1", backend.target, "--check", "tcp;interval=200ms")
        town.policy(allow("ledger", '"host:app"', f'"{service}"'))
        address, port = town.address("app", service)
        with eventually(lambda: session(address, port)):
            eventually(lambda: town.status("app")["streams"] == 1)
            eventually(lambda: town.health("db1").get(f"{service}/db1/{backend.target}"), what="the first check")
            agent, server, gateway = shown(town, "app"), shown(town, "db1"), shown(town, "op")
        for status in (agent, server, gateway):
            assert status.keys() >= COMMON
            assert all(worker.keys() == WORKER for worker in status["workers"]) and status["workers"]
            assert all(tunnel.keys() >= TUNNEL for tunnel in status["tunnels"])
        assert (agent["node"], agent["role"], gateway["node"], gateway["role"]) == ("app", "host", "gw1", "gateway")
        assert agent["policy_number"] == gateway["policy_number"] > 0
        paths = {tunnel["peer"]: tunnel["path"] for tunnel in agent["tunnels"]}
        assert paths["host:db1"] == "direct"
        assert paths["gateway:gw1"] == "direct"
        assert [(g["name"], g["state"]) for g in agent["gateways"]] == [("gw1", "connected")]
        (entry,) = [s for s in agent["services"] if s["name"] == service]
        assert (entry["address"], entry["instances"]) == (f"{address}:{port}", 1)
        (here,) = [i for i in server["instances_here"] if i["id"].startswith(f"{service}/")]
        assert here == {"id": f"{service}/db1/{backend.target}", "state": "passing", "reason": ""}
        hosts = {host["name"]: host["state"] for host in gateway["hosts"]}
        assert {name: hosts[name] for name in town.agents} == dict.fromkeys(("app", "db1", "db2"), "online")


def test_a_table_says_the_same_in_words(town: Town) -> None:
    service = town.name("ledger")
    with Backend("one") as backend:
        town.place(service, "db1", backend.target)
        town.policy(allow("ledger", '"host:app"', f'"{service}"'))
        address, port = town.address("app", service)
        eventually(lambda: ask(address, port))
        out = town.ok("app", "status")
        assert f"{address}:{port}" in out
        assert "gw1" in out and "connected" in out
        assert "\x1b" not in out
