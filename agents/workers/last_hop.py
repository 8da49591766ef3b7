"""I/O: a data worker asks its gateway's ssh worker for a channel to a target of an agentless host.

One line of JSON each way on a unix socket, then the stream's bytes: from there on it is a socket like any other. One
attempt, under the caller's deadline.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from pathlib import Path

import msgspec
import trio

from agents.admin.wire import socket_address
from agents.workers.framing import descriptors_in
from agents.workers.ssh_messages import ChannelAnswer, ChannelAsked
from bridge import limits
from bridge.lines import plain
from bridge.relay.witnessed import WitnessedSocket
from bridge.tunnels.frames import Code
from inventory.errors import InputError, Unavailable
from inventory.strict_json import decode


def place_in(home: Path) -> Path:
    """The unix socket on which the ssh worker of this home listens, in a directory of its own."""
    return home / "ssh" / "channels"


_ROOM = socket.CMSG_SPACE(array.array("i").itemsize)


class LastHopRefused(Unavailable):
    """The host, or the ssh worker for it, does not take the stream."""

    def __init__(self, code: Code, what: str) -> None:
        super().__init__(what)
        self.code = code


async def ask(sock: WitnessedSocket, place: Path, host: str, target: str) -> None:
    """Have `sock`, a non-blocking unix socket that is not connected yet, lead to the target. `place` is where the ssh
    worker listens.

    It comes with its witness.

    Raises:
        LastHopRefused: with the reason. The caller owns the socket in any case.
    """
    try:
        await _connect(sock, place)
        await _send(sock, msgspec.json.encode(ChannelAsked(host=host, target=target)) + b"\n")
        line, sock.witness = await _line(sock)
        answer = decode(line, ChannelAnswer, max_bytes=limits.LAST_HOP_LINE_MAX, what="answer of the ssh worker")
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise LastHopRefused(Code.CONNECT_FAILED, f"{host}: the gateway's ssh worker is not there: {why}") from None
    except InputError as exc:
        raise LastHopRefused(Code.INTERNAL, exc.what) from None
    if answer.ok and sock.witness is None:
        raise LastHopRefused(Code.LIMIT, f"{host}: the gateway is out of descriptors")
    if not answer.ok:
        raise LastHopRefused(_code(answer.code), plain(answer.reason) or f"{host} did not take it")


def _code(number: int) -> Code:
    try:
        return Code(number)
    except ValueError:
        return Code.CONNECT_FAILED


async def _connect(sock: socket.socket, place: Path) -> None:
    """A unix socket connects at once, or its listener's queue is full."""
    while True:
        try:
            with socket_address(place.parent, place.name) as address:
                sock.connect(address)
        except BlockingIOError:
            await trio.sleep(limits.LAST_HOP_QUEUE_WAIT)
        else:
            return


async def _send(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def _line(sock: socket.socket) -> tuple[bytes, socket.socket | None]:
    """Up to the first newline, which is taken, and the socket that came with it; what follows is the stream's and stays
    unread."""
    found: bytes = b""
    came: list[int] = []
    while len(found) <= limits.LAST_HOP_LINE_MAX:
        await trio.lowlevel.wait_readable(sock)
        try:
            ahead = sock.recv(limits.LAST_HOP_LINE_MAX, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not ahead:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        end = ahead.find(b"\n")
        size = len(ahead) if end < 0 else end + 1
        data, ancillary, _, _ = sock.recvmsg(size, _ROOM, socket.MSG_CMSG_CLOEXEC)
        found += data
        came += descriptors_in(ancillary)
        if end >= 0:
            return found[:-1], socket.socket(fileno=came[0]) if came else None
    raise InputError("the ssh worker's answer has no end")
