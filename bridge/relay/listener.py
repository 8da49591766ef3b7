"""I/O: a listening socket in the relay loop. Accepts in batches; what to do with a connection is its owner's affair."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from bridge.relay.loop import READ, Loop

_BATCH = 64
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """Calls `accepted(connection, peer address)` for every connection, with the connection already non-blocking.

    When descriptors run out, or `may_accept` says so, it pauses: connections wait in the kernel's queue and those that
    exist are not disturbed (F29). `resume` is called by whoever notices that there is room again.
    """

    def __init__(
        self, loop: Loop, sock: socket.socket, accepted: Callable[[socket.socket, object], None],
        may_accept: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._sock = sock
        self._accepted = accepted
        self._may_accept = may_accept
        self.paused = False
        sock.setblocking(False)
        loop.register(sock.fileno(), self, READ)

    def ready(self, events: int) -> None:
        for _ in range(_BATCH):
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
            if self._sock.fileno() < 0:  # the owner closed us while it took the connection
                return

    def _pause(self) -> None:
        self.paused = True
        self._loop.modify(self._sock.fileno(), 0)

    def resume(self) -> None:
        if self.paused and self._may_accept():
            self.paused = False
            self._loop.modify(self._sock.fileno(), READ)

    def crashed(self, error: BaseException) -> None:
        """One connection could not be handled and was closed; the listener goes on."""

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self.paused = False
            self._loop.unregister(self._sock.fileno())
            self._sock.close()
