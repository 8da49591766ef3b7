"""I/O: a tunnel in the relay loop: one TLS connection, the session on top of it, and what waits to be written.

Rules: one read, one encryption and one write per turn, whatever the number of streams; what is urgent (accepts of the
tunnel, pings, goodbyes) is encrypted before what is queued; while the socket cannot take more, nothing further is
encrypted, and above TUNNEL_PENDING_MAX no local socket is read for this tunnel. When more waits than the link carries
in a moment (`pace`), streams take turns in small pieces, and only those with a piece waiting are not read. What arrives
is always read: two ends that both waited for the other to read would wait for ever.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from bridge import limits
from bridge.errors import PeerError, explain_tls_error
from bridge.identity.verify import PeerIdentity
from bridge.relay.late_open import LateOpen
from bridge.relay.loop import ERROR, HANGUP, READ, WRITE, Loop
from bridge.relay.pace import Pace
from bridge.tunnels.frames import Code, Hello, Open, ProtocolViolation, Reason, code_word
from bridge.tunnels.records import RecordReader, TlsPipe
from bridge.tunnels.session import Session, Stream
from bridge.tunnels.turns import Turns
from inventory.names import shown

_RESET = struct.pack("ii", 1, 0)
_READ_SMALL = 16 * limits.KIB
_RAW_VIEW = memoryview(bytearray(256 * limits.KIB))
_NOTHING = memoryview(b"")
_TURNS_GIVEN = 16
"""Each reads a frame of 64 KiB: TUNNEL_PENDING_MAX together."""
_LAST_READS = 32
"""Reads of what may lie in a broken connection: more than a socket's buffer holds."""
_PINGS_UNANSWERED = limits.HEARTBEAT_MISSES - 1
"""Silence counts only when it followed this many pings: after a stall of our own, the peer's bytes may lie unread."""


class TunnelOwner(Protocol):
    def tunnel_up(self, tunnel: Tunnel) -> None: ...
    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None: ...
    def tunnel_goaway(self, tunnel: Tunnel, reason: Reason) -> None: ...
    def tunnel_closed(self, tunnel: Tunnel, reason: str) -> None:
        """Called once; the streams' sinks were told before."""


