"""I/O: a tunnel in the relay loop: one TLS connection, the session on top of it, and what waits to be written.

Rules: one read, one encryption and one write per turn, whatever the number of streams; what is urgent (accepts of the
tunnel, pings, goodbyes) is encrypted before what is queued; while the socket cannot take more, nothing further is
encrypted, and above TUNNEL_PENDING_MAX no local socket is read for this tunnel.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from bridge import limits
from bridge.errors import PeerError
from bridge.identity.verify import PeerIdentity
from bridge.relay.loop import ERROR, HANGUP, READ, WRITE, Loop
from bridge.tunnels.frames import Code, Hello, Open, ProtocolViolation, Reason
from bridge.tunnels.handshake import TlsPipe
from bridge.tunnels.session import Session, Stream

_RECORD = 16 * limits.KIB
_RAW = bytearray(256 * limits.KIB)
_RAW_VIEW = memoryview(_RAW)
_PLAIN = bytearray(512 * limits.KIB)
_PLAIN_VIEW = memoryview(_PLAIN)
_IDLE_SLICES = 4
"""Ciphertext slices in a row that may decrypt to nothing before the peer counts as flooding (C26: KeyUpdates)."""


class TunnelOwner(Protocol):
    def tunnel_up(self, tunnel: Tunnel) -> None: ...
    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None: ...
    def tunnel_goaway(self, tunnel: Tunnel, reason: Reason) -> None: ...
    def tunnel_closed(self, tunnel: Tunnel, reason: str) -> None:
        """Called once; the streams' sinks were told before."""


class Waiter(Protocol):
    def unblock(self) -> None: ...


