"""I/O: a caller on an agent host reaches services on hosts where nothing of ours runs: balanced, drained, cut, shown.

caller ── gateway ── aix1: a real sshd, its service on its own loopback
                  ├─ old1: a port, reached by tcp
                  └─ vm1: an agent host that serves the same
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate, allow
from tests.support.pair import CLIENT, SERVER, join, locate, status, wait_connected
from tests.support.sshd import Sshd
from tests.support.town import Town
from tests.support.traffic import Backend, ask, eventually, hold, is_alive, is_refused, session, wait_cut


@pytest.fixture
def town(estate: Estate) -> Town:
    estate.init()
    estate.start_gateway()
    join(estate, CLIENT)
    estate.start_agent(CLIENT)
    wait_connected(estate, CLIENT)
    return Town(estate)


@pytest.fixture
def box(estate: Estate, openssh: Program) -> Iterator[Sshd]:
    with Sshd(estate.path / "box", estate.free_port()) as made:
        yield made


def add_ssh(town: Town, box: Sshd, name: str = "aix1", *more: str) -> None:
    key = town.estate.path / f"{name}.pub"
    key.write_text(box.host_key_line + "\n")
    town.ok(OPERATOR, "host", "add", name, "--reach", box.url, "--via", "gw1", "--host-key", str(key), *more)


def add_tcp(town: Town, name: str, address: str = "127.0.0.1") -> None:
    town.ok(OPERATOR, "host", "add", name, "--reach", f"tcp://{address}", "--via", "gw1", "--allow-loopback")


def place(town: Town, service: str, host: str, target: str) -> None:
    town.ok(OPERATOR, "service", "add", service, "--host", host, "--target", target, "--port", "8000")


def reached(estate: Estate, host: str) -> dict[str, str]:
    return next(row for row in status(estate, OPERATOR)["reached"] if row["host"] == host)


def wait_up(estate: Estate, host: str) -> None:
    eventually(lambda: state_of(estate, host) == "online", what=f"{host} is online", timeout=20)


def state_of(estate: Estate, host: str) -> str:
    """As the gateway's `status` says; empty while it has not heard of the host."""
    rows = status(estate, OPERATOR).get("hosts", ())
    return next((str(row["state"]) for row in rows if row["name"] == host), "")


def find(estate: Estate, service: str) -> tuple[str, int]:
    """Where the caller finds it, whether or not anybody checks it."""

    def found() -> tuple[str, int] | None:
        rows = [row for row in status(estate, CLIENT).get("services", ()) if row["name"] == service]
        if not rows or not rows[0]["address"]:
            return None
        host, _, port = rows[0]["address"].rpartition(":")
        return host, int(port)

    at = eventually(found, what=f"{service} at {CLIENT}", timeout=20)
    assert at is not None
    return at


def test_a_host_with_only_an_sshd_is_reached_with_a_certificate_and_with_a_sealed_key(
    estate: Estate, town: Town, box: Sshd
) -> None:
    box.authorize("cert-authority " + town.ok(OPERATOR, "gateway", "ssh-ca").strip())
    add_ssh(town, box)
    with Backend("ledger") as ledger:
        place(town, "ledger", "aix1", ledger.target)
        town.policy(allow(f"host:{CLIENT}", "ledger"))
        wait_up(estate, "aix1")
        at = find(estate, "ledger")
        assert ask(*at) == "ledger"
        record = town.flow(CLIENT, "ledger", "ok")
        assert record["instance"] == f"ledger/aix1/{ledger.target}"
        row = reached(estate, "aix1")
        assert row["state"] == "up" and row["plaintext"] == "gateway gw1"
        assert "ssh-ed25519" in row["host_key"] and "gcm" in row["algorithms"]

        key = box.new_user_key()
        add_ssh(town, box, "aix1", "--key", str(key))
        assert box.authorized.read_text().count("cert-authority") == 1
        box.authorized.write_text(key.with_name(key.name + ".pub").read_text())
        eventually(lambda: ask(*at) == "ledger", what="it logs in with the key", timeout=20)
        assert "a key, sealed" in town.ok(OPERATOR, "host", "show", "aix1")


