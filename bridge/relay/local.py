"""I/O: the local end of a stream: a TCP or unix socket in the relay loop, joined to one stream of a tunnel.

Rules: bytes are read only when the stream has credit and the tunnel takes more, so a slow reader stops only its own
stream; credit is granted back only for bytes that the local socket took; each direction ends on its own (half-close),
and an abort on one side becomes an abort on the other.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import Protocol

from bridge import limits
from bridge.ports import first_ephemeral_port
from bridge.relay.loop import ERROR, HANGUP, READ, WRITE, Loop
from bridge.relay.tunnel import Tunnel
from bridge.relay.witnessed import ended_well
from bridge.tunnels.frames import HEADER, HEADER_SIZE, Code, FrameType, Reason, code_word
from bridge.tunnels.session import Stream
from bridge.tunnels.stream_state import State
from inventory.endpoints import Endpoint

_ABORT = struct.pack("ii", 1, 0)
_DATA = int(FrameType.DATA)
_FRAME_SIZE = 64 * limits.KIB
"""A whole frame as read from a busy socket: exactly four full TLS records."""
_BUFFER = bytearray(_FRAME_SIZE)
_FRAME = memoryview(_BUFFER)
_BODY = _FRAME[HEADER_SIZE:]
_BODY_SIZE = len(_BODY)
_SMALL = 4 * limits.KIB
_LARGE = 16 * limits.KIB
"""From here on a frame is encrypted straight from the shared buffer; below, joining many into one write is cheaper."""
_pack_into = HEADER.pack_into

_READS = frozenset({State.OPENING, State.OPEN, State.GOT_FIN})
_CUTS = frozenset({Code.CUT, Code.REVOKED, Code.DENIED, Code.DRAINING})


class LocalOwner(Protocol):
    """An exception in one of these ends that one stream."""

    def local_connected(self, local: LocalSocket) -> None:
        """The connect to a target succeeded."""

    def local_connect_failed(self, local: LocalSocket, error: int) -> None:
        """It did not (`error` is an errno): `refuse` it."""

    def local_accepted(self, local: LocalSocket) -> None:
        """The far end answered ACCEPT."""

    def local_refused(self, local: LocalSocket, reason: Reason) -> None:
        """The far end answered REFUSE, or the tunnel broke before it could: `open` again, now or later, or `abort`."""

    def local_ended(self, local: LocalSocket, result: str, reason: str) -> None:
        """Called exactly once; `result` is "ok", "refused", "cut" or "failed"."""


class LocalSocket:
    """One local socket. `context` belongs to the owner (who, to what, under which permit)."""

    __slots__ = (
        "_connecting", "_early", "_early_fin", "_early_sent", "_fd", "_fin_waits", "_has_more", "_mask", "_parked",
        "_pending", "_reading", "_sock", "bytes_in", "bytes_out", "context", "ended", "loop", "owner", "preamble",
        "sole", "stream", "tunnel",
    )  # fmt: skip

    def __init__(self, loop: Loop, sock: socket.socket, owner: LocalOwner, context: object) -> None:
        self.loop = loop
        self.owner = owner
        self.context = context
        self.tunnel: Tunnel | None = None
        self.stream: Stream | None = None
        self.ended = False
        self.bytes_in = 0
        """Bytes that the local socket took."""
        self.bytes_out = 0
        """Bytes read from it."""
        self.preamble: bytes | None = None
        """What a target is told before the stream's first byte."""
        self.sole = False
        """Whether no other process can hold a descriptor of this socket. Its end then costs a system call less."""
        self._sock = sock
        self._fd = sock.fileno()
        self._mask = -1
        self._reading = False
        self._has_more = False
        """Whether it was left with bytes to read: such ones take turns while others wait for the tunnel."""
        self._parked = False
        self._connecting = False
        self._pending: bytearray | None = None
        self._fin_waits = False
        self._early: bytearray | None = None
        self._early_sent = 0
        self._early_fin = False

    # --- joining to a stream --------------------------------------------------------------------------------------

    def open(self, tunnel: Tunnel, wish: bytes) -> None:
        """Open a stream for this socket and start reading: bytes may go before the ACCEPT. When an earlier stream was
        refused, what had been sent on it goes again: a refusal says that none of it reached the service."""
        self.tunnel = tunnel
        tunnel.last_used = self.loop.now
        self.stream = tunnel.session.open(self, wish)
        self._early_sent = 0
        if self._early is None:
            self._early = bytearray()
        self._send_again()

    def connect(self, tunnel: Tunnel, stream: Stream, address: tuple[str, int]) -> None:
        """Connect to a target for a stream that the peer opened; the stream's bytes wait in the window meanwhile."""
        self.tunnel = tunnel
        self.stream = stream
        stream.sink = self
        self._connecting = True
        try:
            self._sock.connect(address)
        except BlockingIOError:
            if not self._is_connected():
                self._watch()
                return
        except OSError as exc:
            self.owner.local_connect_failed(self, exc.errno or 0)
            return
        self._connect_done(WRITE, another=address[1] < first_ephemeral_port())

    def _is_connected(self) -> bool:
        """Asked right after the connect: over loopback it is done by then, and need not be waited for."""
        try:
            self._sock.getpeername()
        except OSError:
            return False
        return True

    def wait(self, tunnel: Tunnel, stream: Stream) -> None:
        """Somebody else is connecting this socket for a stream that the peer opened: `connected`, or `refuse`, follows.
        The stream's bytes wait in the window meanwhile."""
        self.tunnel = tunnel
        self.stream = stream
        stream.sink = self
        self._connecting = True

    def connected(self) -> None:
        """It is, after `wait`."""
        self._established()

    def join(self, tunnel: Tunnel, stream: Stream) -> None:
        """Serve a stream that the peer opened from this already connected socket."""
        self.tunnel = tunnel
        self.stream = stream
        stream.sink = self
        self._established()

    def _connect_done(self, events: int, *, another: bool = False) -> None:
        """`another`: it is known not to be connected to itself."""
        error = 0
        if events & (ERROR | HANGUP):
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNABORTED
        if not error and not another and _is_connected_to_itself(self._sock):
            error = errno.ECONNREFUSED
        if error:
            self.owner.local_connect_failed(self, error)
        else:
            self._established()

    def _established(self) -> None:
        assert self.tunnel is not None and self.stream is not None
        if self.preamble is not None and (error := self._send_preamble(self.preamble)):
            self.owner.local_connect_failed(self, error)
            return
        self._connecting = False
        self.tunnel.session.accept(self.stream)
        self.loop.touch(self.tunnel)
        self._reading = True
        self.owner.local_connected(self)
        if not self.ended:
            self._write()
            self._watch()

    def _send_preamble(self, data: bytes) -> int:
        """0, or an errno. A socket that was connected just now takes a few hundred bytes at once, or something is wrong
        with it."""
        try:
            return 0 if self._sock.send(data) == len(data) else errno.ENOBUFS
        except OSError as exc:
            return exc.errno or errno.EIO

    @property
    def remote(self) -> str | None:
        """`ADDR:PORT` of the other side's socket; None when it has none."""
        try:
            address = self._sock.getpeername()
        except OSError:
            return None
        return str(Endpoint(address[0], address[1])) if isinstance(address, tuple) else None

    # --- the loop -------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        if self._connecting:
            self._connect_done(events)
            return
        if events & WRITE:
            self._write()
        if self.ended:
            return
        if self._reading and events & (READ | HANGUP | ERROR):
            self._read()
        elif events & ERROR:
            self._broken(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        elif events & HANGUP:
            if self._pending:
                self._broken(errno.EPIPE)
                return
            # Both directions are over but unread bytes may be left for when there is credit again: epoll would report
            # the hangup without end meanwhile, whatever the mask.
            self.loop.unregister(self._fd)
            self._parked = True
            self._mask = -1

    def _watch(self) -> None:
        if self.ended:
            return
        mask = (READ if self._reading else 0) | (WRITE if self._pending or self._connecting else 0)
        if mask == self._mask or (self._parked and not mask):
            return
        if self._mask == -1:
            self.loop.register(self._fd, self, mask)
            self._parked = False
        else:
            self.loop.modify(self._fd, mask)
        self._mask = mask

    # --- local socket to tunnel -----------------------------------------------------------------------------------

    def _read(self) -> None:
        stream, tunnel = self.stream, self.tunnel
        assert stream is not None and tunnel is not None
        budget = limits.STREAM_TURN_BUDGET
        if tunnel.waiting:
            if self._has_more:  # it had its turn, and others have not
                self._pause()
                tunnel.wait_unblocked(self)
                return
            budget = _BODY_SIZE
        while budget > 0:
            credit = stream.send_credit
            if self._early is not None:
                credit = min(credit, limits.EARLY_MAX - len(self._early))
            if credit <= 0:
                self._pause()
                return
            room = credit if credit < _BODY_SIZE else _BODY_SIZE
            queued = tunnel.queued
            if queued > limits.TUNNEL_PENDING_MAX:
                if self._has_more:
                    self._pause()
                    tunnel.wait_unblocked(self)
                    return
                room = min(room, _SMALL)  # a keystroke does not wait behind what others have to say
            elif queued > tunnel.share and tunnel.has_its_share(self, stream.id):
                self._pause()
                return
            if tunnel.share < room:
                room = tunnel.share
            try:
                size = self._sock.recv_into(_BODY, room)
            except BlockingIOError:
                return
            except OSError as exc:
                self._broken(exc.errno or 0)
                return
            if size == 0:
                if ended_well(self._sock):
                    self._end_of_input()
                else:
                    self._broken(errno.ECONNRESET)
                return
            _pack_into(_BUFFER, 0, stream.id, _DATA, 0, size)
            stream.send_credit -= size
            stream.bytes_out += size
            self.bytes_out += size
            if self._early is not None:
                self._early += _BODY[:size]
                self._early_sent = len(self._early)
            if size >= _LARGE:
                tunnel.send_large(_FRAME[: size + HEADER_SIZE])
            else:
                tunnel.session.out.append(bytes(_FRAME[: size + HEADER_SIZE]))
                tunnel.backlog += size + HEADER_SIZE
                self.loop.touch(tunnel)
            if size < room:
                self._has_more = False
                return  # the socket is most likely empty, epoll will tell
            self._has_more = True
            budget -= size

    def _pause(self) -> None:
        self._reading = False
        self._watch()

    def unblock(self) -> bool:
        """The tunnel takes more, or credit came: go on unless our side has ended. Whether it reads from now on."""
        if self.ended or self._reading or self.stream is None:
            return False
        if self._early is not None and self._early_sent < len(self._early):
            self._send_again()
        elif self.stream.state in _READS:
            self._reading = True
            self._has_more = False  # it is its turn
            self._watch()
            return True
        return False

    def on_window(self) -> None:
        if not self._reading:
            self.unblock()

    def _send_again(self) -> None:
        """Send what an earlier stream was refused with, as far as there is credit, and then go on reading."""
        stream, tunnel, early = self.stream, self.tunnel, self._early
        assert stream is not None and tunnel is not None and early is not None
        self.loop.touch(tunnel)
        while self._early_sent < len(early):
            size = min(len(early) - self._early_sent, stream.send_credit, _BODY_SIZE)
            if size <= 0:
                break
            tunnel.session.data(stream, bytes(early[self._early_sent : self._early_sent + size]))
            tunnel.backlog += size + HEADER_SIZE
            self._early_sent += size
        else:
            if stream.state is not State.OPENING:
                self._early = None
            if self._early_fin:
                tunnel.session.fin(stream)
            else:
                self._reading = True
        self._watch()

    def _end_of_input(self) -> None:
        assert self.stream is not None and self.tunnel is not None
        self._reading = False
        if self._early is not None:
            self._early_fin = True
        self.tunnel.session.fin(self.stream)
        self.loop.touch(self.tunnel)
        self._finish_when_done()
        self._watch()

    # --- tunnel to local socket -----------------------------------------------------------------------------------

    def on_data(self, data: memoryview) -> None:
        if self._pending or self._connecting:
            self._hold(data)
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._broken(exc.errno or 0)
            return
        if sent:
            self._took(sent)
        if sent < len(data):
            self._hold(data[sent:])
            self._watch()

    def _hold(self, data: memoryview) -> None:
        """Keep what the socket does not take now; the stream's window bounds it."""
        assert self.tunnel is not None
        if self._pending is None:
            self._pending = bytearray()
        self._pending += data
        if not self.tunnel.hold(len(data)):
            self.abort(Code.LIMIT, "failed", "too many bytes wait for slow readers on this node")

    def _took(self, size: int) -> None:
        assert self.stream is not None and self.tunnel is not None
        self.bytes_in += size
        self.tunnel.session.consumed(self.stream, size)

    def _write(self) -> None:
        pending = self._pending
        if pending:
            assert self.tunnel is not None
            try:
                sent = self._sock.send(pending)
            except BlockingIOError:
                return
            except OSError as exc:
                self._broken(exc.errno or 0)
                return
            self.tunnel.hold(-sent)
            self._took(sent)
            self.loop.touch(self.tunnel)
            if sent < len(pending):
                del pending[:sent]
                return
            self._pending = None
        if self._fin_waits:
            self._shut()
        self._watch()

    def on_fin(self) -> None:
        if self._pending or self._connecting:
            self._fin_waits = True
        else:
            self._shut()

    def _shut(self) -> None:
        self._fin_waits = False
        if self.stream is not None and self.stream.state is State.CLOSED:
            self._end("ok", "")  # both directions are over: closing says it as well
            return
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                self._broken(exc.errno or 0)
                return
        self._finish_when_done()

    # --- ends -----------------------------------------------------------------------------------------------------

    def on_accept(self) -> None:
        if self._early_sent == len(self._early or b""):
            self._early = None
        self.owner.local_accepted(self)
        self.unblock()  # it may have waited because so much was sent early

    def on_refuse(self, reason: Reason) -> None:
        self._unjoined()
        self.owner.local_refused(self, reason)

    def on_reset(self, code: int) -> None:
        if self.ended:
            return
        if self.stream is not None and self._early is not None and not self._early_sent and not self._early_fin:
            # Nothing was sent yet, so another try cannot do anything twice.
            reason = Reason(code=code, reason=self._why_reset(code))
            self._unjoined()
            self.owner.local_refused(self, reason)
            return
        word = "cut" if code in _CUTS else "failed"
        self._end(word, self._why_reset(code), abort=True)

    def _why_reset(self, code: int) -> str:
        over = self.tunnel.closed or self.tunnel.closing if self.tunnel is not None else None
        if over is not None:
            return f"the tunnel ended: {over}"
        if self.stream is not None and self.stream.state is State.CLOSED:
            return f"the far end ended it: {code_word(code)}"
        return "internal error"

    def _unjoined(self) -> None:
        self.stream = None
        self.tunnel = None
        self._reading = False
        self._watch()

    def _finish_when_done(self) -> None:
        stream = self.stream
        if stream is not None and stream.state is State.CLOSED and not self._pending and not self._fin_waits:
            self._end("ok", "")

    def _broken(self, error: int) -> None:
        why = errno.errorcode.get(error, "hangup").lower()
        self._reset(Code.ABORTED)
        self._end("failed", f"the local connection broke: {why}", abort=True)

    def release(self) -> socket.socket | None:
        """Give the socket away before any stream was opened for it; None when it has ended. The owner is not told."""
        assert self.stream is None
        if self.ended:
            return None
        self.ended = True
        if self._mask != -1:
            self.loop.unregister(self._fd)
        return self._sock

    def abort(self, code: Code, result: str, reason: str) -> None:
        """End it now, in both directions, with a reset to both sides."""
        if not self.ended:
            self._reset(code)
            self._end(result, reason, abort=True)

    def refuse(self, code: Code, reason: str, rule: str | None = None) -> None:
        """Answer the peer's OPEN with a refusal."""
        if not self.ended:
            assert self.tunnel is not None and self.stream is not None
            self.tunnel.session.refuse(self.stream, code, reason, rule)
            self.loop.touch(self.tunnel)
            self._end("refused" if code is Code.DENIED else "failed", reason)

    def _reset(self, code: Code) -> None:
        if self.tunnel is not None and self.stream is not None and self.tunnel.closed is None:
            self.tunnel.session.reset(self.stream, code)
            self.loop.touch(self.tunnel)

    def crashed(self, error: BaseException) -> None:
        self.abort(Code.INTERNAL, "failed", f"internal error: {type(error).__name__}")

    def _end(self, result: str, reason: str, *, abort: bool = False) -> None:
        if self.ended:
            return
        self.ended = True
        if self.stream is not None:
            self.stream.sink = None
        if self._pending and self.tunnel is not None:
            self.tunnel.hold(-len(self._pending))
        if self._mask != -1:
            if self.sole:
                self.loop.forget(self._fd)
            else:
                self.loop.unregister(self._fd)
        if abort:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._sock.close()
        self._pending = None
        self._early = None
        self.owner.local_ended(self, result, reason)


def _is_connected_to_itself(sock: socket.socket) -> bool:
    """A connect to a free port in the ephemeral range can meet itself (simultaneous open) and would echo."""
    ours = sock.getsockname()
    try:
        return isinstance(ours, tuple) and ours == sock.getpeername()
    except OSError:
        return True
