"""I/O: a damaged identity, a port that somebody holds, a node that does not run: each error says the next step."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import SERVER, join, wait_connected

PORT_HINT = "end what holds it, or change `listen` in {home}/domain.json"


def refusal(estate: Estate, home: str, *command: str) -> str:
    done = estate.cli(home, *command)
    assert done.returncode not in (0, 70), done.stderr
    return done.stderr


def findings(estate: Estate, home: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(estate.cli(home, "-o", "json", "doctor").stdout)
    return found


def test_a_damaged_identity_is_mended_as_the_error_says(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    join(estate, SERVER)
    identity = estate.home(SERVER) / "identity.pem"
    for damage in (lambda: identity.write_text(identity.read_text()[:300]), identity.unlink):
        damage()
        said = refusal(estate, SERVER, "agent", "run")
        assert "identity.pem" in said and "`host token NAME`" in said and "`agent join`" in said
        (found,) = (f for f in findings(estate, SERVER) if f["check"] == "identity")
        assert "`host token NAME`" in found["hint"]
        assert "`host token NAME`" in estate.cli(SERVER, "status").stdout, "status has no hints of its own"
        token = estate.ok(OPERATOR, "host", "token", SERVER)
        estate.ok(SERVER, "agent", "join", "-", input=token)
    estate.start_agent(SERVER)
    wait_connected(estate, SERVER)


def test_a_port_that_somebody_holds_is_named_with_what_to_do(estate: Estate) -> None:
    estate.init()
    host, _, port = estate.gateway_address.rpartition(":")
    with socket.create_server((host, int(port))):
        said = refusal(estate, OPERATOR, "gateway", "run")
    assert f"{estate.gateway_address} cannot be listened on" in said and "held by" in said
    assert PORT_HINT.format(home=estate.home(OPERATOR)) in said


def test_an_address_of_another_machine_is_said_to_be_one(estate: Estate) -> None:
    estate.init("--listen", "192.0.2.7:7443")
    said = refusal(estate, OPERATOR, "gateway", "run")
    assert "192.0.2.7:7443 cannot be listened on" in said
    assert "an address of this machine" in said and "domain.json" in said


def test_a_node_that_does_not_run_is_started_with_the_command_of_its_role(estate: Estate, tmp_path: Path) -> None:
    estate.init()
    assert f"meshbridge --home {estate.home(OPERATOR)} gateway run\n" in refusal(estate, OPERATOR, "status")
    estate.start_gateway()
    join(estate, SERVER)
    said = refusal(estate, SERVER, "status")
    assert f"meshbridge --home {estate.home(SERVER)} agent run\n" in said and "gateway run" not in said
    estate.terminate(OPERATOR)
    hints = [finding.get("hint") for finding in findings(estate, OPERATOR)]
    assert None in hints and "" not in hints, "none is said to be empty"
