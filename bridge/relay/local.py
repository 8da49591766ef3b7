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
from collections import deque
from typing import Protocol

from bridge import limits
from bridge.relay.loop import ERROR, HANGUP, READ, WRITE, Loop
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import HEADER, HEADER_SIZE, Code, FrameType, Reason, code_word
from bridge.tunnels.session import Stream
from bridge.tunnels.stream_state import State

_ABORT = struct.pack("ii", 1, 0)
_DATA = int(FrameType.DATA)
_BUFFER = bytearray(HEADER_SIZE + limits.FRAME_BODY_MAX)
_FRAME = memoryview(_BUFFER)
_BODY = _FRAME[HEADER_SIZE:]
_BODY_SIZE = len(_BODY)
_LARGE = 16 * limits.KIB
"""From here on a frame is encrypted straight from the shared buffer; below, joining many into one write is cheaper."""
_BUFFERS_PER_WRITE = 64
_pack_into = HEADER.pack_into


class LocalOwner(Protocol):
    def local_connected(self, local: LocalSocket) -> None:
        """The connect to a target succeeded."""

    def local_connect_failed(self, local: LocalSocket, error: int) -> None: ...
    def local_accepted(self, local: LocalSocket) -> None:
        """The far end answered ACCEPT."""

    def local_refused(self, local: LocalSocket, reason: Reason) -> None:
        """The far end answered REFUSE, or the tunnel broke before it could: `retry` or `abort`."""

    def local_ended(self, local: LocalSocket, result: str, reason: str) -> None:
        """Called exactly once."""


