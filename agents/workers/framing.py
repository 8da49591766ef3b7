"""I/O: (it reads nothing itself) how messages and descriptors lie in what came over a unix socket of ours."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Iterable

LENGTH = struct.Struct(">I")
"""Before the body of each message."""


def descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came along, as recvmsg(2) gives them. They are open: the caller owns them."""
    came = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            came.frombytes(payload[: len(payload) - len(payload) % came.itemsize])
    return list(came)


def take_body(buffer: bytearray) -> bytes | None:
    """The body of the first message, taken out of the buffer; None as long as it is not whole."""
    if len(buffer) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack_from(buffer)
    end = LENGTH.size + size
    if len(buffer) < end:
        return None
    body = bytes(buffer[LENGTH.size : end])
    del buffer[:end]
    return body
