"""I/O: what both ends of the admin socket share: its address, its lines, its errors.

    request     {"command": "status", "arguments": {}}
    answer      {"ok": true, "data": …}
    one of many {"ok": true, "data": …, "more": true}
    refusal     {"ok": false, "error": {"what": …, "where": …, "hint": …, "exit_code": 69}}
              (without what is empty)

One JSON value per line. Not a byte after a line is consumed by reading that line, so that the connection itself can be
taken over afterwards.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from bridge import limits
from inventory import strict_json
from inventory.errors import AnswerIsNo, InputError, InternalError, MeshError, Unavailable

FILE = "admin.sock"
_SUN_PATH_MAX = 107
"""Bytes of a unix socket's path (unix(7): sun_path has 108, one for the NUL)."""
_PEEK = 64 * limits.KIB


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    command: str
    arguments: dict[str, Any] = {}


class WireError(msgspec.Struct, frozen=True, omit_defaults=True):
    """A MeshError on its way to the person who sees it."""

    what: str
    where: str = ""
    hint: str = ""
    exit_code: int = InternalError.exit_code

    @classmethod
    def of(cls, error: MeshError) -> WireError:
        return cls(error.what, error.where, error.hint, error.exit_code)

    def error(self) -> MeshError:
        kinds = (AnswerIsNo, InputError, Unavailable)
        kind = next((kind for kind in kinds if kind.exit_code == self.exit_code), InternalError)
        return kind(self.what, where=self.where, hint=self.hint)


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    ok: bool
    data: Any = None
    more: bool = False
    error: WireError | None = None


def encode_line(value: Request | Answer) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def decode_request(line: bytes) -> Request:
    """Raises InputError."""
    return strict_json.decode(line, Request, max_bytes=limits.ADMIN_MESSAGE_MAX, what="admin request")


def decode_answer(line: bytes) -> Answer:
    """Raises InputError."""
    return strict_json.decode(line, Answer, max_bytes=limits.ADMIN_MESSAGE_MAX, what="answer of the agent")


@contextmanager
def socket_address(home: Path, file: str = FILE) -> Iterator[str]:
    """A path to a socket in the home (its admin socket) that fits into a socket address, however deep the home lies.

    Raises:
        OSError: there is no such home.
    """
    path = home / file
    if len(os.fsencode(path)) <= _SUN_PATH_MAX:
        yield str(path)
        return
    fd = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{file}"
    finally:
        os.close(fd)


async def read_line(stream: trio.SocketStream) -> bytes:
    """The next line without its newline; empty when the other side has ended.

    Raises:
        InputError: it is longer than ADMIN_MESSAGE_MAX, or ends without a newline.
        trio.BrokenResourceError: the connection broke.
    """
    line = bytearray()
    try:
        while len(line) <= limits.ADMIN_MESSAGE_MAX:
            seen = await stream.socket.recv(_PEEK, socket.MSG_PEEK)
            newline = seen.find(b"\n")
            line += await stream.socket.recv(newline + 1 if newline >= 0 else len(seen))
            if newline >= 0:
                return bytes(line[:-1])
            if not seen:
                break
    except OSError as exc:
        raise trio.BrokenResourceError from exc
    if len(line) > limits.ADMIN_MESSAGE_MAX:
        raise InputError(f"a line on the admin socket is longer than {limits.ADMIN_MESSAGE_MAX} bytes")
    if line:
        raise InputError("a line on the admin socket ends in the middle")
    return b""
