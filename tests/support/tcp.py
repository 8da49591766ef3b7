"""I/O: TCP connections over loopback, both ends in hand."""

from __future__ import annotations

import socket
import struct


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair, both ends non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        left = socket.create_connection(door.getsockname())
        right, _ = door.accept()
    for sock in (left, right):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return left, right


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
