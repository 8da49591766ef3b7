"""What a gateway's ssh worker does with a real OpenSSH server: one connection, channels in it, and plain words when
sshd says no. C14, C33, F41, H33."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.workers.ssh_messages import Forward
from tests.support.debian_programs import Program
from tests.support.estate import Estate
from tests.support.ssh_worker import NotOpened, SshWorkerUnderTest, Stream
from tests.support.sshd import OLD, Sshd, certify, keygen

BULK = 24 << 20


@pytest.fixture
def worker(openssh: Program, tmp_path: Path) -> Iterator[SshWorkerUnderTest]:
    with SshWorkerUnderTest(tmp_path / "w") as worker:
        yield worker


def new_box(estate: Estate, name: str = "box", *options: str, host_key: str = "ed25519") -> Sshd:
    return Sshd(estate.path / name, estate.free_port(), options=options, host_key=host_key)


class Peer:
    """A listening socket on the host's loopback, and what came to it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> socket.socket:
        self.listener.settimeout(15)
        sock, _address = self.listener.accept()
        sock.settimeout(15)
        return sock

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


def read_to_end(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(1 << 18):
        found += data
    return bytes(found)


def test_every_channel_uses_the_one_connection(estate: Estate, worker: SshWorkerUnderTest) -> None:
    with new_box(estate) as box, Peer() as peer:
        worker.know(worker.hop(box, box.new_user_key()))
        state = worker.wait("box", "up")
        assert (state.cipher, state.legacy) == ("aes128-gcm@openssh.com", ())
        assert state.host_key.startswith("ssh-ed25519 SHA256:")
        streams = [worker.ask("box", peer.target) for _ in range(20)]
        ends = [peer.accept() for _ in streams]
        for stream, end in zip(streams, ends, strict=True):
            end.sendall(b"hello")
            assert stream.sock.recv(10) == b"hello"
        assert box.count("Accepted publickey") == 1
        assert box.count(r"Connection from") == 1
        assert box.count("did not receive identification|Connection closed by .* preauth") == 0
        for end in (*ends, *streams):
            end.close()


@pytest.mark.parametrize("way", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "rekeying"])
def test_bulk_arrives_byte_for_byte_both_ways_and_each_end_is_its_own(
    estate: Estate, worker: SshWorkerUnderTest, way: str
) -> None:
    """AES-GCM takes the short way through the worker and CTR asyncssh's own: both mean the same. So do exchanges of
    keys in the middle."""
    option = "RekeyLimit 4M" if way == "rekeying" else f"Ciphers {way}"
    data = os.urandom(1 << 20) * (BULK >> 20)
    with new_box(estate, "box", option) as box, Peer() as peer:
        worker.know(worker.hop(box, box.new_user_key()))
        assert way in (worker.wait("box", "up").cipher, "rekeying")
        stream, end = worker.ask("box", peer.target), peer.accept()
        received: dict[str, bytes] = {}

        def send(name: str, sock: socket.socket) -> None:
            sock.sendall(name.encode() + data)
            sock.shutdown(socket.SHUT_WR)

        def receive() -> None:
            received["there"] = read_to_end(end)

        threads = [threading.Thread(target=send, args=("here", stream.sock)),
                   threading.Thread(target=send, args=("there", end)), threading.Thread(target=receive)]  # fmt: skip
        for thread in threads:
            thread.start()
        received["here"] = stream.read_to_end()
        for thread in threads:
            thread.join()
        assert hashlib.sha256(received["there"]).digest() == hashlib.sha256(b"here" + data).digest()
        assert hashlib.sha256(received["here"]).digest() == hashlib.sha256(b"there" + data).digest()
        assert worker.states["box"].connects == 1
        stream.close()
        end.close()
    assert not worker.notices


def test_half_closed_either_way_the_other_way_goes_on(estate: Estate, worker: SshWorkerUnderTest) -> None:
    with new_box(estate) as box, Peer() as peer:
        worker.know(worker.hop(box, box.new_user_key()))
        worker.wait("box", "up")
        with worker.ask("box", peer.target) as stream, peer.accept() as end:
            stream.sock.shutdown(socket.SHUT_WR)
            assert end.recv(10) == b""
            end.sendall(b"late")
            end.close()
            assert stream.read_to_end() == b"late"
        with worker.ask("box", peer.target) as stream, peer.accept() as end:
            end.sendall(b"first")
            end.shutdown(socket.SHUT_WR)
            assert stream.read_to_end() == b"first"
            stream.sock.sendall(b"after")
            stream.sock.shutdown(socket.SHUT_WR)
            assert read_to_end(end) == b"after"


