"""I/O: checks of old protocols against real servers of theirs, against each other's, and against hostile ones (H30)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import trio

from agents.checks.answers import Outcome
from agents.checks.probes import run_probe
from agents.checks.spec import parse_check
from bridge import limits
from inventory.endpoints import Endpoint
from tests.e2e.test_probes import Serve, endless, keeps_open, saying, target
from tests.support.debian_programs import Program
from tests.support.estate import Estate
from tests.support.old_servers import Hercules, TlsServer, Vsftpd
from tests.support.sshd import OLD, Sshd
from tests.support.tn3270e_server import Tn3270eServer


async def ask(text: str, port: int) -> Outcome:
    return await run_probe(parse_check(text), Endpoint("127.0.0.1", port))


# --- tn3270 -------------------------------------------------------------------------------------------------------


async def test_a_console_with_a_free_device_passes(estate: Estate, tmp_path: Path, hercules: Program) -> None:
    with Hercules(tmp_path, estate.free_port()) as console:
        for _ in range(3):  # a check gives back the one device that it took
            outcome = await ask("tn3270", console.port)
            assert (outcome.passed, outcome.reason) == (True, "negotiated TN3270")
            assert outcome.seconds < limits.CHECK_TN3270_SCREEN, "its screen was seen"
        assert (await ask('tn3270;screen="Hercules Version"', console.port)).passed
        other = await ask('tn3270;screen="CICS";timeout=1s', console.port)
        assert other.reason.startswith("negotiated TN3270, but no screen shows what is expected")


async def test_a_console_without_a_free_device_is_up_and_has_no_lu(
    estate: Estate, tmp_path: Path, hercules: Program
) -> None:
    with Hercules(tmp_path, estate.free_port()) as console:
        user = await trio.open_tcp_stream("127.0.0.1", console.port)
        async with user:
            await user.receive_some(3)
            await user.send_all(b"\xff\xfb\x18")
            await user.receive_some(6)
            await user.send_all(b"\xff\xfa\x18\x00IBM-3278-2-E\xff\xf0")
            await user.receive_some(6)
            await user.send_all(b"\xff\xfb\x19\xff\xfd\x19")
            await user.receive_some(6)
            await user.send_all(b"\xff\xfb\x00\xff\xfd\x00")
            await user.receive_some(4096)  # its screen: the device is taken
            outcome = await ask("tn3270", console.port)
            assert not outcome.passed
            assert outcome.reason.startswith("negotiated TN3270, no LU available: it shows '")
            assert "Connection rejected, no available 3270 device" in outcome.reason
            assert (await ask("tcp", console.port)).passed, "which is all that a connect would have said"


def session(program: Program, port: int) -> str:
    """What a real client says of a session with this server."""
    words = (f"Connect(127.0.0.1:{port})", "Wait(5,Output)", "Query(ConnectionState)", "Query(LuName)", "Ascii(0,0,20)")
    script = "\n".join((*words, "Quit()", ""))
    env = {**os.environ, **program.env}
    done = subprocess.run(
        [str(program.path)], input=script, capture_output=True, text=True, timeout=20, env=env, check=False
    )
    return done.stdout + done.stderr


async def test_tn3270e_is_negotiated_as_a_real_client_does_and_begins_no_session(s3270: Program) -> None:
    with Tn3270eServer() as server:
        for _ in range(3):
            outcome = await ask("tn3270", server.endpoint.port)
            assert (outcome.passed, outcome.reason) == (True, "negotiated TN3270E")
        assert server.sessions == 0
        assert (await ask('tn3270;screen="TO TSO"', server.endpoint.port)).passed
        assert not (await ask('tn3270;screen="CICS";timeout=300ms', server.endpoint.port)).passed
        assert server.sessions == 2
        said = await trio.to_thread.run_sync(session, s3270, server.endpoint.port)
        assert "data: connected-tn3270e" in said and "data: TCP00001" in said and "data: WELCOME TO TSO" in said


async def test_a_rejected_device_type_is_named_as_a_real_client_names_it(s3270: Program) -> None:
    with Tn3270eServer(lus=()) as server:
        outcome = await ask("tn3270", server.endpoint.port)
        assert outcome.reason == "negotiated TN3270E, no LU available: DEVICE-IN-USE"
        assert (await ask("tn3270;lu=CICS1", server.endpoint.port)).reason.startswith(
            "negotiated TN3270E, IBM-3278-2-E CICS1 refused: INV-NAME"
        )
        assert "INV-DEVICE-TYPE" in (await ask("tn3270;device=IBM-5250", server.endpoint.port)).reason
        said = await trio.to_thread.run_sync(session, s3270, server.endpoint.port)
        assert "connected-tn3270e" not in said


# --- ssh ----------------------------------------------------------------------------------------------------------

KEX = ["curve25519-sha256", *(f"ecdh-sha2-nistp{bits}" for bits in (256, 384, 521)), "diffie-hellman-group16-sha512"]


@pytest.mark.parametrize(
    ("options", "kind", "note"),
    [
        *((("KexAlgorithms " + name,), "ed25519", "") for name in KEX),
        ((), "ecdsa", ""),
        ((), "rsa", ""),
        (("HostKeyAlgorithms rsa-sha2-256",), "rsa", ""),
        (OLD, "rsa", "it has only old algorithms: diffie-hellman-group14-sha1, ssh-rsa"),
        (("KexAlgorithms diffie-hellman-group1-sha1",), "ed25519", "only old algorithms: diffie-hellman-group1-sha1"),
    ],
    ids=lambda value: value[0].split()[-1] if value and isinstance(value, tuple) else None,
)
async def test_sshd_proves_its_host_key(
    estate: Estate, tmp_path: Path, openssh: Program, options: tuple[str, ...], kind: str, note: str
) -> None:
    with Sshd(tmp_path / "box", estate.free_port(), options=options, host_key=kind) as box:
        listing = await trio.run_process(["ssh-keygen", "-l", "-f", str(box.key_file)], capture_stdout=True)
        key = listing.stdout.decode().split()[1]
        outcome = await ask(f"ssh;key={key}", box.port)
        assert outcome.passed, outcome.reason
        assert outcome.reason.endswith(note) and bool(outcome.reason) is bool(note)
        other = await ask(f"ssh;key=SHA256:{'A' * 43}", box.port)
        assert other.reason == f"its host key is {key}, not SHA256:{'A' * 43}"


async def test_f41_checks_leave_sshd_a_whole_exchange_behind_and_no_open_connection(
    estate: Estate, tmp_path: Path, openssh: Program
) -> None:
    """Of two places before a login none stays taken, and its log has no broken connection and no try to log in."""
    with Sshd(tmp_path / "box", estate.free_port(), options=("MaxStartups 2:100:2",)) as box:
        assert box.process is not None
        for _ in range(8):
            lines = box.process.stderr.count
            assert (await ask("ssh", box.port)).passed
            box.process.stderr.wait_for("check done", 10, after=lines)
        log = box.log()
        assert "MaxStartups" not in log and "Invalid user" not in log and "identification" not in log
        assert box.count("Received disconnect from .*:11: check done") == 8


async def test_f41_an_sshd_that_takes_nobody_is_named(estate: Estate, tmp_path: Path, openssh: Program) -> None:
    with Sshd(tmp_path / "box", estate.free_port(), options=("MaxStartups 1:100:1",)) as box:
        waits = await trio.open_tcp_stream("127.0.0.1", box.port)
        async with waits:
            assert (await waits.receive_some(8)).startswith(b"SSH-2.0-")
            outcome = await ask("ssh", box.port)
            assert outcome.reason.startswith("sshd refuses our address for now (PerSourcePenalties or MaxStartups)")
            assert (await ask("tcp", box.port)).passed


# --- ftp and tls --------------------------------------------------------------------------------------------------


async def test_an_ftp_server_greets(estate: Estate, tmp_path: Path, vsftpd: Program) -> None:
    with Vsftpd(tmp_path, estate.free_port()) as server:
        assert await_passed(await ask("ftp", server.port))
    async with target(saying(b"220-Welcome\r\n220-to\r\n220 you\r\n"), read_first=False) as server:
        assert await_passed(await server.check("ftp"))
    async with target(saying(b"421 Too many \x1b users\r\n"), read_first=False) as server:
        assert (await server.check("ftp")).reason == r"it answered '421 Too many \x1b users'"


def await_passed(outcome: Outcome) -> bool:
    assert outcome.reason == ""
    return outcome.passed


async def test_a_certificate_says_when_it_ends(estate: Estate, tmp_path: Path) -> None:
    with TlsServer(tmp_path, estate.free_port(), days=10) as server:
        soon = await ask("tls", server.port)
        assert soon.passed and soon.reason.startswith("certificate ends in 9 days, on 2")
        assert (await ask("tls;warn=5", server.port)).reason.startswith("certificate ends on 2")


@pytest.mark.parametrize("version", ["-tls1", "-tls1_2", "-tls1_3"])
async def test_old_and_new_tls_are_spoken(estate: Estate, tmp_path: Path, version: str) -> None:
    with TlsServer(tmp_path, estate.free_port(), options=[version, "-cipher", "ALL:@SECLEVEL=0"]) as server:
        outcome = await ask("tls;name=db.corp", server.port)
        assert outcome.passed, outcome.reason


async def test_a_certificate_that_has_ended_fails(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TlsServer(tmp_path, estate.free_port(), days=10) as server:
        now = (await trio.to_thread.run_sync(os.stat, tmp_path)).st_mtime
        monkeypatch.setattr("agents.checks.tls_probe.clock.now", lambda: now + 11 * 86400)
        ended = await ask("tls", server.port)
        assert not ended.passed and ended.reason.startswith("its certificate ended on 2")
        monkeypatch.setattr("agents.checks.tls_probe.clock.now", lambda: now - 86400)
        assert (await ask("tls", server.port)).reason.startswith("its certificate begins on 2")


# --- each asked what it is not, and hostile ones ------------------------------------------------------------------


async def test_a_server_of_another_protocol_is_named(
    estate: Estate, tmp_path: Path, openssh: Program, vsftpd: Program
) -> None:
    sshd, ftp = Sshd(tmp_path / "box", estate.free_port()), Vsftpd(tmp_path, estate.free_port())
    with sshd, ftp:
        assert (await ask("ftp", sshd.port)).reason.startswith("it does not speak FTP: 'SSH-2.0-OpenSSH")
        assert (await ask("tn3270", sshd.port)).reason.startswith("it does not speak telnet: 'SSH-2.0-OpenSSH")
        assert (await ask("tls", sshd.port)).reason.startswith("no TLS handshake: ")
        assert (await ask("ssh;timeout=500ms", ftp.port)).reason == "no answer within 0.5 s"
        assert (await ask("tls", ftp.port)).reason.startswith("no TLS handshake: ")


@pytest.mark.parametrize("check", ["ftp", "ssh", "tls", "tn3270", 'tn3270;screen="A"'])
@pytest.mark.parametrize(
    "serve",
    [
        saying(b""),
        keeps_open(b""),
        keeps_open(b"\r\n"),
        endless(b"", b"x" * 4096),
        endless(b"", b"\r\n"),
        endless(b"220-a\r\n", b"220-a\r\n" * 500),
        endless(b"SSH-2.0-x\r\n", b"\0\0\0\x0c\x0a\x02" + bytes(10)),
        endless(b"SSH-2.0-x\r\n", b"\xff" * 4096),
        endless(b"\xff\xfa\x28", b"a" * 4096),
        endless(b"\xff\xfd\x18", b"\xff\xfa\x18\x01\xff\xf0" * 500),
        endless(b"\xff\xfd\x18", b"\xff\xf1" * 2000),
        endless(b"\x16\x03\x03\x40\x00\x02\x00\xff\xff", bytes(4096)),
    ],
    ids=[
        *("closed", "silent", "a line", "letters", "lines", "greeting", "ssh ignore", "ssh sizes"),
        *("telnet option", "telnet questions", "telnet nop", "tls"),
    ],
)
async def test_h30_whatever_is_said_a_check_ends_with_a_reason(serve: Serve, check: str) -> None:
    async with target(serve, read_first=False) as server:
        outcome = await server.check(f"{check};timeout=300ms")
        assert not outcome.passed
        assert outcome.reason and outcome.reason.isprintable() and len(outcome.reason) < 400
        assert outcome.seconds < 5


async def test_h30_a_target_that_never_ends_is_left_all_the_same() -> None:
    async with target(endless(b"220 hello\r\n", b"x" * 4096), read_first=False) as server:
        began = trio.current_time()
        assert (await server.check("ftp")).passed
        assert trio.current_time() - began < limits.CHECK_LEAVE + 5
