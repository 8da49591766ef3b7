"""I/O: both ends of the load that goes through ssh: bulk by two threads, requests and connections by one epoll loop.

wrk does not speak the line that asks the ssh worker for a channel, so the near end is ours; it is the same for all.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable

Connect = Callable[[str], socket.socket]
"""A connected socket that leads to a target, ADDR:PORT."""

_CHUNK = 1 << 20
_BODY = bytes(256)
_PATIENCE = 60.0


class Target:
    """A listening socket next to sshd."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"


def bulk(connect: Connect, target: Target, *, up: bool, size: int) -> float:
    """Bytes per second of one transfer, from the first byte sent to the last that arrived."""
    near = connect(target.address)
    near.settimeout(_PATIENCE)
    far, _address = target.listener.accept()
    source, sink = (near, far) if up else (far, near)

    def send() -> None:
        data, left = bytes(_CHUNK), size
        while left > 0:
            source.sendall(data)
            left -= _CHUNK

    sender = threading.Thread(target=send)
    began, left, buffer = time.perf_counter(), size, bytearray(_CHUNK)
    sender.start()
    while left > 0:
        count = sink.recv_into(buffer)
        if not count:
            raise OSError("the transfer ended early")
        left -= count
    took = time.perf_counter() - began
    sender.join()
    near.close()
    far.close()
    return size / took


def requests(connect: Connect, target: Target, *, connections: int, seconds: float) -> float:
    """Requests and answers of 256 bytes per second, each connection with one at a time."""
    near = [connect(target.address) for _ in range(connections)]
    far = [target.listener.accept()[0] for _ in near]
    poll = select.epoll()
    socks = {sock.fileno(): sock for sock in (*near, *far)}
    is_near = {sock.fileno() for sock in near}
    for sock in socks.values():
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(sock, select.EPOLLIN)
    done = 0
    for sock in near:
        sock.send(_BODY)
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for fd, _events in poll.poll(1.0):
            sock = socks[fd]
            if not sock.recv(4096):
                raise OSError("a connection ended early")
            sock.send(_BODY)
            done += fd in is_near
    poll.close()
    for sock in socks.values():
        sock.close()
    return done / took


def opened(connect: Connect, target: Target, *, seconds: float) -> float:
    """Connections per second that are opened, used for one request and closed, one after the other."""
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        with connect(target.address) as near:
            near.sendall(_BODY)
            with target.listener.accept()[0] as far:
                far.sendall(far.recv(4096))
            near.recv(4096)
        done += 1
    return done / took