def test_whoever_stops_reading_stops_the_sender_and_nobody_else(estate: Estate, worker: SshWorkerUnderTest) -> None:
    with new_box(estate) as box, Peer() as peer:
        worker.know(worker.hop(box, box.new_user_key()))
        worker.wait("box", "up")
        with worker.ask("box", peer.target) as stopped, peer.accept() as sender:
            sender.settimeout(1.0)
            sent = 0
            with pytest.raises(TimeoutError):
                while True:
                    sent += sender.send(bytes(1 << 16))
            print(f"{sent >> 20} MiB wait for a reader that does not read: kernel buffers, sshd's, one window")
            assert sent < 40 << 20
            with worker.ask("box", peer.target) as other, peer.accept() as end:
                end.sendall(b"hello")
                assert other.sock.recv(10) == b"hello"
            sender.shutdown(socket.SHUT_WR)
            assert len(stopped.read_to_end()) == sent


def test_what_was_cut_is_told_from_what_has_ended(estate: Estate, worker: SshWorkerUnderTest) -> None:
    with new_box(estate) as box, Peer() as peer:
        key = box.new_user_key()
        worker.know(worker.hop(box, key))
        worker.wait("box", "up")
        for how in ("the sshd dies", "the worker is killed"):
            with worker.ask("box", peer.target) as stream, peer.accept() as end:
                end.sendall(b"half an answer")
                assert stream.sock.recv(100) == b"half an answer"
                if how == "the sshd dies":
                    box.kill()
                else:
                    worker.kill()
                with pytest.raises(ConnectionResetError):
                    stream.read_to_end()
            if how == "the sshd dies":
                worker.wait("box", "down")
                box.start()
                worker.wait("box", "up")
            else:
                worker.start()


def test_f41_sshd_back_means_host_back_within_5_s_and_nothing_hammers_it(
    estate: Estate, worker: SshWorkerUnderTest
) -> None:
    with new_box(estate) as box, Peer() as peer:
        worker.know(worker.hop(box, box.new_user_key()))
        worker.wait("box", "up")
        took = []
        for _ in range(3):
            box.kill()
            state = worker.wait("box", "down")
            assert state.cause in ("lost", "unreachable")
            time.sleep(1.0)  # down for a while, as machines are
            with pytest.raises(NotOpened, match="box is down"):
                worker.ask("box", peer.target)
            began = time.monotonic()
            box.start()
            worker.wait("box", "up")
            took.append(time.monotonic() - began)
        print("back after", [f"{seconds:.1f} s" for seconds in took])
        assert max(took) < 5.0
        assert box.count("Connection from") == 1


def test_f41_an_sshd_that_takes_no_more_logins_says_so_and_is_tried_gently(
    estate: Estate, worker: SshWorkerUnderTest
) -> None:
    with new_box(estate, "box", "MaxStartups 2:100:2", "LoginGraceTime 60") as box:
        lingering = [socket.create_connection((box.address, box.port)) for _ in range(2)]
        for sock in lingering:
            assert sock.recv(100).startswith(b"SSH-2.0")
        worker.know(worker.hop(box, box.new_user_key()))
        state = worker.wait("box", "down")
        print(state.reason, state.hint)
        assert state.cause == "refused"
        assert "MaxStartups" in state.reason + state.hint
        assert "PerSourcePenalties" in state.hint
        time.sleep(3.0)
        tries = box.count("drop connection")
        for sock in lingering:
            sock.close()
        began = time.monotonic()
        worker.wait("box", "up")
        print(f"{tries} tries in 3 s; back {time.monotonic() - began:.1f} s after the others left")
        assert tries <= 15
        assert time.monotonic() - began < 5.0


def test_f41_a_login_that_was_refused_is_not_tried_again_soon(estate: Estate, worker: SshWorkerUnderTest) -> None:
    with new_box(estate) as box:
        unknown = estate.path / "unknown"
        keygen(unknown)
        worker.know(
            worker.hop(box, unknown),
            worker.hop(box, box.new_user_key(), name="user", user="nosuchuser"),
            worker.hop(box, None, name="certificate"),
        )
        for name in ("box", "user", "certificate"):
            state = worker.wait(name, "down")
            assert state.cause == "authentication"
            assert "does not let user" in state.reason
            assert state.next_try >= 15
        time.sleep(2.0)
        assert box.count("Connection from") == 3
        worker.know(worker.hop(box, box.new_user_key()))  # the operator mends it
        worker.wait("box", "up")


