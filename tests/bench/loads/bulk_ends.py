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
import queue
import random
import socket
import sys
import threading
from collections.abc import Sequence

_CHUNK = 1024 * 1024
_TIMEOUT = 10.0
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
        self._arrived: queue.Queue[tuple[bytes, socket.socket]] = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def start(self, direction: str, streams: int, host: str, port: int) -> str:
        for _ in range(streams):
            client = socket.create_connection((host, port), _TIMEOUT)
            token = random.randbytes(_TOKEN)
            client.sendall(token)
            server = self._wait_for(token)
            for sock in (client, server):
                sock.settimeout(None)
                self._sockets.append(sock)
            sender, receiver = (client, server) if direction == "up" else (server, client)
            self._counts.append(0)
            self._run(self._receive, receiver, len(self._counts) - 1)
            self._run(self._send, sender, 0)
        return "ok"

    def _wait_for(self, token: bytes) -> socket.socket:
        """The other end of the client that sent `token`. Raises queue.Empty when it does not arrive."""
        while True:
            arrived, server = self._arrived.get(timeout=_TIMEOUT)
            if arrived == token:
                return server
            server.close()

    def _accept(self) -> None:
        """Always, so that connections which never say anything (health checks) do not fill the kernel's queue."""
        while True:
            server, _address = self._listener.accept()
            server.settimeout(_TIMEOUT)
            try:
                token = server.recv(_TOKEN, socket.MSG_WAITALL)
            except OSError:
                token = b""
            if len(token) == _TOKEN:
                self._arrived.put((token, server))
            else:
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
        except (OSError, queue.Empty) as exc:
            ends.stop()
            answer = f"failed: {exc or 'a stream did not arrive'}"
        print(answer, flush=True)


if __name__ == "__main__":
    main()
