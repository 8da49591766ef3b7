"""I/O: how commands reach a running agent or gateway: a unix socket in its home, for its own user and root only (C37).

The server decodes one request per connection, strictly and within limits, and gives it to a handler. What the handler
returns is the answer; before that it may send any number of partial answers, or take the connection over for bytes of
its own. A client that hangs up cancels its command. What one connection does never ends another.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio

from agents.admin.client import call, stream, take_over
from agents.admin.wire import FILE, Answer, Request, WireError, decode_request, encode_line, read_line, socket_address
from agents.guards import must_pass
from bridge import limits
from bridge.bugs import tell_bug
from inventory.errors import AnswerIsNo, InputError, InternalError, MeshError, Unavailable

__all__ = ["AdminConnection", "Handler", "Peer", "call", "serve_admin", "stream", "take_over"]

_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, by the kernel's word (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int


class AdminConnection:
    """One command being served; the handler's way to talk to its client beyond one answer."""

    def __init__(self, stream: trio.SocketStream, peer: Peer, release_slot: Callable[[], None]) -> None:
        self.peer = peer
        self._stream = stream
        self._release_slot = release_slot
        self._request_read = trio.Event()
        self._watching = trio.CancelScope()
        self._watch_ended = trio.Event()
        self._is_raw = False

    async def send(self, data: object) -> None:
        """One partial answer; the client sees it at once."""
        await self._stream.send_all(encode_line(Answer(True, data, more=True)))

    async def raw(self, data: object = None) -> trio.SocketStream:
        """Answers with `data`, then hands out the connection for whatever comes next. It is closed when the handler
        returns, and no longer counts among the commands being served.
        """
        self._watching.cancel()
        await self._watch_ended.wait()
        await self._stream.send_all(encode_line(Answer(True, data)))
        self._is_raw = True
        self._release_slot()
        return self._stream

    async def take_over(self, sock: socket.socket) -> None:
        """Answers, then joins the client with `sock`, each direction ending by itself, until both have."""
        client = await self.raw()
        other = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        async with other, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, other)
            nursery.start_soon(_copy, other, client)

    async def serve(self, handler: Handler) -> None:
        """Reads the request, runs the handler, answers."""
        answer: Answer | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_hangup, nursery.cancel_scope)
            answer = await self._answer(handler)
            nursery.cancel_scope.cancel()
        if answer is not None and not self._is_raw:
            await self._stream.send_all(encode_line(answer))

    async def _answer(self, handler: Handler) -> Answer | None:
        command = ""
        try:
            request = await self._request()
            command = request.command
            answer = Answer(True, await handler(self, command, request.arguments))
            encode_line(answer)  # what cannot be encoded is a bug of the handler, told like any other
        except MeshError as exc:
            return Answer(False, error=WireError.of(exc))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None  # the client went away
        except BaseException as exc:
            if must_pass(exc):
                raise
            tell_bug("admin command failed by our own bug", exc, command=command)
            what = "the agent failed at this command; that is a bug"
            return Answer(False, error=WireError.of(InternalError(what, hint="see the agent's log")))
        return answer

    async def _request(self) -> Request:
        try:
            with trio.fail_after(limits.ADMIN_TIMEOUT):
                line = await read_line(self._stream)
        except trio.TooSlowError:
            raise InputError(f"no whole request within {limits.ADMIN_TIMEOUT:g} s") from None
        self._request_read.set()
        return decode_request(line)

    async def _until_hangup(self, handling: trio.CancelScope) -> None:
        try:
            with self._watching:
                await self._request_read.wait()
                if await self._stream.socket.recv(1, socket.MSG_PEEK) == b"":
                    handling.cancel()
        except OSError:
            handling.cancel()
        finally:
            self._watch_ended.set()


Handler = Callable[[AdminConnection, str, dict[str, Any]], Awaitable[Any]]
"""Serves one command with its arguments; what it returns (anything msgspec can encode) is the answer.

A MeshError it raises reaches the client as it is.
"""


async def _copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        while data := await source.receive_some(limits.SPLICE_CHUNK):
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        # The other direction cannot go on either: neither side may take a cut for an end.
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(sink)


async def serve_admin(
    home: Path, handler: Handler, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> NoReturn:
    """Serves commands until cancelled; reports started when they can come. The caller holds the home's lock.

    Raises:
        Unavailable: somebody already serves this home, or the socket cannot be made.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_bind(home)))
    made = (home / FILE).stat().st_ino
    free = trio.CapacityLimiter(limits.ADMIN_CONNECTIONS)
    try:
        async with trio.open_nursery() as connections:
            handle = partial(_guarded, handler=handler, free=free)
            task_status.started()
            await trio.serve_listeners(handle, [listener], handler_nursery=connections)
    finally:
        with suppress(OSError):
            if (home / FILE).stat().st_ino == made:
                (home / FILE).unlink()
    raise AssertionError("serve_listeners returned")


def _bind(home: Path) -> socket.socket:
    """A listening socket that was private from its first moment: the kernel takes its mode from the descriptor."""
    path = home / FILE
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with socket_address(home) as address:
            _clear_away(path, address)
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(address)
        mode = stat.S_IMODE(path.lstat().st_mode)
        if mode & 0o177:
            path.unlink()
            raise Unavailable(f"the admin socket would be open to others (mode {mode:o})", where=str(path))
        sock.listen(_BACKLOG)
    except OSError as exc:
        sock.close()
        raise Unavailable(f"the admin socket cannot be made: {exc.strerror or exc}", where=str(path)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _clear_away(path: Path, address: str) -> None:
    """Removes a socket that its owner left behind by dying; anything else stays and is an error."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Unavailable("something that is no socket is in the way", where=str(path), hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full, so somebody is there
    raise Unavailable("another agent or gateway serves this home", where=str(path), hint="stop that one first")


async def _guarded(stream: trio.SocketStream, *, handler: Handler, free: trio.CapacityLimiter) -> None:
    slot = object()

    def release() -> None:
        with suppress(RuntimeError):  # already released: the connection was taken over
            free.release_on_behalf_of(slot)

    try:
        peer = _peer_of(stream)
        if peer.uid not in (0, os.geteuid()):
            raise AnswerIsNo("this agent takes commands only from its own user and root")
        try:
            free.acquire_on_behalf_of_nowait(slot)
        except trio.WouldBlock:
            raise Unavailable("the agent is busy with too many commands", hint="try again") from None
        await AdminConnection(stream, peer, release).serve(handler)
    except MeshError as exc:
        with suppress(trio.BrokenResourceError), trio.move_on_after(limits.ADMIN_TIMEOUT):
            await stream.send_all(encode_line(Answer(False, error=WireError.of(exc))))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client went away
    except BaseException as exc:
        if must_pass(exc):
            raise
        tell_bug("admin connection failed by our own bug", exc)
    finally:
        release()
        await trio.aclose_forcefully(stream)


def _peer_of(stream: trio.SocketStream) -> Peer:
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid)
