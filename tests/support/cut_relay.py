"""I/O: a cable to one TCP port that a test can pull and plug in again, and that counts HTTP requests that passed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_PATIENCE = 5.0
_READ = 64 * 1024
_REQUEST = b" HTTP/1.1\r\n"
"""Once in each request; in none of the bodies that ours have, which are JSON and base64."""


class CutRelay:
    """Listens on a port of 127.0.0.1 and passes connections on to `target`, a thread per direction."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.port = port
        self.requests = 0
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.mend()

    def mend(self) -> None:
        self._start(self._accept, socket.create_server(("127.0.0.1", self.port), backlog=1024))

    def cut(self) -> None:
        """Every connection is gone, and there is nobody to connect to."""
        while self._threads:
            with self._lock:
                for sock in self._open:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            self._threads.pop().join(_PATIENCE)

    def _start(self, work: Callable[..., None], *sockets: socket.socket) -> None:
        """In a thread that owns the sockets."""

        def run() -> None:
            try:
                work(*sockets)
            finally:
                with self._lock:
                    self._open.difference_update(sockets)
                for sock in sockets:
                    sock.close()

        with self._lock:
            self._open.update(sockets)
        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(self._target, timeout=_PATIENCE)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._start(self._carry, near, far)

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=_copy, args=(far, near, lambda _: None), daemon=True)
        back.start()
        _copy(near, far, self._counter())
        back.join()

    def _counter(self) -> Callable[[bytes], None]:
        tail = b""

        def count(data: bytes) -> None:
            nonlocal tail
            text = tail + data
            with self._lock:
                self.requests += text.count(_REQUEST)
            tail = text[-len(_REQUEST) + 1 :]

        return count

    def __enter__(self) -> CutRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()


def _copy(source: socket.socket, sink: socket.socket, seen: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_READ):
            seen(data)
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
