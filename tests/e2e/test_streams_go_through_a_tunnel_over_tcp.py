"""Two tunnels over loopback TCP in one loop, real services behind them.

program ── TCP ── LocalSocket ── Tunnel a ══ TLS over TCP ══ Tunnel b ── LocalSocket ── TCP ── service
"""

from __future__ import annotations

import errno
import hashlib
import random
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.relay.local import LocalSocket
from bridge.tunnels.frames import Code, Open
from bridge.tunnels.session import Stream
from tests.support.relay_pair import Contexts, Pump, Rig, make_contexts
from tests.support.tcp import reset, tcp_pair


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(Path(tmp_path_factory.mktemp("identities")), time.time())


class TcpRig(Rig):
    """`service` is where b connects to; `taken` are the connections that arrived there."""

    door: socket.socket
    service: tuple[str, int]

    @classmethod
    def over_tcp(cls, contexts: Contexts) -> TcpRig:
        rig = cls.up(contexts, transport=tcp_pair())
        assert isinstance(rig, TcpRig)
        rig.door = socket.create_server(("127.0.0.1", 0), backlog=4096)
        rig.service = rig.door.getsockname()
        rig.b.serve = rig.connect
        return rig

    def connect(self, stream: Stream, wish: Open) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        local = LocalSocket(self.loop, sock, self.b, wish.service)
        self.b.locals.append(local)
        local.connect(self.b.tunnel, stream, self.service)

    def dial(self) -> tuple[socket.socket, socket.socket]:
        """A program's connection and the service's."""
        program, ours = tcp_pair()
        self.a.programs.append(program)
        self.a.open_with(ours)
        self.until(lambda: len(self.a.accepted) == len(self.a.locals))
        taken, _ = self.door.accept()
        taken.setblocking(False)
        self.b.services.append(taken)
        return program, taken

    def close(self) -> None:
        super().close()
        self.door.close()


@pytest.fixture
def rig(contexts: Contexts) -> Iterator[TcpRig]:
    rig = TcpRig.over_tcp(contexts)
    yield rig
    rig.close()


def test_64_mb_in_both_directions_at_once(rig: TcpRig) -> None:
    data = [random.Random(seed).randbytes(64 << 20) for seed in (1, 2)]
    pumps = [Pump(rig.loop, sock, body) for sock, body in zip(rig.dial(), data, strict=True)]
    rig.until(lambda: all(pump.eof for pump in pumps))
    for pump, sent in zip(pumps, reversed(data), strict=True):
        assert hashlib.sha256(pump.got).digest() == hashlib.sha256(sent).digest()
    rig.until(lambda: bool(rig.a.ended and rig.b.ended))
    assert rig.a.results == rig.b.results == ["ok"]


@pytest.mark.parametrize("who", ["program", "service"])
def test_a_reset_goes_through(rig: TcpRig, who: str) -> None:
    program, service = rig.dial()
    victim, other = (program, service) if who == "program" else (service, program)
    reset(victim)
    rig.until(lambda: bool(rig.a.ended and rig.b.ended))
    with pytest.raises(ConnectionResetError):
        while other.recv(100):
            pass
    assert rig.a.results == rig.b.results == ["failed"]
    reasons = {reason for side in (rig.a, rig.b) for _, reason in side.ended.values()}
    assert reasons == {"the local connection broke: econnreset", "the far end ended it: aborted"}
    rig.until(lambda: not rig.a.tunnel.session.streams and not rig.b.tunnel.session.streams)


def test_a_service_that_is_not_there_is_a_refusal(rig: TcpRig) -> None:
    rig.door.close()
    program, ours = tcp_pair()
    rig.a.programs.append(program)
    rig.a.open_with(ours)
    rig.until(lambda: bool(rig.a.ended and rig.b.ended))
    assert rig.b.connect_errors == [errno.ECONNREFUSED]
    assert rig.a.refused[0].code == Code.CONNECT_FAILED and rig.a.results == ["refused"]


def test_a_connect_that_meets_itself_is_a_refusal(rig: TcpRig) -> None:
    """A free port of the ephemeral range, bound and dialled by the same socket: simultaneous open, an echo."""

    def connect(stream: Stream, wish: Open) -> None:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        LocalSocket(rig.loop, sock, rig.b, None).connect(rig.b.tunnel, stream, sock.getsockname())

    rig.b.serve = connect
    program, ours = tcp_pair()
    rig.a.programs.append(program)
    rig.a.open_with(ours)
    rig.until(lambda: bool(rig.a.ended))
    assert rig.b.connect_errors == [errno.ECONNREFUSED]


def test_a_reader_that_stops_does_not_slow_another_stream(rig: TcpRig) -> None:
    stuck, _nobody_reads = rig.dial()
    Pump(rig.loop, stuck, bytes(64 << 20))
    rig.idle()
    program, service = rig.dial()
    took = []
    for _ in range(200):
        began = time.perf_counter()
        program.send(b"x" * 100)
        rig.until(lambda: _has(service))
        service.recv(1000)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 0.02
    assert rig.b.tunnel.buffered < 4 << 20


def _has(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_a_thousand_streams_at_once(rig: TcpRig) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    pairs = [rig.dial() for _ in range(min(1000, (soft - 200) // 4))]
    for number, (program, service) in enumerate(pairs):
        program.send(b"%d" % number)
        rig.until(lambda service=service: _has(service))  # type: ignore[misc]
        assert service.recv(100) == b"%d" % number


def test_idle_tunnels_and_streams_cost_no_turns(rig: TcpRig) -> None:
    rig.dial()
    rig.idle()
    turns = [rig.turn() for _ in range(20)]
    assert turns == [0] * 20
