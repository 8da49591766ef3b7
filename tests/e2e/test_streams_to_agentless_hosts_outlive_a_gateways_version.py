"""I/O: a gateway becomes another version in place, several times, under load to a host that it reaches by ssh.

No request fails. A held stream goes on in the ssh worker that has it, which ends after it and leaves nothing behind.

caller ── gateway ── aix1: a real sshd, its services on its own loopback, and a port there that leads into the mesh
                  └─ box1: reached by tls
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_a_version_that_fails_its_trial_costs_nothing import KINDS, break_it, refused
from tests.e2e.test_an_agentless_host_is_a_host_like_any_other import OverTls, add_ssh, find, place, wait_up
from tests.support import estate as estates
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate, allow
from tests.support.installed import Installed
from tests.support.pair import CLIENT, join, status, wait_connected, wait_version
from tests.support.sshd import Sshd
from tests.support.town import Town
from tests.support.traffic import Backend, Load, eventually, hold, is_alive, session, wait_cut

DRAIN = 3.0
"""Seconds instead of DRAIN_DEADLINE."""
RULES = f'{allow(f"host:{CLIENT}", "*")}\n[[allow]]\nname = "jobs"\nfrom = ["host:aix1"]\nto = ["desk"]\n'

pytestmark = pytest.mark.slow


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    made = Installed(tmp_path / "source")
    limits = made.place / "bridge" / "limits.py"
    limits.write_text(re.sub(r"^DRAIN_DEADLINE = .*$", f"DRAIN_DEADLINE = {DRAIN}", limits.read_text(), flags=re.M))
    monkeypatch.setattr(estates, "ROOT", made.place)
    return made


@pytest.fixture
def town(estate: Estate, installed: Installed) -> Town:
    estate.init()
    estate.start_gateway()
    join(estate, CLIENT)
    estate.start_agent(CLIENT)
    wait_connected(estate, CLIENT)
    return Town(estate)


@pytest.fixture
def box(estate: Estate, town: Town, openssh: Program) -> Iterator[Sshd]:
    with Sshd(estate.path / "box", estate.free_port()) as made:
        made.authorize("cert-authority " + town.ok(OPERATOR, "gateway", "ssh-ca").strip())
        add_ssh(town, made)
        wait_up(estate, "aix1")
        yield made


@pytest.fixture
def desk(town: Town, box: Sshd) -> Iterator[tuple[str, int]]:
    """Where the caller finds a service of aix1 whose streams are held."""
    with Backend("desk", hold) as desk:
        place(town, "desk", "aix1", desk.target)
        town.policy(RULES)
        yield find(town.estate, "desk")


def become(estate: Estate, installed: Installed, version: str) -> None:
    installed.version(version)
    estate.nodes[OPERATOR].signal(signal.SIGHUP)
    wait_version(estate, OPERATOR, version)


def stat_of(pid: int) -> str:
    """The state of a process as one letter; empty when there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def ssh_workers(estate: Estate) -> list[int]:
    def is_one(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return b"ssh_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    return [pid for pid in estate.nodes[OPERATOR].children() if is_one(pid)]


def wait_reaped(estate: Estate) -> None:
    """Until nothing that the gateway started, or took over, has ended and waits to be looked at."""
    children = estate.nodes[OPERATOR].children
    eventually(lambda: not [pid for pid in children() if stat_of(pid) == "Z"], what="no zombie", timeout=3)


def is_up(estate: Estate, host: str) -> bool:
    """Whether the ssh worker of the version that runs now has reached it."""
    return any(row["host"] == host and row["state"] == "up" for row in status(estate, OPERATOR).get("reached", ()))


def greets(port: int) -> bool:
    try:
        with session("127.0.0.1", port) as sock:
            return is_alive(sock)
    except OSError:
        return False


def over_tls(context: ssl.SSLContext, sock: socket.socket, name: str) -> None:
    with context.wrap_socket(sock, server_side=True) as tls:
        hold(tls, name)


@contextlib.contextmanager
def tls_session(town: Town) -> Iterator[socket.socket]:
    """A held stream to a host that is reached by tls."""
    with Backend("behind") as behind:
        files = OverTls(town.estate.path, behind)
        files.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, town.estate.path / "tls.key")
    with Backend("vault", partial(over_tls, context)) as vault:
        reach = f"tls://127.0.0.1?ca={files.certificate}"
        town.ok(OPERATOR, "host", "add", "box1", "--reach", reach, "--via", "gw1", "--allow-loopback")
        place(town, "vault", "box1", vault.target)
        with session(*find(town.estate, "vault")) as held:
            yield held


