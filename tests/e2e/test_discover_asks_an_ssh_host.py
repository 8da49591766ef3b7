"""I/O: `discover --host`: the gateway runs one of a few commands on a host with a real sshd, and reads what it prints.

The sshd is one of this machine; where it should be an AIX box, a forced command answers as that one would.
"""

from __future__ import annotations

import json
import socket

import pytest
import trio

from agents.admin.client import call
from inventory.errors import InputError
from tests.e2e.test_a_client_that_knows_nothing_of_us_is_known_by_its_address import ask_from
from tests.e2e.test_an_agentless_host_is_a_host_like_any_other import add_ssh, wait_up
from tests.support.estate import OPERATOR, Estate
from tests.support.sshd import Sshd
from tests.support.town import Town, allow
from tests.support.traffic import Backend, eventually
from tests.unit.test_discovery_listings import AIX


@pytest.fixture
def town(estate: Estate) -> Town:
    estate.init()
    estate.start_gateway()
    return Town(estate)


def reach(town: Town, box: Sshd, options: str = "restrict,port-forwarding") -> None:
    box.authorize(f"cert-authority,{options} " + town.ok(OPERATOR, "gateway", "ssh-ca").strip())
    add_ssh(town, box)
    wait_up(town.estate, "aix1")


def test_what_a_host_prints_becomes_a_proposal(estate: Estate, town: Town) -> None:
    with Sshd(estate.path / "box", estate.free_port()) as box, socket.create_server(("127.0.0.1", 0)) as server:
        reach(town, box)
        text = town.ok(OPERATOR, "discover", "--host", "aix1")
        assert f"--host aix1 --target 127.0.0.1:{server.getsockname()[1]} --check tcp" in text
        assert estate.cli(OPERATOR, "policy", "check", "-", input=text).returncode == 0
        found = json.loads(town.ok(OPERATOR, "-o", "json", "discover", "--host", "aix1"))
        assert (found["host"], found["looks"]) == ("aix1", 1)


def test_a_host_with_another_netstat_and_no_ss_is_understood(estate: Estate, town: Town) -> None:
    answer = estate.path / "answer"
    answer.write_text(AIX)
    asked = estate.path / "asked"
    script = estate.path / "forced"
    script.write_text(
        f'#!/bin/sh\necho "$SSH_ORIGINAL_COMMAND" >>{asked}\n'
        f'case "$SSH_ORIGINAL_COMMAND" in *" netstat -an") cat {answer};; *) echo "not found" >&2; exit 127;; esac\n'
    )
    script.chmod(0o755)
    with Sshd(estate.path / "box", estate.free_port(), options=(f"ForceCommand {script}",)) as box:
        reach(town, box)
        text = town.ok(OPERATOR, "discover", "--host", "aix1")
        assert "#$ meshbridge service add ssh-aix1 --host aix1 --target 127.0.0.1:22 --check ssh" in text
        assert "#    client:client-10-9-0-2 (10.9.0.2): 1 connection" in text
        assert "#? meshbridge host add host-10-1-0-8 --reach tcp://10.1.0.8 --via gw1" in text
        assert [line.rpartition("LC_ALL=C ")[2] for line in asked.read_text().splitlines()] == [
            *("ss -tanp", "onetstat -a", "netstat -an")
        ]
        answer.write_text("nothing that anybody knows\n")
        said = estate.cli(OPERATOR, "discover", "--host", "aix1")
        assert said.returncode == 69 and "does not say what its sockets are: ss: the host has none" in said.stderr
    away = estate.cli(OPERATOR, "discover", "--host", "aix1")
    assert away.returncode == 69 and "host aix1 cannot be asked" in away.stderr


def test_nothing_else_can_be_run_there(estate: Estate, town: Town) -> None:
    async def ask() -> None:
        await call(estate.home(OPERATOR), "sockets", host="aix1", program="touch /tmp/x")

    with Sshd(estate.path / "box", estate.free_port()) as box:
        reach(town, box)
        with pytest.raises(InputError, match="is not a command for this"):
            trio.run(ask)


def test_a_host_may_forbid_commands_and_still_carry_streams(estate: Estate, town: Town) -> None:
    town.ok(OPERATOR, "client", "add", "nms", "--via", "gw1", "--source", "127.0.0.7")
    town.policy(allow("ledger", '"client:nms"', '"ledger"'))
    with Sshd(estate.path / "box", estate.free_port()) as box, Backend("ledger") as ledger:
        reach(town, box, 'restrict,port-forwarding,command="/bin/false"')
        said = estate.cli(OPERATOR, "discover", "--host", "aix1")
        assert said.returncode == 69 and "does not say what its sockets are: ss: exit code 1" in said.stderr
        estate.service_add("ledger", host="aix1", target=ledger.target, port=8080)
        port = estate.free_port()
        town.ok(OPERATOR, "service", "publish", "ledger", "--via", "gw1", "--listen", f"127.0.0.1:{port}")
        assert eventually(lambda: ask_from(("127.0.0.1", port)), what="an answer") == "ledger"