def test_a_host_reached_by_tcp_is_explained_drained_revoked_and_shown_as_an_agent_host_is(
    estate: Estate, town: Town
) -> None:
    add_tcp(town, "old1")
    with Backend("old", hold) as old:
        place(town, "desk", "old1", old.target)
        at = find_denied(estate, town, "desk")
        assert is_refused(*at), "no rule allows it"
        town.policy(allow(f"host:{CLIENT}", "desk"))
        eventually(lambda: greets(at))
        assert "allow" in town.ok(OPERATOR, "policy", "explain", f"host:{CLIENT}", "desk").lower()
        assert state_of(estate, "old1") == "online"
        (shown,) = json.loads(town.ok(OPERATOR, "-o", "json", "host", "list"))[:1] or [None]
        assert shown is not None
        assert "the network from there to the host" in reached(estate, "old1")["plaintext"]

        with session(*at) as live:
            eventually(lambda: streams(town, "old1") == 1, what="its stream is counted")
            code, _, words = town.command(OPERATOR, "host", "drain", "old1", "--deadline", "1s")
            assert code == 1 and "old1" in words, words
            wait_cut(live)
        assert state_of(estate, "old1") == "draining"
        eventually(lambda: is_refused(*at), what="a drained host takes no new streams")
        town.ok(OPERATOR, "host", "resume", "old1")
        eventually(lambda: greets(at), what="it is back")

        with session(*at) as live:
            town.ok(OPERATOR, "host", "revoke", "old1", "--reason", "stolen")
            wait_cut(live)
        record = town.flow(OPERATOR, "desk", "cut")
        eventually(lambda: not town.knows(CLIENT, "desk"), what="nothing serves it any more")
        assert state_of(estate, "old1") == "revoked"
        assert record["instance"].startswith("desk/old1/")
        add_tcp(town, "old1")
        eventually(lambda: greets(at), what="it was added again")
        with session(*at) as live:
            town.ok(OPERATOR, "host", "remove", "old1")
            wait_cut(live)
        assert "old1" not in town.ok(OPERATOR, "host", "list")


def greets(at: tuple[str, int]) -> bool:
    try:
        with session(*at) as sock:
            return is_alive(sock)
    except OSError:
        return False


def streams(town: Town, host: str) -> int:
    return next(int(row["streams"]) for row in status(town.estate, OPERATOR)["hosts"] if row["name"] == host)


def find_denied(estate: Estate, town: Town, service: str) -> tuple[str, int]:
    """Where it is while only a rule that is over lets the caller see it."""
    town.policy(allow(f"host:{CLIENT}", service) + 'until = "2020-01-01"\n')
    return find(estate, service)


def test_an_agentless_host_is_balanced_with_an_agent_host(estate: Estate, town: Town, box: Sshd) -> None:
    join(estate, SERVER)
    estate.start_agent(SERVER)
    wait_connected(estate, SERVER)
    add_ssh(town, box, "aix1", "--key", str(box.new_user_key()))
    wait_up(estate, "aix1")
    with Backend("on aix1") as one, Backend("on vm1") as two:
        place(town, "shop", "aix1", one.target)
        place(town, "shop", SERVER, two.target)
        town.policy(allow(f"host:{CLIENT}", "shop"))
        at = locate(estate, CLIENT, "shop")
        seen: set[str] = set()
        eventually(lambda: seen.add(ask(*at)) or len(seen) == 2, what="both answer", timeout=20)
        box.kill()
        eventually(lambda: state_of(estate, "aix1") == "away", what="its sshd is gone", timeout=25)
        assert {ask(*at) for _ in range(20)} == {"on vm1"}
        box.start()
        wait_up(estate, "aix1")
        seen.clear()
        eventually(lambda: seen.add(ask(*at)) or len(seen) == 2, what="it is back", timeout=20)


def ssh_worker(estate: Estate) -> int:
    """The pid of the gateway's ssh worker, once there is one."""

    def found() -> int | None:
        for pid in estate.nodes[OPERATOR].children():
            with contextlib.suppress(OSError):
                if b"ssh_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    return eventually(found, what="the ssh worker") or 0


def test_killing_the_ssh_worker_costs_5_s_and_no_wrong_answer(estate: Estate, town: Town, box: Sshd) -> None:
    add_ssh(town, box, "aix1", "--key", str(box.new_user_key()))
    wait_up(estate, "aix1")
    with Backend("ledger") as ledger, Backend("desk", hold) as desk:
        place(town, "ledger", "aix1", ledger.target)
        place(town, "desk", "aix1", desk.target)
        town.policy(allow(f"host:{CLIENT}", "*"))
        at, held = find(estate, "ledger"), find(estate, "desk")
        assert eventually(lambda: ask(*at)) == "ledger"
        took = []
        for _ in range(3):
            with session(*held) as live:
                os.kill(ssh_worker(estate), signal.SIGKILL)
                with pytest.raises(ConnectionError):  # cut, and not ended
                    live.settimeout(10)
                    assert not live.recv(1)
                    raise AssertionError("what was cut looks like an end of stream")
            began = time.monotonic()
            assert eventually(lambda: ask(*at)) in ("ledger", ""), "never anything else"
            took.append(time.monotonic() - began)
        print(f"answers again after a kill of the ssh worker: {', '.join(f'{seconds:.2f} s' for seconds in took)}")
        assert max(took) < 5


