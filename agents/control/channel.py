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
_NOTHING = memoryview(b"")

Out = TypeVar("Out")
In = TypeVar("In")


class ControlEnded(PeerError):
    """The session cannot go on: what came cannot be read, or nobody reads what is sent."""


class ControlLost(ControlEnded):
    """The other side is gone: there is nobody to say anything to."""


class ControlChannel(Generic[Out, In]):
    """One side of a control stream. `receives` is the union of message types that may come in."""

    def __init__(self, sock: socket.socket, receives: object, *, max_bytes: int = limits.CONTROL_MESSAGE_MAX) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._receives: type[In] = receives  # type: ignore[assignment]
        self._max = max_bytes
        self._buffer = bytearray()
        self._sending = trio.Lock()
        self._queued = 0
        """Bytes of the messages that are being sent or wait for that."""
        self._unsent = _NOTHING
        """The rest of a message whose sender was cancelled: it goes out before the next one."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody is sending, and nothing is left of what was sent before."""
        return not self._unsent and not self._sending.locked()

    def offer(self, message: Out) -> bool:
        """Send a message on an idle channel without waiting; whether it is out. If not, `send_rest` brings the rest.

        Raises:
            ControlEnded: nobody is there, or the message is too large.
        """
        assert self.is_idle
        self._unsent = self._encoded(message)
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            raise ControlLost("the control stream is closed") from None
        return not self._unsent

    async def send_rest(self) -> None:
        """Send what an `offer` left. Raises ControlEnded, as `send` does."""
        await self._send_now(_NOTHING)

    async def send(self, message: Out) -> None:
        """Send a message. Cancelled, it was sent whole, not at all, or the next one brings the rest.

        Raises:
            ControlEnded: nobody takes it, not even at CONTROL_RATE_MIN, or nobody is there.
        """
        await self._send_now(self._encoded(message))

    def _encoded(self, message: Out) -> memoryview:
        body = msgspec.json.encode(message)
        if len(body) > self._max:
            raise ControlEnded(f"a message of {len(body)} bytes is larger than {self._max}")
        return memoryview(_LENGTH.pack(len(body)) + body)

    async def _send_now(self, data: memoryview) -> None:
        self._queued += len(data)
        try:
            # On a thin link a large message takes its time, and so do those behind it.
            waiting = self._queued + len(self._unsent)
            with trio.move_on_after(limits.CONTROL_REQUEST_TIMEOUT + waiting / limits.CONTROL_RATE_MIN):
                async with self._sending:
                    await self._send_rest()
                    self._unsent = data
                    await self._send_rest()
                    return
        finally:
            self._queued -= len(data)
        raise ControlEnded("the other side does not read its control stream")

    async def _send_rest(self) -> None:
        while self._unsent:
            try:
                sent = await self._sock.send(self._unsent)
            except (OSError, trio.ClosedResourceError):
                raise ControlLost("the control stream is closed") from None
            self._unsent = self._unsent[sent:]

    async def receive(self) -> In:
        """The next message; once cancelled, not to be called again. Raises ControlEnded."""
        size = _LENGTH.unpack(await self._exactly(_LENGTH.size))[0]
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
                data = await self._sock.recv(_READ)
            except (OSError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise ControlLost("the control stream ended")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def close(self) -> None:
        """Whoever waits in `send` or `receive` is told."""
        self._sock.close()
