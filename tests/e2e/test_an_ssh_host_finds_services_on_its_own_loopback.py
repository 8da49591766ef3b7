"""I/O: `service publish --on HOST --port N`: sshd listens for what runs there, and the gateway speaks for the host.

job on aix1 ── 127.0.0.1:N, its sshd ══ gateway ══ vm1; and a client of the gateway ── aix1's own service
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.test_a_client_that_knows_nothing_of_us_is_known_by_its_address import LPAR7, Held, ask_from, held
from tests.e2e.test_an_agentless_host_is_a_host_like_any_other import add_ssh, wait_up
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import SERVER, join, wait_connected
from tests.support.sshd import Sshd
from tests.support.town import Town
from tests.support.traffic import Backend, RequestFailed, eventually, hold

RULES = '[[allow]]\nname = "jobs"\nfrom = ["host:aix1", "client:lpar7"]\nto = ["*"]\n'
JOB = "127.0.0.1"


@pytest.fixture
def town(estate: Estate) -> Town:
    estate.init()
    estate.start_gateway()
    join(estate, SERVER)
    estate.start_agent(SERVER)
    wait_connected(estate, SERVER)
    return Town(estate)


@pytest.fixture
def box(estate: Estate, town: Town) -> Iterator[Sshd]:
    with Sshd(estate.path / "box", estate.free_port()) as made:
        made.authorize("cert-authority " + town.ok(OPERATOR, "gateway", "ssh-ca").strip())
        add_ssh(town, made)
        wait_up(estate, "aix1")
        yield made


def flows(town: Town, service: str) -> list[dict[str, object]]:
    lines = town.estate.ok(OPERATOR, "-o", "json", "flows").splitlines()
    return [flow for line in lines if (flow := json.loads(line))["service"] == service]


def test_a_job_on_the_host_connects_to_its_own_loopback(estate: Estate, town: Town, box: Sshd) -> None:
    with Backend("ledger", hold) as ledger, Backend("aix") as own:
        town.ok(OPERATOR, "service", "add", "ledger", "--host", SERVER, "--target", ledger.target, "--port", "80")
        port = estate.free_port()
        town.ok(OPERATOR, "service", "publish", "ledger", "--on", "aix1", "--port", str(port))
        town.policy(RULES)
        job = held((JOB, port))
        assert job.name == "ledger" and job.echoes()

        town.ok(OPERATOR, "service", "add", "own", "--host", "aix1", "--target", own.target, "--port", "80")
        door = estate.free_port()
        town.ok(OPERATOR, "service", "publish", "own", "--via", "gw1", "--listen", f"127.0.0.1:{door}")
        town.ok(OPERATOR, "client", "add", "lpar7", "--via", "gw1", "--source", LPAR7)
        assert eventually(lambda: ask_from((JOB, door))) == "aix", "a client of the gateway, to the host behind it"

        other = estate.free_port()
        town.ok(OPERATOR, "service", "publish", "ledger", "--on", "aix1", "--port", str(other))
        assert eventually(lambda: greeting(other)) == "ledger"
        town.ok(OPERATOR, "service", "publish", "own", "--on", "aix1", "--port", str(estate.free_port()))
        assert job.echoes(), "none of that touched it"
        town.policy(RULES.replace("host:aix1", "host:other"))
        assert eventually(lambda: not job.echoes())
        job.sock.close()
        cut = eventually(lambda: [flow for flow in flows(town, "ledger") if flow["result"] == "cut"])
        assert {flow["subject"] for flow in cut} == {"host:aix1"}

        town.policy(RULES)
        job = held((JOB, port))
        town.ok(OPERATOR, "host", "drain", "aix1", "--reason", "update")
        assert job.echoes(), "what is open goes on"
        with pytest.raises(RequestFailed):
            greeting(port)
        said = "host aix1 is draining: update"
        eventually(
            lambda: any(said in str(flow["reason"]) for flow in flows(town, "ledger")), what="the record says so"
        )
        town.ok(OPERATOR, "host", "resume", "aix1")
        assert eventually(lambda: greeting(port)) == "ledger"
        town.ok(OPERATOR, "service", "unpublish", "ledger", "--on", "aix1")
        assert eventually(lambda: is_nobody(port))
        assert eventually(lambda: not job.echoes())
        job.sock.close()


def is_nobody(port: int) -> bool:
    """Whether the host's sshd listens there no longer."""
    try:
        socket.create_connection((JOB, port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def greeting(port: int) -> str:
    try:
        one = Held((JOB, port), JOB)
    except ConnectionRefusedError as exc:
        raise RequestFailed("refused") from exc
    one.sock.close()
    if not one.name:
        raise RequestFailed("closed")
    return one.name
