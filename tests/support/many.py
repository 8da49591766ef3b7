"""I/O: a client that holds many connections open at once and shows that each of them lives; a process of its own.

    python -m tests.support.many HOST PORT COUNT

Every connection says its number and wants it back from a `hold` server. Then, for each line on stdin, all of them are
asked again. Prints `open N SECONDS` once all are, and `alive N SECONDS` for each line.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import time

AT_ONCE = 200
"""Connections begun and not yet greeted: listen queues are finite everywhere."""


class Many:
    def __init__(self, place: tuple[str, int], count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._place = place
        self._count = count
        self._said: dict[socket.socket, bytes] = {}
        self._numbers: dict[socket.socket, int] = {}

    def open(self) -> None:
        """Connect all, and wait for each one's greeting."""
        greeted = 0
        begun = 0
        while greeted < self._count:
            while begun < self._count and begun - greeted < AT_ONCE:
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(self._place)
                self._selector.register(sock, selectors.EVENT_READ)
                self._numbers[sock] = begun
                self._said[sock] = b""
                begun += 1
            greeted += len(self._lines())

    def ask(self) -> int:
        """Have every connection send its number and wait for it; how many were answered rightly."""
        for sock, number in self._numbers.items():
            sock.sendall(b"%d\n" % number)
        right = answered = 0
        while answered < self._count:
            for sock, line in self._lines():
                answered += 1
                right += line == b"held: %d\n" % self._numbers[sock]
        return right

    def _lines(self) -> list[tuple[socket.socket, bytes]]:
        """Whole lines that have come, after waiting for something to come."""
        found = []
        for key, _ in self._selector.select(30) or _too_long():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            data = sock.recv(4096)
            if not data:
                raise SystemExit(f"connection {self._numbers[sock]} ended")
            said = self._said[sock] + data
            if said.endswith(b"\n"):
                found.append((sock, said))
                said = b""
            self._said[sock] = said
        return found


def _too_long() -> list[tuple[selectors.SelectorKey, int]]:
    raise SystemExit("nothing has come for 30 s")


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = Many((sys.argv[1], int(sys.argv[2])), int(sys.argv[3]))
    began = time.monotonic()
    many.open()
    print(f"open {sys.argv[3]} {time.monotonic() - began:.2f}", flush=True)
    for _ in sys.stdin:
        began = time.monotonic()
        print(f"alive {many.ask()} {time.monotonic() - began:.2f}", flush=True)


if __name__ == "__main__":
    main()
