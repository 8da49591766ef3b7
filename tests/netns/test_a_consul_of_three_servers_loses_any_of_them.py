"""I/O: one of three Consul servers is killed, or loses the others, while an estate works and commands write (F52).

No request fails, no acknowledged change is lost, and what is changed meanwhile reaches the gateway.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.changes import Changes, found_by
from tests.support.consul_cluster import NAMES, ConsulCluster
from tests.support.consul_estate import CALLER, HOSTS, RULES, ConsulEstate
from tests.support.consul_server import Authority, documented_policy
from tests.support.estate import OPERATOR, Estate
from tests.support.network import Network, place
from tests.support.operator_shell import OperatorShell
from tests.support.pair import status, wait_connected
from tests.support.traffic import eventually

pytestmark = pytest.mark.root

WRITES_WITHIN = 20.0
"""Seconds without an acknowledged change when a leader is killed: 3 to 4 on a quiet machine, mostly the election."""
FOLLOWED_WITHIN = 30.0
"""Seconds until a gateway hears of a change although the server that it asked has lost the others: it holds a question
back for 10, and is waited for for 10 more."""
JOINED_WITHIN = 40.0
READY_WITHIN = 5.0
"""Seconds from the start of a gateway to its ready line (F14); for 2 of them it asks who does not answer."""
AWAY = "Consul cannot be reached"


@pytest.fixture(scope="module")
def running(consul_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulEstate]:
    """Every test leaves it whole, so one is enough."""
    directory = tmp_path_factory.mktemp("three")
    with (
        Network() as network,
        ConsulCluster(directory / "consul", network) as cluster,
        Estate(directory) as estate,
        ConsulEstate(estate, network, cluster).started() as made,
    ):
        yield made


@pytest.fixture
def shell(running: ConsulEstate) -> Iterator[OperatorShell]:
    with OperatorShell(running.estate) as made:
        yield made


def changing(running: ConsulEstate, shell: OperatorShell, seed: int) -> Changes:
    file = running.estate.path / "policy.toml"
    return Changes(shell, random.Random(seed), file, hosts=["vm1", "vm2"], rules=RULES, caller=CALLER)


def number(running: ConsulEstate) -> int:
    return int(status(running.estate, OPERATOR)["authority_number"])


def wait_acknowledged(changes: Changes, count: int) -> None:
    wanted = changes.acknowledged + count
    eventually(lambda: changes.acknowledged >= wanted, timeout=60, what=f"{count} more changes")


@pytest.mark.parametrize("victim", ["leader", "follower"])
def test_f52_a_server_is_killed_while_commands_write(
    victim: str, running: ConsulEstate, shell: OperatorShell, seed: int
) -> None:
    cluster = running.cluster
    name = cluster.leader() if victim == "leader" else cluster.followers()[seed % 2]
    with running.under_requests() as requests, changing(running, shell, seed) as changes:
        wait_acknowledged(changes, 10)
        changes.longest = 0.0
        cluster.stop(name, kill=True)
        wait_acknowledged(changes, 20)
        longest = changes.longest
        cluster.start(name)
        wait_acknowledged(changes, 5)
    print(f"{victim} {name} killed: {longest:.1f} s without a change; {dict(changes.outcomes)}; {requests.answers}")
    assert not changes.wrong, changes.wrong[:3]
    assert not changes.model.differences(found_by(shell))
    assert longest < WRITES_WITHIN
    assert not requests.failures, requests.failures[:3]
    running.wait_followed()


def test_f52_the_gateways_server_loses_the_others(running: ConsulEstate, shell: OperatorShell) -> None:
    """It answers, and does not know what is new: the gateway must not rest on that."""
    cluster, estate = running.cluster, running.estate
    estate.terminate(OPERATOR)
    estate.start_gateway()  # it asks the first one from here on
    running.wait_followed()
    for host in ("vm1", "vm2", CALLER):
        eventually(lambda h=host: not status(estate, h)["warnings"], timeout=30, what=f"{host} is back")
    cluster.isolate(NAMES[0])
    try:
        before = number(running)
        cluster.leader(NAMES[1:])
        began = time.monotonic()
        code, _, words = shell("host", "add", "during")
        assert code == 0, words  # another server is asked
        written = time.monotonic() - began
        with running.under_requests(rate=30) as requests:
            eventually(lambda: number(running) > before, timeout=FOLLOWED_WITHIN, what="the gateway hears of it")
        heard = time.monotonic() - began
        print(
            f"{NAMES[0]} alone: a command took {written:.1f} s, the gateway heard of it {heard:.1f} s after its start"
        )
        assert not requests.failures, requests.failures[:3]
    finally:
        cluster.rejoin(NAMES[0])
    print(f"back with the others {cluster.wait_writable(NAMES[0]):.1f} s after its cable")


def test_f52_a_host_joins_while_there_is_no_leader(running: ConsulEstate, shell: OperatorShell) -> None:
    """Its token is good once, whatever became of the first answer: it is used until it is done."""
    cluster, estate = running.cluster, running.estate
    code, token, words = shell("host", "add", "vm4")
    assert code == 0, words
    place(estate, running.network, vm4=CALLER)
    leader = cluster.leader()
    cluster.stop(leader, kill=True)
    try:
        began, tries = time.monotonic(), 0

        def joined() -> bool:
            nonlocal tries
            tries += 1
            slice_ = ["--addresses", estate.next_slice()] if tries == 1 else []
            done = estate.cli("vm4", "agent", "join", "-", *slice_, input=token, timeout=60)
            assert done.returncode in (0, 69), done.stderr
            return done.returncode == 0

        eventually(joined, timeout=JOINED_WITHIN, what="vm4 joins")
        print(f"leader {leader} killed: joined {time.monotonic() - began:.1f} s later, at the {tries}. try")
    finally:
        cluster.start(leader)
    estate.start_agent("vm4")
    wait_connected(estate, "vm4")
    assert estate.terminate("vm4") == 0
    assert shell("host", "remove", "vm4")[0] == 0


def test_f14_the_gateway_restarts_while_consul_has_no_quorum(running: ConsulEstate, shell: OperatorShell) -> None:
    cluster, estate = running.cluster, running.estate
    gone = cluster.followers()
    cluster.stop(*gone, kill=True)
    try:
        began = time.monotonic()
        code, _, words = shell("host", "add", "no-quorum")
        assert code == 69, words
        print(f"two of three killed: a command ends after {time.monotonic() - began:.1f} s: {words.splitlines()[0]}")
        with running.under_requests(rate=30) as requests:
            running.wait_answer("direct")
            estate.kill9(OPERATOR)
            began = time.monotonic()
            estate.start_gateway()
            took = time.monotonic() - began
            wait_connected(estate, *HOSTS)
            running.wait_answer("relayed")
        print(f"gateway ready {took:.1f} s after its start, without a quorum")
        assert took < READY_WITHIN
        assert not [failure for failure in requests.failures if failure.service == "direct"]
        eventually(lambda: "Consul" in running.registry_warning(), timeout=40, what="the gateway says so")
    finally:
        cluster.start(*gone)
    running.wait_followed()
    assert shell("host", "add", "quorum")[0] == 0


def test_f52_all_three_are_restarted(running: ConsulEstate, shell: OperatorShell, seed: int) -> None:
    cluster = running.cluster
    with running.under_requests(rate=50) as requests:
        with changing(running, shell, seed) as changes:
            wait_acknowledged(changes, 10)
            cluster.stop(*NAMES, kill=True)
            eventually(lambda: AWAY in running.registry_warning(), timeout=20, what="the gateway says so")
            began = time.monotonic()
            cluster.start()
            print(f"three servers again after {time.monotonic() - began:.1f} s")
            wait_acknowledged(changes, 5)
        print(f"and followed after {running.wait_followed():.1f} s; {dict(changes.outcomes)}")
    assert not changes.wrong, changes.wrong[:3]
    assert not changes.model.differences(found_by(shell))
    assert not requests.failures, requests.failures[:3]


def test_f52_the_token_is_revoked_and_another_put_into_its_file(running: ConsulEstate, shell: OperatorShell) -> None:
    file = running.registry.token_file
    assert file is not None
    before = number(running)
    with running.under_requests(rate=30) as requests:
        running.cluster.revoke(running.registry)
        refused = f"Consul refuses the token in {file}"
        eventually(lambda: refused in running.registry_warning(), timeout=60, what="the gateway names the file")
        code, _, words = shell("host", "add", "refused")
        assert code == 69 and refused in words and "docs/consul.md" in words
        _, secret = running.cluster.new_token(documented_policy())
        Path(file).write_text(secret)
        running.wait_followed(timeout=10)
        assert shell("host", "add", "again")[0] == 0
        eventually(lambda: number(running) > before, what="the gateway hears of it")
    assert not requests.failures, requests.failures[:3]


def test_f52_a_server_with_a_certificate_of_another_ca_is_not_spoken_to(
    running: ConsulEstate, shell: OperatorShell, tmp_path: Path
) -> None:
    cluster = running.cluster
    stranger = Authority(tmp_path)
    servers = [cluster.servers[name] for name in NAMES]
    own = {server.directory: (server.directory / "server.pem").read_bytes() for server in servers}
    keys = {server.directory: (server.directory / "server.key").read_bytes() for server in servers}
    with running.under_requests(rate=30) as requests:
        try:
            servers[0].stop()
            stranger.certify(servers[0].directory, servers[0].seat.http)
            servers[0].launch()
            assert shell("host", "add", "one-is-wrong")[0] == 0, "the next one is right"
            running.wait_followed()
            cluster.stop(*NAMES)
            for server in servers[1:]:
                stranger.certify(server.directory, server.seat.http)
            for server in servers:
                server.launch()
            wrong = "its certificate does not verify"
            eventually(lambda: wrong in running.registry_warning(), timeout=40, what="the gateway says so")
            code, _, words = shell("host", "add", "all-are-wrong")
            assert code == 69 and wrong in words
        finally:
            cluster.stop(*NAMES)
            for directory in own:
                (directory / "server.pem").write_bytes(own[directory])
                (directory / "server.key").write_bytes(keys[directory])
            cluster.start()
        running.wait_followed()
        assert shell("host", "add", "right-again")[0] == 0
    assert not requests.failures, requests.failures[:3]
