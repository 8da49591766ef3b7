"""I/O: two tunnels joined by a socketpair in one loop, with programs at both ends, driven turn by turn.

    program ── LocalSocket ── Tunnel a ══ TLS over a socketpair ══ Tunnel b ── LocalSocket ── service

Everything happens in `turn`, in this process: what a test waits for is a condition, never a time.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bridge.identity.contexts import mutual_client, mutual_server
from bridge.identity.verify import PeerIdentity
from bridge.relay.local import LocalSocket
from bridge.relay.loop import READ, WRITE, Loop
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Code, Open, Reason, encode_open
from bridge.tunnels.session import Stream
from tests.support.forged_records import pipes
from tests.support.memory_tls import TrustDomain

PATIENCE = 20.0
"""Seconds after which a condition that does not come true is a failure."""
STREAM_BUFFER = 64 * 1024


@dataclass(frozen=True)
class Contexts:
    client: ssl.SSLContext
    server: ssl.SSLContext
    peers: tuple[PeerIdentity, PeerIdentity]
    """Who `a` sees (b), and who `b` sees (a)."""


def make_contexts(folder: Path, now: float) -> Contexts:
    domain = TrustDomain(folder, now)
    files = [domain.identity(f"host/{name}") for name in "ab"]

    def seen(name: str) -> PeerIdentity:
        spiffe = domain.spiffe(f"host/{name}")
        return PeerIdentity(spiffe=spiffe, key="", serial=0, not_after=now + 86400, not_before=now)

    return Contexts(
        mutual_client(files[0], domain.root_pem), mutual_server(files[1], domain.root_pem), (seen("b"), seen("a"))
    )


def local_pair() -> tuple[socket.socket, socket.socket]:
    """A program's end and ours, both non-blocking, with small buffers."""
    program, ours = socket.socketpair()
    for sock in (program, ours):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER)
    return program, ours


class Side:
    """Owner of one tunnel end and its local sockets; writes down what it is told."""

    def __init__(self, name: str, loop: Loop) -> None:
        self.name = name
        self.loop = loop
        self.tunnel: Tunnel
        self.serve: Callable[[Stream, Open], None] = self._join
        self.on_refused: Callable[[LocalSocket, Reason], None] = lambda local, reason: local.abort(
            Code.NO_ERROR, "refused", reason.reason
        )
        self.services: list[socket.socket] = []
        """The service's end of each stream that was joined here, in order."""
        self.programs: list[socket.socket] = []
        self.locals: list[LocalSocket] = []
        self.ups = 0
        self.accepted: list[object] = []
        self.refused: list[Reason] = []
        self.connect_errors: list[int] = []
        self.ended: dict[LocalSocket, tuple[str, str]] = {}
        self.goaways: list[Reason] = []
        self.tunnel_ends: list[str] = []

    def open(self, service: str = "x") -> socket.socket:
        """A program connects: its end of the connection."""
        program, ours = local_pair()
        self.programs.append(program)
        self.open_with(ours, service)
        return program

    def open_with(self, ours: socket.socket, service: str = "x") -> None:
        """The same with a connection that the test made."""
        local = LocalSocket(self.loop, ours, self, service)
        self.locals.append(local)
        local.open(self.tunnel, encode_open(Open(service=service)))
        self.loop.settle()

    def _join(self, stream: Stream, wish: Open) -> None:
        service, ours = local_pair()
        self.services.append(service)
        local = LocalSocket(self.loop, ours, self, wish.service)
        self.locals.append(local)
        local.join(self.tunnel, stream)

    # --- TunnelOwner ----------------------------------------------------------------------------------------------

    def tunnel_up(self, tunnel: Tunnel) -> None:
        self.ups += 1

    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None:
        self.serve(stream, wish)

    def tunnel_goaway(self, tunnel: Tunnel, reason: Reason) -> None:
        self.goaways.append(reason)

    def tunnel_closed(self, tunnel: Tunnel, reason: str) -> None:
        self.tunnel_ends.append(reason)

    # --- LocalOwner -----------------------------------------------------------------------------------------------

    def local_connected(self, local: LocalSocket) -> None: ...

    def local_connect_failed(self, local: LocalSocket, error: int) -> None:
        self.connect_errors.append(error)
        local.refuse(Code.CONNECT_FAILED, "connect failed")

    def local_accepted(self, local: LocalSocket) -> None:
        self.accepted.append(local.context)

    def local_refused(self, local: LocalSocket, reason: Reason) -> None:
        self.refused.append(reason)
        self.on_refused(local, reason)

    def local_ended(self, local: LocalSocket, result: str, reason: str) -> None:
        assert local not in self.ended, "told twice"
        self.ended[local] = (result, reason)

    @property
    def results(self) -> list[str]:
        return [result for result, _ in self.ended.values()]