def test_f10_no_request_fails_and_no_stream_is_reset_while_a_gateway_becomes_other_versions(
    estate: Estate, installed: Installed, town: Town, box: Sshd, desk: tuple[str, int]
) -> None:
    port = estate.free_port()
    with Backend("ledger") as ledger, contextlib.ExitStack() as kept:
        place(town, "ledger", "aix1", ledger.target)
        town.ok(OPERATOR, "service", "publish", "desk", "--on", "aix1", "--port", str(port))
        eventually(lambda: greets(port), what="the port on the host leads to it")
        by_tls = kept.enter_context(tls_session(town))
        with contextlib.ExitStack() as first:
            held, job = first.enter_context(session(*desk)), first.enter_context(session("127.0.0.1", port))
            [oldest] = ssh_workers(estate)
            with Load(*find(estate, "ledger"), rate=100) as load:
                load.wait_for(100)
                for number in (2, 3, 4):
                    became = time.monotonic()
                    become(estate, installed, f"{number}.0.0")
                    eventually(lambda: is_up(estate, "aix1"), what="the new ssh worker has reached it", timeout=20)
                    load.wait_for(200)
                    took = time.monotonic() - became
                    print(f"{number}.0.0: {len(load.failures)} of {load.total} failed, slowest {load.slowest:.2f} s,"
                          f" {took:.1f} s in all")  # fmt: skip
                    assert is_alive(held) and is_alive(job) and is_alive(by_tls)
                    eventually(lambda: greets(port), what="programs on the host find it again")
                    eventually(lambda: len(ssh_workers(estate)) == 2, what="the one between has ended")
                    assert oldest in ssh_workers(estate)
            assert not load.failures, load.failures[:3]
            wait_reaped(estate)
        assert is_alive(by_tls) and oldest in ssh_workers(estate)
        kept.close()
        eventually(lambda: len(ssh_workers(estate)) == 1, what="it has ended with its last stream")
        assert oldest not in ssh_workers(estate)
        wait_reaped(estate)
        assert not [w for w in status(estate, OPERATOR)["warnings"] if w["code"] == "reach"]


def test_a_change_right_after_another_one_leaves_the_worker_that_serves(
    estate: Estate, installed: Installed, town: Town, box: Sshd, desk: tuple[str, int]
) -> None:
    with Backend("ledger") as ledger:
        place(town, "ledger", "aix1", ledger.target)
        with session(*desk) as held, Load(*find(estate, "ledger"), rate=50) as load:
            load.wait_for(50)
            for number in (2, 3, 4):
                become(estate, installed, f"{number}.0.0")
            load.wait_for(200)
            assert is_alive(held)
        assert not load.failures, load.failures[:3]
        eventually(lambda: len(ssh_workers(estate)) == 1, what="those before have ended", timeout=30)
        wait_reaped(estate)


@pytest.mark.parametrize("kind", ["it ends at once", "it ends after a while"])
def test_a_version_that_fails_its_trial_leaves_the_way_as_it_was(
    estate: Estate, installed: Installed, town: Town, box: Sshd, desk: tuple[str, int], kind: str
) -> None:
    fails = KINDS[kind]
    with Backend("ledger") as ledger:
        place(town, "ledger", "aix1", ledger.target)
        with session(*desk) as held, Load(*find(estate, "ledger"), rate=100) as load:
            load.wait_for(100)
            break_it(installed, fails)
            installed.version("2.0.0")
            estate.nodes[OPERATOR].signal(signal.SIGHUP)
            assert fails.says in refused(estate, OPERATOR, "")
            eventually(lambda: is_up(estate, "aix1"), what="the ssh worker has reached it again", timeout=20)
            load.wait_for(200)
            assert is_alive(held)
        print(f"{kind}: {len(load.failures)} of {load.total} failed, slowest {load.slowest:.2f} s")
        assert len(load.failures) <= fails.costs, load.failures
    eventually(lambda: len(ssh_workers(estate)) == 1, what="those before have ended", timeout=30)
    wait_reaped(estate)


def test_what_a_gateway_took_over_ends_with_it(
    estate: Estate, installed: Installed, town: Town, box: Sshd, desk: tuple[str, int]
) -> None:
    with session(*desk) as held:
        become(estate, installed, "2.0.0")
        eventually(lambda: len(ssh_workers(estate)) == 2, what="the old one and the new one")
        eventually(lambda: is_up(estate, "aix1"), what="the old one has retired", timeout=20)
        left = ssh_workers(estate)
        began = time.monotonic()
        assert estate.nodes[OPERATOR].terminate(timeout=DRAIN + 20) == 1, "it had to cut a stream"
        took = time.monotonic() - began
        assert not any(stat_of(pid) not in ("", "Z") for pid in left)
        wait_cut(held)
        print(f"SIGTERM: over after {took:.1f} s")
    estate.start_gateway()
    wait_connected(estate, CLIENT)
    wait_up(estate, "aix1")
    installed.version("3.0.0")
    with eventually(lambda: connected(desk), what="it is served again", timeout=30) as held:
        become(estate, installed, "3.0.0")
        eventually(lambda: len(ssh_workers(estate)) == 2, what="the old one and the new one")
        eventually(lambda: is_up(estate, "aix1"), what="the old one has retired", timeout=20)
        left = ssh_workers(estate)
        estate.kill9(OPERATOR)
        began = time.monotonic()
        eventually(lambda: all(stat_of(pid) in ("", "Z") for pid in left), what="no ssh worker is left", timeout=5)
        print(f"kill -9: none after {time.monotonic() - began:.2f} s")
        wait_cut(held)


def connected(at: tuple[str, int]) -> socket.socket | None:
    with contextlib.suppress(OSError):
        sock = socket.create_connection(at, 10)
        if sock.recv(100):
            return sock
        sock.close()
    return None


def test_a_host_that_is_reached_otherwise_loses_what_an_old_ssh_worker_carries(
    estate: Estate, installed: Installed, town: Town, box: Sshd, desk: tuple[str, int]
) -> None:
    with session(*desk) as held:
        become(estate, installed, "2.0.0")
        eventually(lambda: is_up(estate, "aix1"), what="the new one has reached it", timeout=20)
        assert is_alive(held)
        add_ssh(town, box, "aix1", "--key", str(box.new_user_key()))
        wait_cut(held)
        eventually(lambda: len(ssh_workers(estate)) == 1, what="the old one is gone")
        wait_reaped(estate)
