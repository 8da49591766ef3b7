"""I/O: both ends of bulk transfers in one process of their own, made to be no bottleneck.

    python -m tests.bench.loads.bulk_ends       prints the port it listens on, then obeys:

    start up|down STREAMS HOST PORT     connect STREAMS times to HOST:PORT (a way back to our own port), move bytes
    count                               bytes that have arrived so far
    stop                                end all streams

The sender lets the kernel send one page-cached file again and again (sendfile); the receiver has the kernel drop the
bytes (MSG_TRUNC): neither copies anything in this process.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import threading
from collections.abc import Sequence

_CHUNK = 1024 * 1024
_CONNECT_TIMEOUT = 10.0
_TOKEN = 16
"""Bytes with which a client says which transfer it belongs to."""


class Ends:
    """The streams of one transfer at a time; a thread for each end of each stream."""

    def __init__(self) -> None:
        self._file = os.memfd_create("bulk")
        os.write(self._file, random.randbytes(_CHUNK))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._counts: list[int] = []

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def start(self, direction: str, streams: int, host: str, port: int) -> str:
        for _ in range(streams):
            client = socket.create_connection((host, port), _CONNECT_TIMEOUT)
            token = random.randbytes(_TOKEN)
            client.sendall(token)
            server = self._accept(token)
            for sock in (client, server):
                sock.settimeout(None)
                self._sockets.append(sock)
            sender, receiver = (client, server) if direction == "up" else (server, client)
            self._counts.append(0)
            self._run(self._receive, receiver, len(self._counts) - 1)
            self._run(self._send, sender, 0)
        return "ok"

    def _accept(self, token: bytes) -> socket.socket:
        """The other end of the client that sent `token`; connections that send none are somebody's health checks."""
        self._listener.settimeout(_CONNECT_TIMEOUT)
        while True:
            server, _address = self._listener.accept()
            server.settimeout(_CONNECT_TIMEOUT)
            with contextlib.suppress(OSError):
                if server.recv(_TOKEN, socket.MSG_WAITALL) == token:
                    return server
            server.close()

    def count(self) -> str:
        return str(sum(self._counts))

    def stop(self) -> str:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
        self._sockets, self._threads, self._counts = [], [], []
        return "ok"

    def _run(self, work: object, sock: socket.socket, number: int) -> None:
        thread = threading.Thread(target=work, args=(sock, number), daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _receive(self, sock: socket.socket, number: int) -> None:
        buffer = bytearray(_CHUNK)
        with contextlib.suppress(OSError):
            while size := sock.recv_into(buffer, _CHUNK, socket.MSG_TRUNC):
                self._counts[number] += size

    def _send(self, sock: socket.socket, _number: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                os.sendfile(sock.fileno(), self._file, 0, _CHUNK)


def obey(ends: Ends, words: Sequence[str]) -> str:
    match words:
        case ["start", direction, streams, host, port]:
            return ends.start(direction, int(streams), host, int(port))
        case ["count"]:
            return ends.count()
        case ["stop"]:
            return ends.stop()
        case _:
            return f"unknown: {words}"


def main() -> None:
    ends = Ends()
    print(ends.port, flush=True)
    for line in sys.stdin:
        try:
            answer = obey(ends, line.split())
        except OSError as exc:
            ends.stop()
            answer = f"failed: {exc}"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