class Waiter(Protocol):
    def unblock(self) -> bool:
        """It may add to what the tunnel writes; whether it will, with its next turn."""


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
        now = loop.refresh()
        self.loop = loop
        self.peer = peer
        self.via = via
        self.opener = opener
        self.owner = owner
        self.session = Session(opener=opener, handler=self, budget=loop.windows)
        self.session.now = self.session.last_heard = now
        self.closed: str | None = None
        self.closing: str | None = None
        """Why we are saying goodbye; from then on nothing that arrives is acted on."""
        self.backlog = 0
        """Plaintext in `session.out`: queued, and in no turns yet, in bytes."""
        self.buffered = 0
        """Bytes that arrived and wait for slow local readers."""
        self.opened_at = now
        self.last_used = now
        self.bytes_in = 0
        self.bytes_out = 0
        self._sock = sock
        self._fd = sock.fileno()
        self._tls = pipe.tls
        self._outgoing = pipe.outgoing
        self._records = RecordReader(pipe, self._receive)
        self._pending = _NOTHING
        self._read_size = _READ_SMALL
        self._mask = READ
        self._late: deque[LateOpen] = deque()
        self._late_at = 0.0
        self._opens_left = limits.OPENS_PER_TURN
        self.waiting: dict[Waiter, None] = {}
        """Who has something to send and may not add to what waits, the longest first."""
        self._pace = Pace(sock, now)
        self.share = self._pace.share
        """Bytes of one stream that should wait here at most, and how much is encrypted ahead of what may be urgent."""
        self._turns = Turns()
        self._in_turn: dict[int, Waiter] = {}
        """Those whose own stream has its share waiting, by stream."""
        self._called: dict[Waiter, None] = {}
        self._closing_at = 0.0
        self._pinged_at = now
        self._unanswered = 0
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.register(self._fd, self, READ)
        loop.touch(self)

    def start(self) -> None:
        """Act on what arrived together with the end of the handshake, and say HELLO."""
        self._guarded(lambda: self._records.feed(_NOTHING))
        self.loop.touch(self)
        self.loop.settle()

    # --- state others ask for -------------------------------------------------------------------------------------

    @property
    def _is_live(self) -> bool:
        return self.closed is None and self.closing is None

    @property
    def is_usable(self) -> bool:
        """Whether a stream can be opened now."""
        return self._is_live and self.session.can_open

    @property
    def remote(self) -> str:
        """`ADDR:PORT` of the other side's socket, empty when that has gone."""
        try:
            address = self._sock.getpeername()
        except OSError:
            return ""
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"

    @property
    def queued(self) -> int:
        """Bytes that wait to be written; above TUNNEL_PENDING_MAX nobody may add to them."""
        return self.backlog + self._turns.size + len(self._pending) + self._outgoing.pending

    def wait_unblocked(self, waiter: Waiter) -> None:
        """Have `unblock` called when it is this one's turn."""
        self.waiting[waiter] = None

    def has_its_share(self, waiter: Waiter, stream_id: int) -> bool:
        """Whether this stream has enough waiting on a slow tunnel; the waiter is told when that has gone out."""
        if self.share == limits.SHARE_MAX or self.queued <= self.share:
            return False
        self._take_turns()
        if self._turns.waiting(stream_id) < self.share:
            return False
        self._in_turn[stream_id] = waiter
        return True

    def hold(self, size: int) -> bool:
        """Count `size` more (or, negative, fewer) bytes that wait for a slow reader; False when that is too many."""
        self.buffered += size
        self.loop.buffered += size
        return self.buffered <= limits.TUNNEL_BUFFERED_MAX and self.loop.buffered <= limits.PROCESS_BUFFERED_MAX

    # --- writing --------------------------------------------------------------------------------------------------

    def send_large(self, frame: memoryview) -> None:
        """Encrypt a whole frame from the caller's buffer now, or keep a copy; the buffer may be reused on return."""
        if self._pending or self._turns.size or self.backlog + self._outgoing.pending + len(frame) > self.share:
            self.session.out.append(bytes(frame))
            self.backlog += len(frame)
        else:
            self._encrypt()
            self._tls.write(frame)
        self.loop.touch(self)

    def _take_turns(self) -> None:
        self._turns.add(self.session.out)
        self.session.out.clear()
        self.backlog = 0

    def _encrypt(self) -> None:
        session = self.session
        out = session.out
        if self._turns.size or self.backlog > self.share:
            self._take_turns()
            out, served = self._turns.take(self.share)
            for stream_id in served:
                if stream_id in self._in_turn and self._turns.waiting(stream_id) < self.share:
                    self._called[self._in_turn.pop(stream_id)] = None
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
        if self._late:
            self._take_late_opens()
        while True:
            if not self._pending:
                self._encrypt()
                if not self._outgoing.pending:
                    break
                self._pending = memoryview(self._outgoing.read())
            try:
                sent = self._sock.send(self._pending, self._pace.flags)
            except BlockingIOError:
                sent = 0
            except OSError as exc:
                self._hear_out()
                self._broken(exc)
                return
            self.bytes_out += sent
            if sent < len(self._pending):
                self._pending = self._pending[sent:]
                self._watch(READ | WRITE)
                break
            self._pending = _NOTHING
            if not (self.session.out or self.session.urgent or self._turns.size):
                break  # that was all, as nearly always
        if self._pace.is_due(self.loop.now, self.bytes_out):
            self._look_at_pace(self.loop.now)
        if self._called:
            called, self._called = self._called, {}
            for waiter in called:
                waiter.unblock()
        if self._pending:
            return
        self._watch(READ)
        if self.closing is not None:
            self._end(self.closing)
        elif self.waiting:
            self._unblock_some()

    def _unblock_some(self) -> None:
        """Only as many as fit; the next ones follow when these have been written. All at once, those whose events come
        first would fill the tunnel each time, and the others wait until these have no more to say."""
        left = _TURNS_GIVEN
        while self.waiting and left > 0:
            waiter = next(iter(self.waiting))
            del self.waiting[waiter]
            left -= waiter.unblock()
        if self.waiting:
            self.loop.touch_next(self)

    def _look_at_pace(self, now: float) -> None:
        self._pace.look(now, self.bytes_out, full=bool(self._pending))
        self.share = self._pace.share

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
            self._gone("the peer closed the tunnel")
        except ssl.SSLError as exc:
            self._end(explain_tls_error(exc))
        except PeerError as exc:
            self._end(exc.what)

    def _read(self) -> None:
        if len(self._late) > limits.OPENS_LATE_MAX:
            return  # it has sent enough for now; the turns go on without waiting until there is room
        try:
            size = self._sock.recv_into(_RAW_VIEW[: self._read_size])
        except BlockingIOError:
            return
        except OSError as exc:
            self._broken(exc)
            return
        if size == 0:
            self._gone("the peer closed the connection")
            return
        session = self.session
        self.bytes_in += size
        session.now = session.last_heard = self.loop.now
        if self.closing is not None:
            return
        if not self._late:
            self._opens_left = limits.OPENS_PER_TURN
        opens = session.opens
        self._records.feed(_RAW_VIEW[:size])
        if session.opens - opens > limits.OPENS_PER_READ:
            self._read_size = _READ_SMALL
        elif size == self._read_size:
            self._read_size = min(2 * size, len(_RAW_VIEW))
        if len(session.out) > limits.ANSWERS_MAX:
            raise PeerError("the peer does not read what it is sent")
        if session.out or session.urgent or self._late or self._outgoing.pending:  # OpenSSL may have answered too
            self.loop.touch(self)

    def _hear_out(self) -> None:
        """The peer takes nothing more. What it said before that may lie unread, and tells more than our error does."""
        for _ in range(_LAST_READS):
            before = self.bytes_in
            self._guarded(self._read)
            if self.closed is not None or self.bytes_in == before:
                return

    def _receive(self, buffer: memoryview, end: int) -> int:
        return self.session.receive(buffer, end) if self._is_live else end

    # --- the session's handler ------------------------------------------------------------------------------------

    def on_hello(self, hello: Hello) -> None:
        pass

    def on_accepted(self) -> None:
        if self.session.is_up and self._is_live:
            self.owner.tunnel_up(self)

    def on_refused(self, reason: Reason) -> None:
        self._end(f"the peer refused the tunnel: {_said(reason)}")

    def on_open(self, stream: Stream, wish: Open) -> None:
        if not self._is_live:
            return  # it ended earlier in this very read: nobody is interested in an answer any more
        self.last_used = self.loop.now
        if self._opens_left > 0:
            self._opens_left -= 1
            self._take_open(stream, wish)
        else:
            self._late.append(LateOpen(stream, wish))
            self._late_at = self.loop.now

    def _take_open(self, stream: Stream, wish: Open) -> None:
        self.owner.tunnel_open(self, stream, wish)

    def _take_late(self, late: LateOpen, stream: Stream, wish: Open) -> None:
        stream.sink = None
        self._take_open(stream, wish)
        late.replay()

    def _take_late_opens(self) -> None:
        """Those that waited, as many as one turn takes; a turn may write more than once."""
        if self._late_at == self.loop.now:
            self.loop.touch_next(self)
            return
        self._late_at = self.loop.now
        self._opens_left = limits.OPENS_PER_TURN
        while self._late and self._opens_left > 0 and self._is_live:
            late = self._late.popleft()
            if not late.is_over:
                self._opens_left -= 1
                self.session.opened_late(late.stream, late.wish, partial(self._take_late, late))
        if self._late:
            self.loop.touch_next(self)

    def on_goaway(self, reason: Reason) -> None:
        self.owner.tunnel_goaway(self, reason)

    def on_crash(self, error: BaseException) -> None:
        self.loop.count_crash(error)

    # --- ending ---------------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """We are satisfied with the peer."""
        if not self._is_live:
            return
        self.session.accept_tunnel()
        self.loop.touch(self)
        if self.session.is_up:
            self.owner.tunnel_up(self)

    def refuse(self, code: Code, reason: str) -> None:
        """We are not: tell it why and close."""
        if self._is_live:
            self.session.refuse_tunnel(code, reason)
            self._close_after_flush(reason)

    def close(self, code: Code, reason: str) -> None:
        """End the tunnel and every stream on it, telling the peer why."""
        if self._is_live:
            self.session.goaway(code, reason)
            self._close_after_flush(reason)
            self.session.abandon(code)

    def _close_after_flush(self, reason: str) -> None:
        self.closing = reason
        self._closing_at = self.loop.now
        self.loop.touch(self)

    def tick(self, now: float) -> None:
        """Called about once a second, with the time as Loop.now counts it: heartbeats, and an end to peers that went
        silent or do not take our goodbye."""
        if self.closed is not None:
            return
        if self._pending and self._pace.is_due(now, self.bytes_out):
            self._look_at_pace(now)  # a link that has become slow does not call by itself for long
        heard = self.session.last_heard
        if self.closing is not None:
            if now - self._closing_at > limits.HEARTBEAT_INTERVAL:
                self._end(self.closing)
        elif now - max(heard, self._pinged_at) > limits.HEARTBEAT_INTERVAL:
            self._unanswered = self._unanswered + 1 if self._pinged_at > heard else 0
            if self._unanswered >= _PINGS_UNANSWERED:
                self._reset_at_close()
                self._end(f"the peer has been silent for {now - heard:.0f} s")
                return
            self._pinged_at = now
            self.session.ping()
            self.loop.touch(self)

    def crashed(self, error: BaseException) -> None:
        self._end(f"internal error: {type(error).__name__}")

    def _broken(self, error: OSError) -> None:
        self._end(f"the connection broke: {error.strerror}")

    def _gone(self, how: str) -> None:
        """The connection ended in an orderly way, perhaps after the peer said why."""
        goodbye = self.session.goaway_received
        if goodbye is not None:
            self._end(f"{how}: {_said(goodbye)}", goodbye.code or Code.ABORTED)
        else:
            self._end(how)

    def _reset_at_close(self) -> None:
        """A FIN waits behind what was never acknowledged, a RST does not: a peer whose words are lost on their way to
        us, and that still hears us, knows at once (F12)."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _end(self, reason: str, code: int = Code.ABORTED) -> None:
        if self.closed is not None:
            return
        self.closed = self.closing or reason
        self.loop.unregister(self._fd)
        if not self._pending:  # else the peer is in the middle of a record
            with contextlib.suppress(OSError):
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                self._sock.send(self._outgoing.read())
        self._sock.close()
        for waiters in (self.waiting, self._called, self._in_turn):
            waiters.clear()
        self._late.clear()
        self.session.abandon(code)
        self.owner.tunnel_closed(self, self.closed)


def _said(reason: Reason) -> str:
    return f"{code_word(reason.code)}, {shown(reason.reason)}" if reason.reason else code_word(reason.code)
