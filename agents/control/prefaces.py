"""I/O: what a guest says first, in clear, at a gateway's one port: a line that says what it came for."""

from __future__ import annotations

import socket

import trio

from bridge import limits
from bridge.errors import PeerError

PREFACE_RELAY = b"MBR1 "
PREFACE_ENROL = b"MBE1\n"


async def peek_preface(sock: socket.socket) -> bytes:
    """The first line, left unread: what follows it belongs to TLS. Raises PeerError."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            seen = sock.recv(limits.PREFACE_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        except OSError as exc:
            raise PeerError(f"the connection broke: {exc.strerror}") from None
        end = seen.find(b"\n") + 1
        if end:
            return seen[:end]
        if not seen or len(seen) >= limits.PREFACE_MAX:
            raise PeerError("the preface is not a line")
        # Readable stays true while bytes are left unread: wait for more of them, not for the same ones.
        await trio.sleep(limits.PREFACE_POLL)
