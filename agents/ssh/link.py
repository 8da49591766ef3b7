"""I/O: the ssh worker's end of the socketpair to its supervisor: the messages of `agents.workers.channel`, for asyncio.

The supervisor's end is trio's, and `channel` with it; this is the same framing for a process that has another loop.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import Sequence

import msgspec

from agents.workers.framing import LENGTH, descriptors_in, take_body
from agents.workers.ssh_messages import FromSshWorker, ToSshWorker

_READ = 256 * 1024
_MAX_FDS = 16


class LinkClosed(Exception):
    """The supervisor is gone, or says what cannot be read."""


class StoppedTalking(Exception):
    """The supervisor says nothing more, and still listens: another worker takes the requests."""


class Link:
    """Owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._decoder: msgspec.msgpack.Decoder[ToSshWorker] = msgspec.msgpack.Decoder(ToSshWorker)
        self._encode = msgspec.msgpack.Encoder().encode
        self._buffer = bytearray()
        self._fds: deque[list[int]] = deque()
        self._sending = asyncio.Lock()

    async def send(self, message: FromSshWorker, socks: Sequence[socket.socket] = ()) -> None:
        """Send a message, and the descriptors that belong to it; owns those. Raises LinkClosed."""
        body = self._encode(message)
        data = memoryview(LENGTH.pack(len(body)) + body)
        try:
            async with self._sending:
                if socks:
                    fds = array.array("i", [sock.fileno() for sock in socks])
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
                    while data:
                        try:
                            data = data[self._sock.sendmsg([data], rights) :]
                            break
                        except BlockingIOError:
                            await self._writable()
                await self._loop.sock_sendall(self._sock, data)
        except OSError:
            raise LinkClosed from None
        finally:
            for sock in socks:
                sock.close()

    async def _readable(self) -> None:
        event = asyncio.Event()
        self._loop.add_reader(self._sock, event.set)
        try:
            await event.wait()
        finally:
            self._loop.remove_reader(self._sock)

    async def _writable(self) -> None:
        event = asyncio.Event()
        self._loop.add_writer(self._sock, event.set)
        try:
            await event.wait()
        finally:
            self._loop.remove_writer(self._sock)

    async def receive(self) -> tuple[ToSshWorker, list[int]]:
        """The next message and its descriptors. Raises LinkClosed, StoppedTalking."""
        while True:
            message = self._next()
            if message is not None:
                fds = self._fds.popleft() if message.fds and self._fds else []
                if len(fds) != message.fds:
                    raise LinkClosed
                return message, fds
            await self._readable()
            self._read()

    def _read(self) -> None:
        room = socket.CMSG_SPACE(_MAX_FDS * array.array("i").itemsize)
        try:
            data, ancillary, _flags, _address = self._sock.recvmsg(_READ, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            raise LinkClosed from None
        came = descriptors_in(ancillary)
        if came:
            self._fds.append(came)
        if not data:
            poll = select.poll()
            poll.register(self._sock, 0)
            raise LinkClosed if poll.poll(0) else StoppedTalking
        self._buffer += data

    def _next(self) -> ToSshWorker | None:
        body = take_body(self._buffer)
        if body is None:
            return None
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError):
            raise LinkClosed from None

    def close(self) -> None:
        self._sock.close()
        for fds in self._fds:
            for fd in fds:
                os.close(fd)
