"""I/O: a registry is lost and an older backup put back: hosts that hold newer entries work on under what it says.

backup, then a policy that allows nothing; gateway stopped; restore; gateway started: the backup's policy holds
"""

from __future__ import annotations

import json

from tests.support.estate import OPERATOR, Estate, allow
from tests.support.traffic import Backend, ask, eventually


def numbers(estate: Estate, home: str) -> tuple[int, int]:
    found = json.loads(estate.ok(home, "-o", "json", "status"))
    return found["authority_number"], found["policy_number"]


def test_f34_a_restored_registry_serves_its_hosts_again(estate: Estate) -> None:
    copy = str(estate.path / "backup.db")
    estate.init()
    estate.start_gateway()
    with Backend("web") as web:
        for name in ("vm1", "vm2"):
            estate.add_host(name)
        estate.service_add("web", host="vm1", target=f"127.0.0.1:{web.port}", port=8080)
        estate.apply_policy(allow("host:vm2", "web"))
        for name in ("vm1", "vm2"):
            estate.start_agent(name)
        address = eventually(lambda: estate.cli("vm2", "resolve", "web").stdout.strip())
        eventually(lambda: ask(address, 8080) == "web")
        estate.ok(OPERATOR, "registry", "backup", copy)

        estate.apply_policy("")
        lost = eventually(lambda: estate.cli("vm2", "resolve", "web").returncode == 1 and numbers(estate, "vm2")[0])
        running = estate.cli(OPERATOR, "registry", "restore", copy)
        assert running.returncode == 69 and "another meshbridge node runs" in running.stderr

        estate.terminate(OPERATOR)
        refused = estate.cli(OPERATOR, "registry", "restore", copy)
        assert refused.returncode == 64 and f"--past {lost}" in refused.stderr
        estate.ok(OPERATOR, "registry", "restore", copy, "--past", str(lost))
        estate.start_gateway()
        eventually(lambda: estate.cli("vm2", "resolve", "web").stdout.strip() == address)
        eventually(lambda: ask(address, 8080) == "web")
        assert numbers(estate, "vm2") == numbers(estate, OPERATOR)
