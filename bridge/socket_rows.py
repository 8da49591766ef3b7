"""Pure: lines of /proc/net/tcp and its kin (proc(5))."""

from __future__ import annotations

import sys
from typing import NamedTuple


class Row(NamedTuple):
    """What we use of one line of /proc/net/tcp and its kin. Ends are as the kernel writes them: hex `ADDR:PORT`."""

    own: bytes
    other: bytes
    state: bytes
    uid: int
    inode: int


def hex_address(packed: bytes) -> bytes:
    """4 or 16 bytes of an address as these files have it: 32-bit words in the machine's own byte order."""
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return b"".join(b"%08X" % int.from_bytes(word, sys.byteorder) for word in words)


def hex_end(packed: bytes, port: int) -> bytes:
    return b"%s:%04X" % (hex_address(packed), port)


def parse_row(line: bytes) -> Row | None:
    """One line; None for the heading and for anything else that is not a socket."""
    fields = line.split()
    if len(fields) < 10 or not fields[7].isdigit() or not fields[9].isdigit():
        return None
    return Row(fields[1], fields[2], fields[3], int(fields[7]), int(fields[9]))
