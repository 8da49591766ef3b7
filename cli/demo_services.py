"""I/O: the services of the demo: small real servers, each a process of its own that prints the port it listens on.

    python -m cli.demo_services http NAME      HTTP/1.1, one answer per connection, says which instance answered
    python -m cli.demo_services ebcdic         lines in EBCDIC (code page 037), each answered with a balance
    python -m cli.demo_services terminal       holds sessions open and says one line a second

SIGTERM is what a container runtime sends: take what has connected already, stop listening, let the answers go out, end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio

EBCDIC = "cp037"
NEWLINE = b"\x25"
"""Line feed in code page 037."""
_REQUEST_MAX = 16384
_IDLE = 600.0
_BACKLOG = 128
_LAST_ANSWERS = 5.0

Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def http(name: str, stream: trio.SocketStream) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        data = await stream.receive_some()
        if not data or len(request) > _REQUEST_MAX:
            return
        request += data
    body = f"{name}\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    await stream.send_all(head.encode() + body)


async def ebcdic(stream: trio.SocketStream) -> None:
    pending = b""
    while True:
        data = await stream.receive_some()
        if not data or len(pending) > _REQUEST_MAX:
            return
        *lines, pending = (pending + data).split(NEWLINE)
        for line in lines:
            account = line.decode(EBCDIC).removeprefix("BALANCE ").strip()
            await stream.send_all(f"ACCOUNT {account} BALANCE 1024.00".encode(EBCDIC) + NEWLINE)


async def terminal(stream: trio.SocketStream) -> None:
    with trio.move_on_after(_IDLE):
        for number in range(int(_IDLE)):
            await stream.send_all(f"READY {number}\r\n".encode())
            await trio.sleep(1)


async def serve(handler: Handler) -> None:
    """Listen on a loopback port that the kernel chooses, print it, serve until SIGTERM."""

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await handler(stream)
        except trio.BrokenResourceError:
            pass  # the client is gone

    listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    listening.setblocking(False)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    async with trio.open_nursery() as connections, trio.open_nursery() as accepting:
        accepting.start_soon(partial(trio.serve_listeners, guarded, [listener], handler_nursery=connections))
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            print(listening.getsockname()[1], flush=True)
            async for _ in signals:
                break
        accepting.cancel_scope.cancel()
        for stream in queued(listening):
            connections.start_soon(guarded, stream)
        await listener.aclose()
        connections.cancel_scope.deadline = trio.current_time() + _LAST_ANSWERS


def queued(listening: socket.socket) -> Iterator[trio.SocketStream]:
    """Connections that the kernel has completed and nobody has accepted: closing the listener would reset them."""
    with contextlib.suppress(BlockingIOError):
        while True:
            accepted, _ = listening.accept()
            accepted.setblocking(False)
            yield trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def main() -> None:
    kind, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else f"instance {os.getpid()}"
    handlers: dict[str, Handler] = {"http": partial(http, name), "ebcdic": ebcdic, "terminal": terminal}
    trio.run(serve, handlers[kind])


if __name__ == "__main__":
    main()