class LocalSocket:
    """One local socket. `context` belongs to the owner (who, to what, under which permit)."""

    __slots__ = (
        "_connecting", "_early", "_early_fin", "_fd", "_fin_waits", "_mask", "_parked", "_pending", "_reading", "_sock",
        "bytes_in", "bytes_out", "context", "ended", "loop", "owner", "stream", "tunnel",
    )  # fmt: skip

    def __init__(self, loop: Loop, sock: socket.socket, owner: LocalOwner, context: object) -> None:
        self.loop = loop
        self.owner = owner
        self.context = context
        self.tunnel: Tunnel | None = None
        self.stream: Stream | None = None
        self.ended = False
        self.bytes_in = 0
        self.bytes_out = 0
        self._sock = sock
        self._fd = sock.fileno()
        self._mask = -1
        self._reading = False
        self._parked = False
        self._connecting = False
        self._pending: deque[memoryview | bytes] = deque()
        self._fin_waits = False
        self._early: list[bytes] | None = None
        self._early_fin = False

    # --- joining to a stream --------------------------------------------------------------------------------------

    def open(self, tunnel: Tunnel, wish: bytes) -> None:
        """Open a stream for this socket and start reading: bytes may go before the ACCEPT. When an earlier stream was
        refused, what had been sent on it goes again: a refusal says that none of it reached the service."""
        again, again_fin = self._early or [], self._early_fin
        self.tunnel = tunnel
        tunnel.last_used = self.loop.now
        self.stream = tunnel.session.open(self, wish)
        self._early = []
        self._early_fin = False
        for body in again:
            self._early.append(body)
            tunnel.session.data(self.stream, body)
        if again_fin:
            self._early_fin = True
            tunnel.session.fin(self.stream)
        else:
            self._reading = True
        self.loop.touch(tunnel)
        self._watch()

    def connect(self, tunnel: Tunnel, stream: Stream, address: tuple[str, int]) -> None:
        """Connect to a target for a stream that the peer opened; the stream's bytes wait in the window meanwhile."""
        self.tunnel = tunnel
        self.stream = stream
        stream.sink = self
        self._connecting = True
        try:
            self._sock.connect(address)
        except BlockingIOError:
            self._watch()
        except OSError as exc:
            self._connecting = False
            self.owner.local_connect_failed(self, exc.errno or 0)
        else:
            self._established()

    def join(self, tunnel: Tunnel, stream: Stream) -> None:
        """Serve a stream that the peer opened from this already connected socket."""
        self.tunnel = tunnel
        self.stream = stream
        stream.sink = self
        self._established()

    def _established(self) -> None:
        assert self.tunnel is not None and self.stream is not None
        self._connecting = False
        self.tunnel.session.accept(self.stream)
        self.loop.touch(self.tunnel)
        self._reading = True
        self.owner.local_connected(self)
        self._write()
        self._watch()

    # --- the loop -------------------------------------------------------------------------------------------------

    def ready(self, events: int) -> None:
        if self._connecting:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.owner.local_connect_failed(self, error)
            elif events & WRITE:
                self._established()
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
        while budget > 0:
            credit = stream.send_credit
            if credit <= 0:
                self._pause()
                return
            if tunnel.is_blocked:
                self._pause()
                tunnel.wait_unblocked(self)
                return
            try:
                size = self._sock.recv_into(_BODY if credit >= _BODY_SIZE else _BODY[:credit])
            except BlockingIOError:
                return
            except OSError as exc:
                self._broken(exc.errno or 0)
                return
            if size == 0:
                self._end_of_input()
                return
            _pack_into(_BUFFER, 0, stream.id, _DATA, 0, size)
            stream.send_credit = credit - size
            stream.bytes_out += size
            self.bytes_out += size
            if self._early is not None:
                self._early.append(bytes(_BODY[:size]))
            if size >= _LARGE:
                tunnel.send_large(_FRAME[: size + HEADER_SIZE])
            else:
                tunnel.session.out.append(bytes(_FRAME[: size + HEADER_SIZE]))
                tunnel.backlog += size
                self.loop.touch(tunnel)
                return  # less than a large read: the socket is most likely empty, epoll will tell
            budget -= size

    def _pause(self) -> None:
        self._reading = False
        self._watch()

    def unblock(self) -> None:
        """The tunnel takes more, or credit came: go on unless our side has ended."""
        stream = self.stream
        if not self.ended and stream is not None and not self._reading and stream.state in _READS:
            self._reading = True
            self._watch()

    def on_window(self) -> None:
        if not self._reading:
            self.unblock()

    def _end_of_input(self) -> None:
        assert self.stream is not None and self.tunnel is not None
        self._reading = False
        if self._early is not None:
            self._early_fin = True
        self.tunnel.session.fin(self.stream)
        self.loop.touch(self.tunnel)
        self._watch()
        self._finish_when_done()

    # --- tunnel to local socket -----------------------------------------------------------------------------------

    def on_data(self, data: memoryview) -> None:
        if self._pending or self._connecting:
            self._pending.append(bytes(data))
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._broken(exc.errno or 0)
            return
        if sent < len(data):
            self._pending.append(bytes(data[sent:]))
            self._watch()
        if sent:
            self._took(sent)

    def _took(self, size: int) -> None:
        assert self.stream is not None and self.tunnel is not None
        self.bytes_in += size
        self.tunnel.session.consumed(self.stream, size)

    def _write(self) -> None:
        pending = self._pending
        while pending:
            some = [pending[i] for i in range(min(len(pending), _BUFFERS_PER_WRITE))]
            try:
                sent = self._sock.sendmsg(some)
            except BlockingIOError:
                break
            except OSError as exc:
                self._broken(exc.errno or 0)
                return
            self._took(sent)
            while sent:
                first = pending[0]
                if sent < len(first):
                    pending[0] = memoryview(first)[sent:]
                    break
                sent -= len(first)
                pending.popleft()
        if self.tunnel is not None:
            self.loop.touch(self.tunnel)
        if not pending:
            if self._fin_waits:
                self._shut()
            if not self.ended:
                self._watch()

    def on_fin(self) -> None:
        if self._pending or self._connecting:
            self._fin_waits = True
        else:
            self._shut()

    def _shut(self) -> None:
        self._fin_waits = False
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                self._broken(exc.errno or 0)
                return
        self._finish_when_done()

    # --- ends -----------------------------------------------------------------------------------------------------

    def on_accept(self) -> None:
        self._early = None
        self.owner.local_accepted(self)

    def on_refuse(self, reason: Reason) -> None:
        self._unjoined()
        self.owner.local_refused(self, reason)

    def on_reset(self, code: int) -> None:
        if self._early is not None and not self._early and not self._early_fin:
            # Nothing was sent yet, so another try cannot do anything twice.
            self._unjoined()
            self.owner.local_refused(self, Reason(code=code, reason=code_word(code)))
            return
        word = "cut" if code in _CUTS else "failed"
        self._end(word, f"the far end ended it: {code_word(code)}", abort=True)

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
        if self._mask != -1:
            self.loop.unregister(self._fd)
        if abort:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._sock.close()
        self._pending.clear()
        self._early = None
        self.owner.local_ended(self, result, reason)


_READS = frozenset({State.OPENING, State.OPEN, State.GOT_FIN})
_CUTS = frozenset({Code.CUT, Code.REVOKED, Code.DENIED, Code.DRAINING})
