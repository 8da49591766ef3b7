"""I/O: a listening socket in the relay loop. Accepts in batches; what to do with a connection is its owner's affair."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from bridge.relay.loop import READ, Loop

_BATCH = 64
_LATE_BATCH = 2
"""Connections to take after nobody else did: more would undo the spread when the others were only slow to wake."""
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Calls `accepted(connection, peer address)` for every connection, with the connection already non-blocking.

    When descriptors run out, or `may_accept` says so, it pauses: connections wait in the kernel's queue and those that
    exist are not disturbed (F29). `resume` is called by whoever notices that there is room again.

    Args:
        is_ahead: whether other processes that wait on the same socket should take the next connection. If so this one
            steps back and tells `stepped_back`, which has `take_late` called a little later.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, accepted: Callable[[socket.socket, object], None],
        may_accept: Callable[[], bool],
        is_ahead: Callable[[], bool] = lambda: False,
        stepped_back: Callable[[Listener], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._may_accept = may_accept
        self._is_ahead = is_ahead
        self._stepped_back = stepped_back
        self.paused = False
        self._back = False
        sock.setblocking(False)
        loop.register(sock.fileno(), self, READ)

    def ready(self, events: int) -> None:
        # Asked only now, when there is a connection: one that is ahead and has nothing to take sleeps.
        if self._back:
            return
        if self._is_ahead():
            self._back = True
            self._loop.modify(self._sock.fileno(), 0)
            self._stepped_back(self)
            return
        self._take(_BATCH)

    def take_late(self) -> None:
        """The others have had their time: take a few of what is still waiting, and wait with them again."""
        if self._back and not self.closed:
            self._back = False
            self._loop.modify(self._sock.fileno(), READ)
            self._take(_LATE_BATCH, ahead=True)

    def _take(self, most: int, *, ahead: bool = False) -> None:
        for number in range(most):
            if number and not ahead and self._is_ahead():
                return  # not gone from the loop: if there is more, it calls again
            if not self._may_accept():
                self._pause()
                return
            try:
                connection, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _FULL:
                    self._pause()
                    return
                continue  # the client went away between its connect and our accept
            try:
                connection.setblocking(False)
                self._accepted(connection, address)
            except BaseException:
                connection.close()
                raise
            if self.closed:  # the owner closed us while it took the connection
                return

    def _pause(self) -> None:
        self.paused = True
        self._loop.modify(self._sock.fileno(), 0)

    def resume(self) -> None:
        if self.paused and self._may_accept():
            self.paused = False
            self._loop.modify(self._sock.fileno(), READ)

    @property
    def closed(self) -> bool:
        return self._sock.fileno() < 0

    def crashed(self, error: BaseException) -> None:
        """One connection could not be handled and was closed; the listener goes on."""

    def close(self) -> None:
        if not self.closed:
            self.paused = False
            self._loop.unregister(self._sock.fileno())
            self._sock.close()