def test_a_dead_host_is_noticed_within_20_s_and_one_that_is_only_silent_is_not(
    estate: Estate, worker: SshWorkerUnderTest
) -> None:
    with new_box(estate) as box:
        key = box.new_user_key()
        worker.know(worker.hop(box, key))
        worker.wait("box", "up")
        for pid in box.sessions():
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        state = worker.wait("box", "down", timeout=25)
        took = time.monotonic() - began
        print(f"noticed after {took:.1f} s: {state.reason}")
        assert "has not answered for 9 s" in state.reason
        assert took < 20
        worker.wait("box", "up")
        for pid in box.sessions():
            os.kill(pid, signal.SIGCONT)


def test_sshds_refusals_are_told_in_words(estate: Estate, worker: SshWorkerUnderTest) -> None:
    with new_box(estate, "open") as box, Peer() as peer:
        only = Sshd(estate.path / "only", estate.free_port(), options=[f"PermitOpen {peer.target}"])
        with only:
            worker.know(worker.hop(box, box.new_user_key()), worker.hop(only, only.new_user_key(), name="only"))
            worker.wait("box", "up")
            worker.wait("only", "up")
            with worker.ask("only", peer.target), peer.accept():
                pass
            for host, target, words in (
                ("only", "127.0.0.1:1", "the sshd's PermitOpen/AllowTcpForwarding does not let it"),
                ("box", "127.0.0.1:1", "connection refused at the host"),
                ("box", "no-such-name.invalid:1", "box cannot connect to no-such-name.invalid:1"),
                ("box", "127.0.0.1:0", "not a port"),
                ("nobody", peer.target, "nobody is not a host of this gateway's ssh worker"),
            ):
                with pytest.raises(NotOpened, match=words):
                    worker.ask(host, target)


def test_c14_the_gateways_certificate_is_good_for_its_one_principal(estate: Estate, worker: SshWorkerUnderTest) -> None:
    ca = estate.path / "ca.pub"
    ca.write_text(worker.ca.line + "\n")
    with new_box(estate, "box", f"TrustedUserCAKeys {ca}") as box:
        worker.know(worker.hop(box), worker.hop(box, name="other", user="daemon"))
        assert worker.wait("box", "up").state == "up"
        assert box.count("ED25519-CERT .* ID meshbridge gateway gw1") >= 1
        worker.certifies = False
        worker.know(worker.hop(box, name="third", user="bin"))
        state = worker.wait("third", "down")
        assert (state.cause, state.reason) == ("local", "no")


def test_h33_c17_a_host_certificate_counts_for_its_name_from_its_authority_and_within_its_time(
    estate: Estate, worker: SshWorkerUnderTest
) -> None:
    ca = estate.path / "hosts-ca"
    line = "@cert-authority " + " ".join(keygen(ca).split()[:2])
    revoked = "@cert-authority " + " ".join(keygen(estate.path / "hosts-ca-2").split()[:2])
    """The operator has signed another authority since: what the first one vouched for counts for nothing."""
    box = new_box(estate)
    key = box.new_user_key()
    public = box.key_file.with_name("host_key.pub")
    box.options.append(f"HostCertificate {box.key_file}-cert.pub")
    for principals, more, words in (
        ("127.0.0.1", ("-h",), None),
        ("127.0.0.1", ("-h",), "the host certificate of .* does not hold: Host CA key is not trusted"),
        ("elsewhere.example", ("-h",), "the host certificate of .* does not hold"),
        ("127.0.0.1", ("-h", "-V", "20200101:20200102"), "the host certificate of .* does not hold"),
        ("", ("-h",), "the host certificate of .* does not hold: Host certificate names no host"),
    ):
        if principals:
            certify(ca, public, principals, *more)
        else:
            subprocess.run(["ssh-keygen", "-q", "-s", ca, "-I", "x", "-h", public], check=True)
        with box:
            another = line if "not trusted" not in (words or "") else revoked
            worker.know(worker.hop(box, key, host_keys=(another,)))
            if words is None:
                assert worker.wait("box", "up").host_key.startswith("ssh-ed25519 ")
            else:
                state = worker.wait("box", "down")
                assert state.cause == "key"
                assert re.search(words, state.reason), state
            worker.know()


