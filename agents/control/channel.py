"""I/O: the control stream as messages: a 4-byte length and JSON, decoded strictly into the types of `messages`.

The socket is one end of a unix socketpair whose other end the data worker carries through a tunnel; its end of file is
the tunnel's, and who is at the other end was proved by TLS before a byte came here.
"""

from __future__ import annotations

import socket
import struct
from typing import Generic, TypeVar

import msgspec
import trio

from bridge import limits
from bridge.errors import PeerError
from inventory.errors import InputError
from inventory.strict_json import decode

_LENGTH = struct.Struct(">I")
_READ = 64 * limits.KIB

Out = TypeVar("Out")
In = TypeVar("In")


class ControlEnded(PeerError):
    """The other side is gone, or what it said cannot be read."""


class ControlChannel(Generic[Out, In]):
    """One side of a control stream. `receives` is the union of message types that may come in."""

    def __init__(self, sock: socket.socket, receives: object, *, max_bytes: int = limits.CONTROL_MESSAGE_MAX) -> None:
        sock.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._receives: type[In] = receives  # type: ignore[assignment]
        self._max = max_bytes
        self._buffer = bytearray()
        self._sending = trio.Lock()

    async def send(self, message: Out) -> None:
        """Raises ControlEnded when nobody takes it within CONTROL_REQUEST_TIMEOUT."""
        body = msgspec.json.encode(message)
        if len(body) > self._max:
            raise ControlEnded(f"a message of {len(body)} bytes is larger than {self._max}")
        with trio.move_on_after(limits.CONTROL_REQUEST_TIMEOUT):
            async with self._sending:
                try:
                    await self._stream.send_all(_LENGTH.pack(len(body)) + body)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise ControlEnded("the control stream is closed") from None
                return
        raise ControlEnded("the other side does not read its control stream")

    async def receive(self) -> In:
        """The next message. Raises ControlEnded."""
        size = _LENGTH.unpack(await self._exactly(4))[0]
        if size > self._max:
            raise ControlEnded(f"a message of {size} bytes, at most {self._max} are allowed")
        body = await self._exactly(size)
        try:
            message: In = decode(body, self._receives, max_bytes=self._max, what="control message")
        except InputError as exc:
            raise ControlEnded(exc.what) from None
        return message

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = await self._stream.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise ControlEnded("the control stream ended")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)