@dataclass
class Rig:
    """One loop with the two sides in it."""

    contexts: Contexts
    loop: Loop
    a: Side
    b: Side
    crashes: list[BaseException]
    turns: int = 0
    sockets: list[socket.socket] = field(default_factory=list)

    @classmethod
    def up(cls, contexts: Contexts, *, transport: tuple[socket.socket, socket.socket] | None = None) -> Rig:
        """With both tunnels accepted and up."""
        rig = cls.bare(contexts)
        rig.join(transport)
        for side in (rig.a, rig.b):
            side.tunnel.accept()
            side.tunnel.start()
        rig.until(lambda: bool(rig.a.ups and rig.b.ups))
        return rig

    @classmethod
    def bare(cls, contexts: Contexts) -> Rig:
        crashes: list[BaseException] = []
        loop = Loop(crashes.append)
        return cls(contexts, loop, Side("a", loop), Side("b", loop), crashes)

    def join(self, transport: tuple[socket.socket, socket.socket] | None = None) -> None:
        """New tunnels between the sides, not started."""
        ends = transport or socket.socketpair()
        pair = pipes(self.contexts.client, self.contexts.server)
        for side, sock, pipe, peer in zip((self.a, self.b), ends, pair, self.contexts.peers, strict=True):
            sock.setblocking(False)
            opener = side is self.a
            side.tunnel = Tunnel(self.loop, sock, pipe, peer=peer, opener=opener, via=None, owner=side)
        self.sockets += ends

    def turn(self) -> int:
        self.turns += 1
        return self.loop.turn()

    def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Turn the loop until `condition` holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if not self.turn():
                # Nothing is ready: over TCP it may become so, between socketpairs it never will.
                ready, _, _ = select.select([self.loop.fileno()], [], [], 0.5)
                assert ready or condition(), f"nothing more happens, and not: {what or condition}"
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what or condition}"

    def idle(self) -> None:
        """Turn the loop until nothing is ready. A turn that found nothing may still have written something."""
        quiet = 0
        for _ in range(10_000):
            quiet = 0 if self.turn() else quiet + 1
            if quiet == 2:
                return
        raise AssertionError("the loop spins")

    def close(self) -> None:
        """The test is over: nothing crashed that it did not say should."""
        for side in (self.a, self.b):
            if hasattr(side, "tunnel"):
                side.tunnel.close(Code.SHUTDOWN, "the test is over")
        self.loop.settle()
        for side in (self.a, self.b):
            for sock in [*side.services, *side.programs]:
                sock.close()
        for sock in self.sockets:
            sock.close()
        self.loop.close()
        assert not self.crashes, self.crashes
        assert self.loop.buffered == 0, "bytes are counted as waiting after everything has ended"


def read_all(sock: socket.socket) -> bytes | None:
    """What is there now; None at the end of the stream when nothing is. Raises ConnectionResetError."""
    got = b""
    while True:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return got
        if not data:
            return got or None
        got += data


class Pump:
    """A program in the loop that sends `data` as fast as it is taken and collects what it gets."""

    def __init__(self, loop: Loop, sock: socket.socket, data: bytes, *, shut: bool = True) -> None:
        self._loop = loop
        self._sock = sock
        self._left = memoryview(data)
        self._shut = shut
        self.got = bytearray()
        self.eof = False
        self.error = ""
        self._mask = READ | (WRITE if data else 0)
        sock.setblocking(False)
        loop.register(sock.fileno(), self, self._mask)

    def ready(self, events: int) -> None:
        try:
            if events & self._mask & WRITE:
                self._left = self._left[self._sock.send(self._left[: 1 << 18]) :]
                if not self._left:
                    self._without(WRITE)
                    if self._shut:
                        self._sock.shutdown(socket.SHUT_WR)
            if self._mask & READ and events & ~WRITE:
                data = self._sock.recv(1 << 18)
                self.got += data
                if not data:
                    self.eof = True
                    self._without(READ)
        except BlockingIOError:
            pass
        except OSError as exc:
            self.error = exc.strerror or "broken"
            self._without(READ | WRITE)

    def _without(self, mask: int) -> None:
        self._mask &= ~mask
        if self._mask:
            self._loop.modify(self._sock.fileno(), self._mask)
        else:
            self._loop.unregister(self._sock.fileno())

    def crashed(self, error: BaseException) -> None:
        self.error = repr(error)
