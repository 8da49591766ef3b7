"""I/O: the two ends of many connections that do nothing, each a process of its own (each holds that many descriptors).

python -m tests.bench.loads.idle_ends server    prints the port it listens on; sends back what it gets
python -m tests.bench.loads.idle_ends client    obeys:

open N HOST PORT    N connections, each proved by one byte there and back, and then held
close               close them all
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from collections.abc import Sequence

_BATCH = 64
_TIMEOUT = 20.0
"""For one batch, all of it."""


class Client:
    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def open(self, number: int, host: str, port: int) -> str:
        while len(self._held) < number:
            batch = [socket.socket() for _ in range(min(_BATCH, number - len(self._held)))]
            self._held += batch
            for sock in batch:
                sock.settimeout(_TIMEOUT)
                sock.connect((host, port))
                sock.sendall(b"?")
            for sock in batch:
                if sock.recv(1) != b"?":
                    raise ConnectionError("the connection ended instead of answering")
        return "ok"

    def close(self) -> str:
        for sock in self._held:
            sock.close()
        self._held = []
        return "ok"


def obey(client: Client, words: Sequence[str]) -> str:
    match words:
        case ["open", number, host, port]:
            return client.open(int(number), host, int(port))
        case ["close"]:
            return client.close()
        case _:
            return f"unknown: {words}"


def run_client() -> None:
    client = Client()
    for line in sys.stdin:
        try:
            answer = obey(client, line.split())
        except OSError as exc:
            client.close()
            answer = f"failed: {exc}"
        print(answer, flush=True)


def run_server() -> None:
    """Until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    poller = select.epoll()
    poller.register(listener.fileno(), select.EPOLLIN)
    poller.register(sys.stdin.fileno(), select.EPOLLIN | select.EPOLLHUP)
    held: dict[int, socket.socket] = {}
    while True:
        for fd, _events in poller.poll():
            if fd == sys.stdin.fileno():
                return
            if fd == listener.fileno():
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _address = listener.accept()
                        sock.setblocking(False)
                        held[sock.fileno()] = sock
                        poller.register(sock.fileno(), select.EPOLLIN)
            elif not echo(held[fd]):
                poller.unregister(fd)
                held.pop(fd).close()


def echo(sock: socket.socket) -> bool:
    try:
        data = sock.recv(4096)
        return bool(data) and sock.send(data) == len(data)
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    if sys.argv[1:] == ["server"]:
        run_server()
    else:
        run_client()
