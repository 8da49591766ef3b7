"""I/O: messages with descriptors between a supervisor and a worker, over a unix stream socketpair.

Each message is a 4-byte length and MessagePack. Descriptors ride on the first byte of their message; the kernel never
delivers them later than those bytes, so a queue of received descriptors is always long enough for the message at hand.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
import trio

from inventory.errors import InternalError

_LENGTH = struct.Struct(">I")
_READ = 256 * 1024
_MAX_FDS = 16

Out = TypeVar("Out")
In = TypeVar("In")


class ChannelClosed(InternalError):
    """The process at the other end is gone."""


class Channel(Generic[Out, In]):
    """One end. `sends` and `receives` are the message unions of the two directions."""

    def __init__(self, sock: socket.socket, receives: object) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder: msgspec.msgpack.Decoder[In] = msgspec.msgpack.Decoder(receives)
        self._encoder = msgspec.msgpack.Encoder()
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._sending = trio.Lock()

    async def send(self, message: Out, fds: Sequence[int] = ()) -> None:
        """Send a message; `fds` are duplicated by the kernel and stay open here.

        Raises:
            ChannelClosed: nobody is there any more.
        """
        body = self._encoder.encode(message)
        data = memoryview(_LENGTH.pack(len(body)) + body)
        async with self._sending:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            while data:
                try:
                    sent = self._sock.sendmsg([data], ancillary)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._sock)
                    continue
                except OSError:
                    raise ChannelClosed("the process at the other end is gone") from None
                ancillary = []
                data = data[sent:]

    async def receive(self) -> tuple[In, list[socket.socket]]:
        """The next message and its descriptors, as sockets.

        Raises:
            ChannelClosed: the other end is gone.
        """
        while True:
            message = self._next()
            if message is not None:
                fds = [self._fds.popleft() for _ in range(getattr(message, "fds", 0))]
                return message, [socket.socket(fileno=fd) for fd in fds]
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data, ancillary, _flags, _address = self._sock.recvmsg(_READ, socket.CMSG_SPACE(_MAX_FDS * 4))
            except BlockingIOError:
                continue
            except OSError:
                data, ancillary = b"", []
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds_in = array.array("i")
                    fds_in.frombytes(payload[: len(payload) - len(payload) % fds_in.itemsize])
                    self._fds.extend(fds_in)
            if not data:
                raise ChannelClosed("the process at the other end is gone")
            self._buffer += data

    def _next(self) -> In | None:
        if len(self._buffer) < 4:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer)
        if len(self._buffer) < 4 + size:
            return None
        body = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return self._decoder.decode(body)

    def close(self) -> None:
        self._sock.close()
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