class OverTls:
    """What a plain TCP server says, behind TLS with a certificate of its own."""

    def __init__(self, directory: Path, behind: Backend, *, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self._key, self.certificate = directory / "tls.key", directory / "tls.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        names = ["-subj", "/CN=box", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
        files = ["-keyout", str(self._key), "-out", str(self.certificate)]
        subprocess.run([*command, *names, *files], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, self._key)
        self._context.maximum_version = most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._behind = behind
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=[sock], daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(sock, server_side=True) as tls:
            question = tls.recv(100)
            with socket.create_connection((self._behind.host, self._behind.port)) as plain:
                plain.sendall(question)
                while data := plain.recv(4096):
                    tls.sendall(data)
            tls.unwrap()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def over_tls(estate: Estate) -> Iterator[Callable[..., OverTls]]:
    with contextlib.ExitStack() as stack:

        def made(behind: Backend, **options: ssl.TLSVersion) -> OverTls:
            server = OverTls(estate.path, behind, **options)
            stack.callback(server.close)
            return server

        yield made


def test_a_host_reached_by_tls_is_who_its_authority_says_and_old_tls_needs_an_allowance(
    estate: Estate, town: Town, over_tls: Callable[..., OverTls]
) -> None:
    with Backend("box") as behind:
        box = over_tls(behind, most=ssl.TLSVersion.TLSv1_2)
        where = ("--via", "gw1", "--allow-loopback")
        town.ok(OPERATOR, "host", "add", "box1", "--reach", "tls://127.0.0.1", *where)
        place(town, "desk", "box1", box.target)
        town.policy(allow(f"host:{CLIENT}", "desk"))
        at = find(estate, "desk")
        eventually(lambda: is_refused(*at), what="nobody that this machine trusts vouches for it, and TLS 1.2 is old")
        town.ok(OPERATOR, "host", "add", "box1", "--reach", f"tls://127.0.0.1?ca={box.certificate}", *where)
        wait_reason(town, "TLS 1.3")
        old = ("--crypto", "tls-1.2", "--crypto-owner", "team", "--crypto-until", soon())
        town.ok(OPERATOR, "host", "add", "box1", "--reach", "tls://127.0.0.1", *where, *old)
        eventually(lambda: ask(*at) == "box", what="TLS 1.2 is allowed for this host", timeout=20)
        assert reached(estate, "box1")["plaintext"] == "gateway gw1"
        (warned,) = [w for w in status(estate, OPERATOR)["warnings"] if w["code"] == "allowance"]
        assert "host box1 (tls-1.2; team) ends with" in warned["text"]
        assert "ends with" in town.command(OPERATOR, "doctor")[1]


def soon() -> str:
    """A date within what is warned of."""
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).date().isoformat()


def wait_reason(town: Town, words: str) -> None:
    def said() -> bool:
        at = find(town.estate, "desk")
        assert is_refused(*at)
        return any(words in flow["reason"] for flow in town.flows(OPERATOR, "desk"))

    eventually(said, what=f"refused for {words}", timeout=20)


def test_another_gateways_word_is_not_needed_and_wrong_ways_are_refused(town: Town, tmp_path: Path) -> None:
    """H33: what can be seen to be wrong at the command, each in its own words."""
    key = tmp_path / "host.pub"
    key.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS\n")
    gateway = town.estate.gateway_address
    cases = (
        (["--reach", "ssh://u@192.0.2.7", "--via", "gw1"], 64, "first use"),
        (["--reach", f"ssh://u@{gateway}", "--via", "gw1", "--host-key", str(key)], 64, "is gateway gw1 itself"),
        (["--reach", "tcp://127.0.0.1", "--via", "gw1"], 64, "itself"),
        (["--reach", "ssh://u@192.0.2.7", "--via", "gw9", "--host-key", str(key)], 1, "no gateway gw9"),
        (["--reach", "ssh://u:secret@192.0.2.7", "--via", "gw1"], 2, "holds no password"),
        (["--reach", "tcp://192.0.2.7"], 2, "--via"),
        (["--key", str(key)], 2, "--reach"),
    )
    for args, expected, words in cases:
        code, out, err = town.command(OPERATOR, "host", "add", "x1", *args)
        assert (code, out) == (expected, "") and words in err, (args, code, err)
        assert "secret" not in err
    assert "x1" not in town.ok(OPERATOR, "host", "list")