def test_c33_old_algorithms_are_for_one_host_by_its_allowance_and_until_its_end(
    estate: Estate, worker: SshWorkerUnderTest
) -> None:
    box = Sshd(estate.path / "old", estate.free_port(), options=OLD, host_key="rsa")
    with box, Peer() as peer:
        key = box.new_user_key(kind="rsa")
        worker.know(worker.hop(box, key))
        state = worker.wait("box", "down")
        print(state.reason, state.hint)
        assert state.cause == "algorithms" and "allowance" in state.hint
        profiles = ("ssh-sha1", "ssh-cbc")
        worker.know(worker.hop(box, key, allowed=profiles, allowed_until=time.time() - 1))
        assert worker.wait("box", "down").cause == "algorithms"
        worker.know(worker.hop(box, key, allowed=profiles, allowed_until=time.time() + 4))
        state = worker.wait("box", "up")
        assert state.legacy == ("aes128-cbc", "diffie-hellman-group14-sha1", "hmac-sha1", "ssh-rsa")
        with worker.ask("box", peer.target) as stream, peer.accept() as end:
            end.sendall(b"old but well")
            assert stream.sock.recv(100) == b"old but well"
            with pytest.raises(ConnectionResetError):
                stream.read_to_end()
        assert worker.wait("box", "down").cause in ("protocol", "algorithms")


def test_a_program_on_the_host_finds_a_port_on_its_own_loopback(estate: Estate, worker: SshWorkerUnderTest) -> None:
    port, taken = estate.free_port(), socket.create_server(("127.0.0.1", 0))
    with new_box(estate) as box, taken:
        forwards = (Forward(service="ledger", port=port), Forward(service="other", port=taken.getsockname()[1]))
        key = box.new_user_key()
        first = worker.hop(box, key, forwards=forwards)
        sealed = first.credential
        worker.know(first)
        worker.wait("box", "up")
        worker.until(lambda: "other" in worker.states["box"].not_forwarded, "no word of the port that is taken")
        assert "a program holds the port" in worker.states["box"].not_forwarded["other"]
        with socket.create_connection(("127.0.0.1", port), 5) as program:
            worker.until(lambda: bool(worker.forwarded), "nothing came")
            message, stream = worker.forwarded.pop()
            assert (message.host, message.service) == ("box", "ledger")
            assert message.remote.startswith("127.0.0.1:")
            program.sendall(b"question")
            program.shutdown(socket.SHUT_WR)
            assert stream.read_to_end() == b"question"
            stream.sock.sendall(b"answer")
            stream.sock.shutdown(socket.SHUT_WR)
            program.settimeout(10)
            assert read_to_end(program) == b"answer"
            stream.close()
        with socket.create_connection(("127.0.0.1", port), 5) as program:
            worker.until(lambda: bool(worker.forwarded), "nothing came")
            _message, stream = worker.forwarded.pop()
            program.sendall(b"a")
            assert stream.sock.recv(100) == b"a"
            another = estate.free_port()
            known = worker.states["box"]
            worker.know(worker.hop(box, key, forwards=(Forward(service="ledger", port=another),), credential=sealed))
            eventually(lambda: _answers(another), "the other port is not listened on")
            eventually(lambda: not _answers(port), "the port that is not published any more still is listened on")
            worker.until(lambda: "box" in worker.states, "nothing is said of it")
            assert worker.states["box"].connects == known.connects == 1
            program.sendall(b"half a question")
            assert stream.sock.recv(100) == b"half a question"
            box.kill()
            with stream, pytest.raises(ConnectionResetError):
                stream.read_to_end()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def eventually(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_command_of_ours_is_bounded_in_time_and_in_what_it_prints(estate: Estate, worker: SshWorkerUnderTest) -> None:
    with new_box(estate) as box:
        worker.know(worker.hop(box, box.new_user_key()))
        worker.wait("box", "up")
        done = worker.run("box", "printf", "%s|", "a b", "$(id)", "'; echo gotcha")
        assert (done.code, done.out) == (0, b"a b|$(id)|'; echo gotcha|")
        assert worker.run("box", "sh", "-c", "echo wrong >&2; exit 3").code == 3
        assert worker.run("box", "yes").truncated
        assert "did not end within 1 s" in worker.run("box", "sleep", "60", timeout=1.0).reason
        assert "not reached by ssh" in worker.run("nobody", "id").reason


def test_the_worker_keeps_its_memory_to_itself(estate: Estate, worker: SshWorkerUnderTest) -> None:
    assert worker.process is not None
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    assert Path(f"/proc/{worker.process.pid}/environ").stat().st_uid == 0, status
    worker.know()
    with pytest.raises(NotOpened, match="question"):
        ask_in_words(worker, b"not json\n")
    with pytest.raises(NotOpened, match="end"):
        ask_in_words(worker, b"x" * 10_000)


def ask_in_words(worker: SshWorkerUnderTest, line: bytes) -> Stream:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(worker.path)
        sock.sendall(line)
        answer = json.loads(sock.recv(4096))
    raise NotOpened(answer["code"], answer["reason"])
