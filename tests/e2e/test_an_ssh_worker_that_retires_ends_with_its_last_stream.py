"""I/O: a gateway's ssh worker that another one takes over from, with a real OpenSSH server: what is open goes on,
nothing begins, and it ends by itself; and with its supervisor, whatever is open."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agents.workers.ssh_messages import ChannelAsked, Forward
from tests.e2e.test_an_ssh_host_is_reached_by_one_connection import Peer, _answers, new_box, read_to_end
from tests.support.debian_programs import Program
from tests.support.estate import Estate
from tests.support.ssh_worker import SshWorkerUnderTest, Stream
from tests.support.sshd import Sshd

MUCH = bytes(range(256)) * (32 << 10)
PIECE = 32 << 10


@pytest.fixture
def worker(openssh: Program, tmp_path: Path) -> Iterator[SshWorkerUnderTest]:
    with SshWorkerUnderTest(tmp_path / "w") as worker:
        yield worker


@pytest.fixture
def box(estate: Estate, worker: SshWorkerUnderTest) -> Iterator[Sshd]:
    with new_box(estate) as box:
        yield box


def reach(worker: SshWorkerUnderTest, box: Sshd, port: int) -> None:
    worker.know(worker.hop(box, box.new_user_key(), forwards=(Forward(service="ledger", port=port),)))
    worker.wait("box", "up")


def forwarded(worker: SshWorkerUnderTest, port: int) -> tuple[socket.socket, Stream]:
    """A program on the host that has connected to the published port, and the gateway's end of it."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError):
            program = socket.create_connection(("127.0.0.1", port), 5)
            break
        assert time.monotonic() < deadline, "the port is not listened on"
        time.sleep(0.02)
    worker.until(lambda: bool(worker.forwarded), "nothing came")
    return program, worker.forwarded.pop()[1]


def has_ended(worker: SshWorkerUnderTest, within: float) -> float:
    """After how many seconds it had."""
    assert worker.process is not None
    began = time.monotonic()
    worker.process.wait(within)
    return time.monotonic() - began


def test_what_is_open_goes_on_and_nothing_begins(estate: Estate, worker: SshWorkerUnderTest, box: Sshd) -> None:
    port = estate.free_port()
    with Peer() as peer:
        reach(worker, box, port)
        program, of_program = forwarded(worker, port)
        program.shutdown(socket.SHUT_WR)
        held, end = worker.ask("box", peer.target), peer.accept()
        slow, sender = worker.ask("box", peer.target), peer.accept()
        sender.settimeout(0.5)
        with contextlib.suppress(TimeoutError):  # more than is taken for a reader that does not read
            sender.sendall(MUCH)
        worker.retire()
        worker.until(lambda: worker.ports_free, "the ports are not free")
        assert not _answers(port), "another worker may have it"
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(worker.path)
            late.sendall(b'{"host":"box","target":"' + peer.target.encode() + b'"}\n')
            assert not select.select([late], [], [], 0.5)[0], "it waits for the next worker, and is not refused"
            beats = worker.beats
            worker.until(lambda: worker.beats > beats, "it still says that it lives")

            held.sock.sendall(b"still there")
            assert end.recv(100) == b"still there"
            end.sendall(b"and back")
            assert held.sock.recv(100) == b"and back"
            assert of_program.read_to_end() == b""
            of_program.sock.sendall(b"late answer")
            of_program.sock.shutdown(socket.SHUT_WR)
            assert read_to_end(program) == b"late answer"
            held.close()
            assert end.recv(100) == b""
            end.close()
            sender.close()
            assert worker.process is not None and worker.process.poll() is None, "one stream is not read to its end yet"
            assert len(slow.sock.recv(1 << 16)) > 0
            with contextlib.suppress(ConnectionResetError):  # the sender was cut in the middle, or not
                slow.read_to_end()
            slow.close()
            took = has_ended(worker, 5)
            print(f"ended {took:.2f} s after its last stream")
            assert worker.process.returncode == 0
        of_program.close()
        program.close()
    assert not worker.notices


def test_a_stream_whose_reader_is_slow_is_whole_when_the_host_has_ended_it(
    estate: Estate, worker: SshWorkerUnderTest, box: Sshd
) -> None:
    with Peer() as peer:
        reach(worker, box, estate.free_port())
        with worker.ask("box", peer.target) as slow, peer.accept() as end:
            slow.sock.shutdown(socket.SHUT_WR)
            sent = fill(end, slow.sock)
            end.close()
            beats = worker.beats
            worker.until(lambda: worker.beats > beats + 1 and _channels(worker) == 0, "the channel's end")
            worker.retire()
            worker.until(lambda: worker.ports_free, "it has retired")
            time.sleep(1)  # it must not end in this time
            assert slow.read_to_end() == MUCH[:sent]
        has_ended(worker, 5)


def fill(end: socket.socket, reader: socket.socket) -> int:
    """Send until one piece does not fit into what the reader's socket holds, and waits in the worker; how much."""
    sent = waiting = 0
    while waiting == sent:
        end.sendall(MUCH[sent : sent + PIECE])
        sent += PIECE
        deadline = time.monotonic() + 1
        while waiting < sent and time.monotonic() < deadline:
            time.sleep(0.01)
            waiting = int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)
    return sent


def _channels(worker: SshWorkerUnderTest) -> int:
    assert worker.last_beat is not None
    return worker.last_beat.channels


@pytest.mark.parametrize("retired", [False, True])
def test_with_its_supervisor_it_ends_at_once_whatever_is_open(
    estate: Estate, worker: SshWorkerUnderTest, box: Sshd, retired: bool
) -> None:
    port = estate.free_port()
    with Peer() as peer:
        reach(worker, box, port)
        program, of_program = forwarded(worker, port)
        program.shutdown(socket.SHUT_WR)
        with worker.ask("box", peer.target) as held, peer.accept() as end, program, of_program:
            held.sock.shutdown(socket.SHUT_WR)
            assert end.recv(10) == b"", "half of it is closed"
            if retired:
                worker.retire()
                worker.until(lambda: worker.ports_free, "it has retired")
            worker.hang_up()
            took = has_ended(worker, 5)
            print(f"ended {took:.2f} s after its supervisor")
            with pytest.raises(ConnectionResetError):
                held.read_to_end()


def test_who_asks_before_hosts_are_known_waits(estate: Estate, worker: SshWorkerUnderTest, box: Sshd) -> None:
    with Peer() as peer, socket.socket(socket.AF_UNIX) as early:
        early.settimeout(10)
        early.connect(worker.path)
        early.sendall(msgspec.json.encode(ChannelAsked(host="box", target=peer.target)) + b"\n")
        assert not select.select([early], [], [], 0.3)[0], "not refused"
        reach(worker, box, estate.free_port())
        assert b'"ok":true' in early.recv(1000)
        peer.accept().close()
