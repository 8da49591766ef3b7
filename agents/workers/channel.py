"""I/O: messages with descriptors between a supervisor and a worker, over a unix stream socketpair.

Each message is a 4-byte length and MessagePack. Descriptors ride on the first byte of their message, and the kernel
ends a read behind the bytes that carried some: so every read brings those of one message at most, in the order of the
messages. When this process is out of descriptors they are lost (MSG_CTRUNC); their message then comes without any.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import msgspec
import trio

from agents.workers.framing import LENGTH, descriptors_in, take_body
from inventory.errors import InternalError, MeshError

_READ = 256 * 1024
_MAX_FDS = 16
_NOTHING = memoryview(b"")

Out = TypeVar("Out")
In = TypeVar("In")


class ChannelClosed(InternalError):
    """The process at the other end is gone, or says what cannot be read."""


class Channel(Generic[Out, In]):
    """One end. `receives` is the union of messages that may come in."""

    def __init__(self, sock: socket.socket, receives: object) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(receives)
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._fds: deque[list[int]] = deque()
        """Of each message that has some and was not taken yet."""
        self._sending = trio.Lock()
        self._unsent = _NOTHING
        """The rest of a message whose sender was cancelled: it goes out before the next one."""

    async def send(self, message: Out, fds: Sequence[int] = ()) -> None:
        """Send a message; `fds` are duplicated by the kernel and stay open here. Messages go out in the order of the
        calls. A cancelled call sent the message whole, not at all, or leaves its rest to the next call.

        Raises:
            ChannelClosed: nobody is there any more.
        """
        body = self._encoder.encode(message)
        data = memoryview(LENGTH.pack(len(body)) + body)
        async with self._sending:
            await self._send_rest()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sent = await self._write(data, ancillary)
            self._unsent = data[sent:]
            await self._send_rest()

    async def _send_rest(self) -> None:
        while self._unsent:
            sent = await self._write(self._unsent, [])
            self._unsent = self._unsent[sent:]

    async def _write(self, data: memoryview, ancillary: list[tuple[int, int, array.array[int]]]) -> int:
        """Write what the socket takes; at least one byte."""
        while True:
            try:
                return self._sock.sendmsg([data], ancillary)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_writable)
            except OSError:
                raise ChannelClosed("the process at the other end is gone") from None

    async def _wait(self, ready: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self._sock.fileno() < 0:  # all closed sockets are one to trio, and two tasks may not wait for one
            raise ChannelClosed("the channel is closed")
        try:
            await ready(self._sock)
        except (trio.ClosedResourceError, OSError, ValueError):
            raise ChannelClosed("the channel is closed") from None

    async def receive(self) -> tuple[In, list[socket.socket]]:
        """The next message and its descriptors, as sockets: all of them, or none when they were lost.

        Raises:
            ChannelClosed: the other end is gone, or sent what is no message.
        """
        while True:
            message = self._next()
            if message is not None:
                return message, self._sockets(getattr(message, "fds", 0))
            await self._wait(trio.lowlevel.wait_readable)
            self._read()

    def _read(self) -> None:
        room = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        try:
            data, ancillary, flags, _address = self._sock.recvmsg(_READ, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            raise ChannelClosed("the process at the other end is gone") from None
        came = descriptors_in(ancillary)
        if came or flags & socket.MSG_CTRUNC:
            self._fds.append(came)
        if not data:
            raise ChannelClosed("the process at the other end is gone")
        self._buffer += data

    def _next(self) -> In | None:
        body = take_body(self._buffer)
        if body is None:
            return None
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, MeshError, ValueError, RecursionError) as exc:
            raise ChannelClosed(f"the process at the other end sent no message of ours: {type(exc).__name__}") from None

    def _sockets(self, expected: int) -> list[socket.socket]:
        if not expected:
            return []
        if not self._fds:
            raise ChannelClosed("a message came without the descriptors it names")
        fds = self._fds.popleft()
        if len(fds) == expected:
            return [socket.socket(fileno=fd) for fd in fds]
        _close(fds)
        return []

    @property
    def is_gone(self) -> bool:
        """Whether the process at the other end has closed it; one that only stopped talking still listens."""
        poll = select.poll()
        poll.register(self._sock, 0)
        return bool(poll.poll(0))

    def detach(self) -> tuple[int, bytes, bytes]:
        """For another program in this process's place: the descriptor, what was read and not yet understood, and the
        rest of a message that was not sent whole. Nothing must be waiting here."""
        while self._fds:
            _close(self._fds.popleft())
        return self._sock.detach(), bytes(self._buffer), bytes(self._unsent)

    def put_back(self, unread: bytes, unsent: bytes) -> None:
        """What the program before read and did not understand yet, and what it did not send."""
        self._buffer += unread
        self._unsent = memoryview(unsent)

    def stop_talking(self) -> None:
        """The other end is told that nothing more will come; it may go on talking."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def discard(self) -> None:
        """Read what comes and cannot be understood, to the end. Raises ChannelClosed."""
        while True:
            await self.discard_some()

    async def discard_some(self) -> None:
        """The same for what was read, and what comes next. Raises ChannelClosed."""
        self._buffer.clear()
        while self._fds:
            _close(self._fds.popleft())
        await self._wait(trio.lowlevel.wait_readable)
        self._read()

    def hang_up(self) -> None:
        """The process at the other end hears that nobody is there any more, whoever else has this end; then as `close`:
        while another version is on trial, the one that waits has it as well."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Whoever waits in `send` or `receive` is told."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        while self._fds:
            _close(self._fds.popleft())


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
