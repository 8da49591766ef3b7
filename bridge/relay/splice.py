"""I/O: a gateway's part in a path: two sockets joined in the kernel by splice(2).

The bytes go from socket to pipe to socket without ever being in this process's memory; they are the ciphertext of a
tunnel between the two ends in any case. Each direction ends on its own; a broken one ends both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable

from bridge import limits
from bridge.relay.loop import ERROR, HANGUP, READ, WRITE, Loop
from bridge.relay.witnessed import ended_well

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_MOVES_PER_TURN = 4
_SHORT = limits.SPLICE_CHUNK // 4
"""A read of less than this emptied the socket, most likely: asking again would cost a call to be told so."""
_OFF = -1
"""The mask of an end that is not registered."""


class _Way:
    """One direction: source socket, a pipe, destination socket."""

    __slots__ = ("destination", "done", "eof", "held", "moved", "reader", "source", "writer")

    def __init__(self, source: socket.socket, destination: socket.socket) -> None:
        self.source = source
        self.destination = destination
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # past the per-user limit the default size does as well
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, limits.SPLICE_CHUNK)
        self.held = 0
        self.eof = False
        self.done = False
        self.moved = 0

    def pump(self) -> None:
        """Move what can be moved now. Raises OSError when the connection is broken."""
        is_short = False
        for _ in range(_MOVES_PER_TURN):
            if not self.held and not self.eof:
                if is_short:
                    return  # epoll will tell
                try:
                    self.held = os.splice(self.source.fileno(), self.writer, limits.SPLICE_CHUNK, flags=_FLAGS)
                except BlockingIOError:
                    return
                self.eof = self.held == 0
                if self.eof and not ended_well(self.source):
                    raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                is_short = self.held < _SHORT
            if self.held:
                try:
                    sent = os.splice(self.reader, self.destination.fileno(), self.held, flags=_FLAGS)
                except BlockingIOError:
                    return
                self.held -= sent
                self.moved += sent
            elif self.eof:
                if not self.done:
                    self.done = True
                    self.destination.shutdown(socket.SHUT_WR)
                return

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class _End:
    """One socket's registration in the loop."""

    __slots__ = ("mask", "outward", "sock", "splice")

    def __init__(self, splice: Splice, sock: socket.socket) -> None:
        self.splice = splice
        self.sock = sock
        self.mask = _OFF
        self.outward: tuple[_Way, ...] = ()
        """The direction that begins here."""

    def ready(self, events: int) -> None:
        self.splice.ready(self, events)

    def crashed(self, error: BaseException) -> None:
        self.splice.close(f"internal error: {type(error).__name__}")


class Splice:
    """Joins `a` and `b` until both directions have ended; `on_end(splice, reason)` is called once.

    Owns both sockets from the start, also when it raises OSError because descriptors for its pipes ran out.
    """

    def __init__(self, loop: Loop, a: socket.socket, b: socket.socket, on_end: Callable[[Splice, str], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._closed = False
        self._ends = (_End(self, a), _End(self, b))
        self._ways: list[_Way] = []
        self._flows = False
        """Whether both ends are waited for to say something, and for nothing else."""
        self._moved_at = loop.now
        self._moved_seen = 0
        try:
            self._ways.append(_Way(a, b))
            self._ways.append(_Way(b, a))
        except OSError:
            self._let_go()
            raise
        for end, way in zip(self._ends, self._ways, strict=True):
            end.outward = (way,)
        for end in self._ends:
            end.sock.setblocking(False)
            if end.sock.family in (socket.AF_INET, socket.AF_INET6):
                end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    @property
    def moved(self) -> int:
        """Bytes carried so far, both directions."""
        return self._ways[0].moved + self._ways[1].moved

    @property
    def moved_each_way(self) -> tuple[int, int]:
        """Bytes from the first socket to the second, and back."""
        return self._ways[0].moved, self._ways[1].moved

    def ready(self, end: _End, events: int) -> None:
        broken: OSError | None = None
        # Both unless it is plain that only one has something to do, and both also when the first is broken: the other
        # may carry the peer's last words.
        ways = end.outward if events == READ else self._ways
        for way in ways:
            try:
                way.pump()
            except OSError as exc:
                broken = exc
        if broken is None and events == READ and self._flows and not (ways[0].held or ways[0].eof):
            return  # nothing has changed for either end: the case of nearly every event
        if broken is not None:
            self.close(f"the connection broke: {broken.strerror}")
        elif self._ways[0].done and self._ways[1].done:
            self.close("")
        elif events & ERROR:
            self.close("the connection broke")
        else:
            self._watch()
            if events & HANGUP and end.mask == 0:
                # Over in both directions, with nothing to do until the other end takes what is held: epoll would
                # report the hangup without end meanwhile, whatever the mask.
                self._loop.unregister(end.sock.fileno())
                end.mask = _OFF

    def tick(self, now: float) -> None:
        """For a path between tunnels, about once a second: close it when nothing moved for twice the time after which
        a tunnel gives up. Both ends send heartbeats, so both have vanished without a word."""
        if self.moved != self._moved_seen:
            self._moved_seen, self._moved_at = self.moved, now
        elif now - self._moved_at > 2 * limits.HEARTBEAT_INTERVAL * limits.HEARTBEAT_MISSES:
            self.close("both ends have been silent")

    def _watch(self) -> None:
        for end in self._ends:
            mask = 0
            for way in self._ways:
                if way.source is end.sock and not way.held and not way.eof:
                    mask |= READ
                if way.destination is end.sock and way.held:
                    mask |= WRITE
            if end.mask == _OFF:
                if mask:
                    self._loop.register(end.sock.fileno(), end, mask)
                    end.mask = mask
            elif mask != end.mask:
                self._loop.modify(end.sock.fileno(), mask)
                end.mask = mask
        self._flows = self._ends[0].mask == self._ends[1].mask == READ

    def close(self, reason: str) -> None:
        if not self._closed:
            self._let_go()
            self._on_end(self, reason)

    def _let_go(self) -> None:
        self._closed = True
        for end in self._ends:
            self._loop.unregister(end.sock.fileno())
            end.sock.close()
        for way in self._ways:
            way.close()
