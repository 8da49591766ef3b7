"""I/O: a gateway's part in a path: two sockets joined in the kernel by splice(2).

The bytes go from socket to pipe to socket without ever being in this process's memory; they are the ciphertext of a
tunnel between the two ends in any case. Each direction ends on its own; a broken one ends both.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable

from bridge import limits
from bridge.relay.loop import ERROR, HANGUP, READ, WRITE, Loop

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_MOVES_PER_TURN = 4


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
        for _ in range(_MOVES_PER_TURN):
            if not self.held and not self.eof:
                try:
                    self.held = os.splice(self.source.fileno(), self.writer, limits.SPLICE_CHUNK, flags=_FLAGS)
                except BlockingIOError:
                    return
                self.eof = self.held == 0
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

    __slots__ = ("mask", "sock", "splice")

    def __init__(self, splice: Splice, sock: socket.socket) -> None:
        self.splice = splice
        self.sock = sock
        self.mask = READ

    def ready(self, events: int) -> None:
        self.splice.ready(events)

    def crashed(self, error: BaseException) -> None:
        self.splice.close(f"internal error: {type(error).__name__}")


class Splice:
    """Joins `a` and `b` until both directions have ended; `on_end(splice, reason)` is called once."""

    def __init__(self, loop: Loop, a: socket.socket, b: socket.socket, on_end: Callable[[Splice, str], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._closed = False
        self._ways = (_Way(a, b), _Way(b, a))
        self._ends = (_End(self, a), _End(self, b))
        for end in self._ends:
            end.sock.setblocking(False)
            loop.register(end.sock.fileno(), end, READ)

    @property
    def moved(self) -> int:
        """Bytes carried so far, both directions."""
        return self._ways[0].moved + self._ways[1].moved

    def ready(self, events: int) -> None:
        try:
            for way in self._ways:
                way.pump()
        except OSError as exc:
            self.close(f"the connection broke: {exc.strerror}")
            return
        if self._ways[0].done and self._ways[1].done:
            self.close("")
        elif events & (ERROR | HANGUP) and not any(way.held for way in self._ways):
            self.close("the connection broke")
        else:
            self._watch()

    def _watch(self) -> None:
        for end in self._ends:
            mask = 0
            for way in self._ways:
                if way.source is end.sock and not way.held and not way.eof:
                    mask |= READ
                if way.destination is end.sock and way.held:
                    mask |= WRITE
            if mask != end.mask:
                end.mask = mask
                self._loop.modify(end.sock.fileno(), mask)

    def close(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        for end in self._ends:
            self._loop.unregister(end.sock.fileno())
            end.sock.close()
        for way in self._ways:
            way.close()
        self._on_end(self, reason)