class Tunnel:
    """One end of an authenticated connection to `peer`.

    Args:
        opener: whether we dialled it.
        via: the gateway it is spliced through, or None when direct.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, pipe: TlsPipe, *, peer: PeerIdentity, opener: bool, via: str | None,
        owner: TunnelOwner,
    ) -> None:  # fmt: skip
        self.loop = loop
        self.peer = peer
        self.via = via
        self.opener = opener
        self.owner = owner
        self.session = Session(opener=opener, handler=self)
        self.session.now = self.session.last_heard = loop.now
        self.closed: str | None = None
        self.backlog = 0
        """Plaintext queued and not yet encrypted, in bytes."""
        self.opened_at = loop.now
        self.last_used = loop.now
        self.bytes_in = 0
        self.bytes_out = 0
        self._sock = sock
        self._fd = sock.fileno()
        self._tls = pipe.tls
        self._incoming = pipe.incoming
        self._outgoing = pipe.outgoing
        self._pending = b""
        self._rest = b""
        self._mask = READ
        self._idle_slices = 0
        self._waiting: list[Waiter] = []
        self._closing = False
        self._closing_at = 0.0
        self._pinged_at = loop.now
        loop.register(self._fd, self, READ)
        loop.touch(self)

    def start(self) -> None:
        """Act on what arrived together with the end of the handshake, and say HELLO."""
        self._guarded(self._drain_tls)
        self.loop.settle()

    # --- state others ask for -------------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether a stream can be opened now."""
        return self.closed is None and not self._closing and self.session.can_open

    @property
    def is_blocked(self) -> bool:
        return self.backlog + len(self._pending) > limits.TUNNEL_PENDING_MAX

    def wait_unblocked(self, waiter: Waiter) -> None:
        self._waiting.append(waiter)

    # --- writing --------------------------------------------------------------------------------------------------

    def send_large(self, frame: memoryview) -> None:
        """Encrypt a whole frame from the caller's buffer now; it may be reused on return."""
        if self._pending:
            self.session.out.append(bytes(frame))
            self.backlog += len(frame)
        else:
            self._encrypt()
            self._tls.write(frame)
        self.loop.touch(self)

    def _encrypt(self) -> None:
        session = self.session
        out = session.out
        if session.urgent:
            out[:0] = session.urgent
            session.urgent.clear()
        if out:
            self._tls.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
            self.backlog = 0

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""
        if self.closed is not None:
            return
        if not self._pending:
            self._encrypt()
        while True:
            if self._outgoing.pending:
                self._pending = self._pending + self._outgoing.read() if self._pending else self._outgoing.read()
            pending = self._pending
            if not pending:
                break
            try:
                sent = self._sock.send(pending)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._end(f"the connection broke: {exc.strerror}")
                return
            self.bytes_out += sent
            if sent < len(pending):
                self._pending = pending[sent:]
                self._watch(READ | WRITE)
                return
            self._pending = b""
            if not (self.session.out or self.session.urgent):
                break
            self._encrypt()
        self._watch(READ)
        if self._closing:
            self._end("closed")
        elif self._waiting:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.unblock()

    def _watch(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self.loop.modify(self._fd, mask)

    # --- reading --------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        if events & (READ | HANGUP | ERROR):
            self._guarded(self._read)
        if events & WRITE and self.closed is None:
            self.flush()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except ProtocolViolation as violation:
            self.close(violation.code, violation.what)
        except ssl.SSLZeroReturnError:
            self._end("the peer closed the tunnel")
        except ssl.SSLError as exc:
            self._end(f"TLS failed: {exc.reason}")
        except PeerError as exc:
            self._end(exc.what)

    def _read(self) -> None:
        try:
            size = self._sock.recv_into(_RAW)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end(f"the connection broke: {exc.strerror}")
            return
        if size == 0:
            self._end("the peer closed the connection")
            return
        self.bytes_in += size
        self.session.now = self.session.last_heard = self.loop.now
        at = 0
        while at < size and self.closed is None:
            stop = min(at + _RECORD, size)
            self._incoming.write(_RAW_VIEW[at:stop])
            self._drain_tls()
            at = stop
        self.loop.touch(self)

    def _drain_tls(self) -> None:
        """Decrypt all that is there and act on every whole frame."""
        rest = self._rest
        have = len(rest)
        if have:
            _PLAIN[:have] = rest
        decrypt = self._tls.read
        room = len(_PLAIN) - _RECORD
        got = 0
        more = True
        while more and self.closed is None:
            try:
                while have < room:
                    size = decrypt(_RECORD, _PLAIN_VIEW[have:])  # type: ignore[call-overload]
                    if size == 0:
                        raise ssl.SSLZeroReturnError
                    have += size
                    got += size
            except ssl.SSLWantReadError:
                more = False
            used = self.session.receive(_PLAIN_VIEW, have)
            if used:
                have -= used
                _PLAIN[:have] = _PLAIN[used : used + have]
        self._rest = bytes(_PLAIN_VIEW[:have]) if have else b""
        self._idle_slices = 0 if got else self._idle_slices + 1
        if self._idle_slices > _IDLE_SLICES:
            raise PeerError("the peer sends TLS records that carry nothing")

    # --- the session's handler ------------------------------------------------------------------------------------

    def on_hello(self, hello: Hello) -> None:
        pass

    def on_accepted(self) -> None:
        if self.session.is_up:
            self.owner.tunnel_up(self)

    def on_refused(self, reason: Reason) -> None:
        self._end(f"the peer refused the tunnel: {reason.reason[: limits.FOREIGN_TEXT_MAX]}")

    def on_open(self, stream: Stream, wish: Open) -> None:
        self.last_used = self.loop.now
        self.owner.tunnel_open(self, stream, wish)

    def on_goaway(self, reason: Reason) -> None:
        self.owner.tunnel_goaway(self, reason)

    # --- ending ---------------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """We are satisfied with the peer."""
        self.session.accept_tunnel()
        self.loop.touch(self)
        if self.session.is_up:
            self.owner.tunnel_up(self)

    def refuse(self, code: Code, reason: str) -> None:
        """We are not: tell it why and close."""
        self.session.refuse_tunnel(code, reason)
        self._close_after_flush()

    def close(self, code: Code, reason: str) -> None:
        """End the tunnel and every stream on it, telling the peer why."""
        if self.closed is None:
            self.session.goaway(code, reason)
            self._end_streams(code, reason)
            self._close_after_flush()

    def _close_after_flush(self) -> None:
        self._closing = True
        self._closing_at = self.loop.now
        self.loop.touch(self)

    def tick(self, now: float) -> None:
        """Called about once a second: heartbeats, and an end to peers that went silent or do not take our goodbye."""
        if self._closing and now - self._closing_at > limits.HEARTBEAT_INTERVAL:
            self._end("closed")
        elif now - self.session.last_heard > limits.HEARTBEAT_INTERVAL * limits.HEARTBEAT_MISSES:
            self._end(f"the peer has been silent for {now - self.session.last_heard:.0f} s")
        elif min(now - self.session.last_heard, now - self._pinged_at) > limits.HEARTBEAT_INTERVAL:
            self._pinged_at = now
            self.session.ping()
            self.loop.touch(self)

    def crashed(self, error: BaseException) -> None:
        self._end(f"internal error: {type(error).__name__}")

    def _end_streams(self, code: Code, reason: str) -> None:
        for stream in list(self.session.streams.values()):
            sink, stream.sink = stream.sink, None
            if sink is not None:
                sink.on_reset(code)

    def _end(self, reason: str) -> None:
        if self.closed is not None:
            return
        self.closed = reason
        self.loop.unregister(self._fd)
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            if self._outgoing.pending:
                self._sock.send(self._outgoing.read())
        self._sock.close()
        self._end_streams(Code.ABORTED, reason)
        self._waiting.clear()
        self.owner.tunnel_closed(self, reason)
