"""I/O: the unix socket on which data workers ask for channels: one line of JSON each way, then the stream's bytes."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable

import msgspec

from agents.workers.ssh_messages import ChannelAnswer, ChannelAsked
from bridge import limits
from bridge.tunnels.frames import Code
from inventory.errors import InputError
from inventory.strict_json import decode

_ACCEPTED_PER_TURN = 64
_ACCEPT_PAUSE = 0.1
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Open = Callable[[socket.socket, ChannelAsked], Awaitable[None]]
"""Leads the socket to what was asked for, and owns it then. Raises Refused, and does not own it."""


class Refused(Exception):
    """A channel cannot be had."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def answer_line(answer: ChannelAnswer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


OK = answer_line(ChannelAnswer(ok=True))


def pass_on(sock: socket.socket) -> socket.socket | None:
    """Say that it is open, and hand over the stream's fate; our end of that, or None: nobody is there any more."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
            if sock.sendmsg([OK], rights) == len(OK):
                ours.setblocking(False)
                return ours
        except OSError:
            pass
    ours.close()
    return None


class Asking:
    """Args:
    listener: owned.
    crashed: told of a bug.
    """

    def __init__(self, listener: socket.socket, open_: Open, crashed: Callable[[BaseException], None]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._open = open_
        self._crashed = crashed
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking = 0
        """Connections that have not said yet what they want."""
        self._accepts = False
        self._is_over = False
        self.opened = 0
        self.refused = 0

    def start(self) -> None:
        if not (self._accepts or self._is_over):
            self._accepts = True
            self._loop.add_reader(self._listener, self._accept)

    def stop(self) -> None:
        if self._accepts:
            self._accepts = False
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_PER_TURN):
            if self._asking >= limits.SSH_ASKING_MAX:
                self.stop()
                return
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                if exc.errno in _FULL:
                    self.stop()
                    self._loop.call_later(_ACCEPT_PAUSE, self.start)
                    return
                continue
            sock.setblocking(False)
            self._asking += 1
            task = self._loop.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        """One who asks; a bug ends this one only."""
        try:
            try:
                asked = await self._asked(sock)
            finally:
                self._asking -= 1
                self.start()
            if asked is None:
                sock.close()
                return
            await self._open(sock, asked)
            self.opened += 1
        except Refused as exc:
            self.refused += 1
            _refuse(sock, exc.code, exc.reason)
        except Exception as exc:
            self._crashed(exc)
            _refuse(sock, Code.INTERNAL, "a bug in the ssh worker; its log has more")

    async def _asked(self, sock: socket.socket) -> ChannelAsked | None:
        """What is wanted; None: nobody is there any more."""
        try:
            async with asyncio.timeout(limits.SSH_ASK_TIMEOUT):
                line = await self._line(sock)
            if line is None:
                return None
            return decode(line, ChannelAsked, max_bytes=limits.LAST_HOP_LINE_MAX, what="question for a channel")
        except InputError as exc:
            raise Refused(Code.PROTOCOL, exc.what) from None
        except TimeoutError:
            raise Refused(Code.TIMEOUT, "no question came") from None

    async def _line(self, sock: socket.socket) -> bytes | None:
        """Up to the first newline, which is taken; what follows is the stream's and stays unread."""
        found = b""
        while len(found) <= limits.LAST_HOP_LINE_MAX:
            try:
                ahead = sock.recv(limits.LAST_HOP_LINE_MAX, socket.MSG_PEEK)
            except BlockingIOError:
                await _readable(self._loop, sock)
                continue
            except OSError:
                return None
            if not ahead:
                return None
            end = ahead.find(b"\n")
            found += sock.recv(len(ahead) if end < 0 else end + 1)
            if end >= 0:
                return found[:-1]
        raise Refused(Code.PROTOCOL, "the question has no end")

    @property
    def is_busy(self) -> bool:
        """Whether somebody who was accepted has not been answered yet."""
        return bool(self._tasks)

    def close(self) -> None:
        """Nobody else is accepted: whoever knocks waits for the next process that serves this socket."""
        self.stop()
        self._is_over = True
        self._listener.close()


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    event = asyncio.Event()
    loop.add_reader(sock, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(sock)


def _refuse(sock: socket.socket, code: Code, reason: str) -> None:
    line = answer_line(ChannelAnswer(code=int(code), reason=reason))
    with sock, contextlib.suppress(OSError):
        sock.send(line)
