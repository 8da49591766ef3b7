"""I/O: a backend that falls over when more connections than it takes are open at once, as a process that prints two
ports: its own, and one at which it says what it saw.

    python -m tests.support.fragile --most 20 [--work SECONDS]

It answers a line after `work` seconds and closes; after the line `hold` it waits for the other side to close. With one
connection too many it resets all that it has, and counts that. It sees every end before the next beginning, so it never
counts a connection whose end had arrived.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

_RESET = struct.pack("ii", 1, 0)


@dataclass
class Seen:
    most: int = 0
    """Open at once."""
    falls: int = 0
    begun: list[float] = field(default_factory=list)
    """When each connection came (monotonic)."""


class Fragile:
    def __init__(self, most: int, work: float) -> None:
        self._most = most
        self._work = work
        self._selector = selectors.DefaultSelector()
        self._listener = _listening(self._selector)
        self._asked = _listening(self._selector)
        self._open: dict[socket.socket, float | None] = {}
        """When each is answered; None: not yet known, or never."""
        self._seen = Seen()

    def run(self) -> None:
        print(*(sock.getsockname()[1] for sock in (self._listener, self._asked)), flush=True)
        while True:
            due = min((at for at in self._open.values() if at is not None), default=None)
            ready = self._selector.select(None if due is None else max(0.0, due - time.monotonic()))
            socks = [key.fileobj for key, _ in ready]
            for sock in socks:
                if isinstance(sock, socket.socket) and sock in self._open:
                    self._heard(sock)
            for sock in [sock for sock, at in self._open.items() if at is not None and at <= time.monotonic()]:
                self._answer(sock)
            if self._listener in socks:
                self._accept()  # one only: the next look shows what ended meanwhile
            if self._asked in socks:
                self._tell()

    def _heard(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1024)
        except OSError:
            data = b""
        if not data:
            self._close(sock)
        elif not data.startswith(b"hold"):
            self._open[sock] = time.monotonic() + self._work

    def _answer(self, sock: socket.socket) -> None:
        try:
            sock.sendall(b"done\n")
        except OSError:
            pass
        self._close(sock)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        self._seen.begun.append(time.monotonic())
        self._open[sock] = None
        self._selector.register(sock, selectors.EVENT_READ)
        self._seen.most = max(self._seen.most, len(self._open))
        if len(self._open) > self._most:
            self._seen.falls += 1
            for one in list(self._open):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._close(one)

    def _close(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._open[sock]
        sock.close()

    def _tell(self) -> None:
        sock, _ = self._asked.accept()
        with sock:
            said = {"open": len(self._open), **vars(self._seen)}
            sock.sendall(json.dumps(said).encode())


def _listening(selector: selectors.BaseSelector) -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    selector.register(sock, selectors.EVENT_READ)
    return sock


def seen(port: int) -> dict[str, Any]:
    """What the process with this second port saw so far."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        return dict(json.loads(b"".join(iter(lambda: sock.recv(65536), b""))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, required=True)
    parser.add_argument("--work", type=float, default=0.05)
    options = parser.parse_args()
    Fragile(options.most, options.work).run()


if __name__ == "__main__":
    sys.exit(main())
