"""Pure: /proc/net/tcp and /proc/net/tcp6 (proc(5)) read as the sockets they list."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterator

from agents.discovery.sockets import End, Look, Socket, State, gathered, parse_address
from bridge.socket_rows import Row, parse_row

_STATES: dict[bytes, State] = {
    b"0A": "listening",
    b"02": "asking",
    **dict.fromkeys((b"03", b"0C"), "answering"),
    **dict.fromkeys((b"01", b"04", b"05", b"06", b"08", b"09", b"0B"), "open"),
}
"""TCP_LISTEN, TCP_SYN_SENT and so on (include/net/tcp_states.h); 07 is a socket that is not connected."""


def read_proc(tables: bytes, program: Callable[[int], str] = lambda inode: "") -> Look:
    """The text of one of the two files, or of both, one after the other.

    Args:
        program: what holds the socket with this inode; empty when that is not known.
    """
    return gathered(_sockets(tables, program))


def inodes(tables: bytes) -> set[int]:
    """Of the sockets that somebody may hold."""
    return {row.inode for row in _rows(tables) if row.inode and row.state in _STATES}


def _rows(tables: bytes) -> Iterator[Row]:
    return (row for line in tables.splitlines() if (row := parse_row(line)) is not None)


def _sockets(tables: bytes, program: Callable[[int], str]) -> Iterator[Socket | None]:
    for row in _rows(tables):
        state, own, other = _STATES.get(row.state), _end(row.own), _end(row.other)
        if state is None or own is None or other is None or not own.port:
            continue
        if state == "listening":
            yield Socket(state, own, None, program(row.inode))
        elif other.port:
            yield Socket(state, own, other, program(row.inode))


def _end(text: bytes) -> End | None:
    """An end as the kernel writes it, in hex: 32-bit words of the address in the machine's own byte order, the port."""
    address, _, port = text.partition(b":")
    try:
        packed = b"".join(int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
        literal = parse_address(str(ipaddress.ip_address(packed)))
        number = int(port, 16)
    except (ValueError, OverflowError):
        return None
    return End(literal, number) if literal is not None and 0 <= number < 65536 else None
