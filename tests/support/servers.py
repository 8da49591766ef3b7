"""I/O: small real servers to put behind the mesh, as trio functions and as processes that print their port.

    python -m tests.support.servers KIND [--host 127.0.0.1] [--port 0] [--name NAME] [--delay SECONDS]

    echo     sends back every byte; a client that shuts its sending side gets the rest, then end of stream
    digest   reads to the end of stream, then answers the count and SHA-256 of what it got (half-close needed)
    http     HTTP/1.1 with keep-alive; answers `hello from NAME`, with `--delay` after that long
    ebcdic   lines of code page 037 ended by NEL (0x15), as a mainframe partition sends them; answers each one
    hold     greets, then keeps the session open; answers each line, ends when the client does
    deaf     accepts and never reads: the reader that stops

Only for tests: no limits, no authentication, loopback addresses.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import trio

CHUNK = 256 * 1024
NEL = b"\x15"
"""End of line in EBCDIC (IBM code page 037)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one server says of itself and how long it thinks before it answers (seconds)."""

    name: str = "server"
    delay: float = 0.0


Handler = Callable[[trio.SocketStream, Settings], Awaitable[None]]


async def echo(stream: trio.SocketStream, settings: Settings) -> None:
    while data := await stream.receive_some(CHUNK):
        await stream.send_all(data)
    await stream.send_eof()


async def digest(stream: trio.SocketStream, settings: Settings) -> None:
    count, sha256 = 0, hashlib.sha256()
    while data := await stream.receive_some(CHUNK):
        count += len(data)
        sha256.update(data)
    await stream.send_all(f"{count} {sha256.hexdigest()}\n".encode())
    await stream.send_eof()


async def http(stream: trio.SocketStream, settings: Settings) -> None:
    body = f"hello from {settings.name}\n".encode()
    reader = Reader(stream)
    while (head := await reader.until(b"\r\n\r\n")) is not None:
        fields = [line.partition(b":") for line in head.lower().split(b"\r\n")[1:]]
        headers = {name.strip(): value.strip() for name, _, value in fields}
        await reader.exactly(int(headers.get(b"content-length", b"0")))
        await trio.sleep(settings.delay)
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nX-Instance: %s\r\n\r\n%s"
            % (len(body), settings.name.encode(), body)
        )
        if headers.get(b"connection") == b"close":
            return


async def ebcdic(stream: trio.SocketStream, settings: Settings) -> None:
    reader = Reader(stream)
    while (line := await reader.until(NEL)) is not None:
        text = line.removesuffix(NEL).decode("cp037").strip()
        await stream.send_all(f"{settings.name.upper()} {text.upper()}".encode("cp037") + NEL)


async def hold(stream: trio.SocketStream, settings: Settings) -> None:
    await stream.send_all(f"session open at {settings.name}\n".encode())
    reader = Reader(stream)
    while (line := await reader.until(b"\n")) is not None:
        await stream.send_all(b"held: " + line)


async def deaf(stream: trio.SocketStream, settings: Settings) -> None:
    await trio.sleep_forever()


KINDS: dict[str, Handler] = {h.__name__: h for h in (echo, digest, http, ebcdic, hold, deaf)}


class Reader:
    """Reads up to a mark or a count and keeps what came after it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def until(self, mark: bytes) -> bytes | None:
        """Everything up to and including `mark`; None at end of stream (an unfinished rest is dropped)."""
        while (end := self._held.find(mark)) < 0:
            if not await self._more():
                return None
        return self._take(end + len(mark))

    async def exactly(self, count: int) -> bytes | None:
        while len(self._held) < count:
            if not await self._more():
                return None
        return self._take(count)

    async def _more(self) -> bool:
        data = await self._stream.receive_some(CHUNK)
        self._held += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken


@contextlib.asynccontextmanager
async def serving(
    handler: Handler, *, host: str = "127.0.0.1", port: int = 0, settings: Settings | None = None
) -> AsyncIterator[int]:
    """Runs a server inside the test; yields its port and ends every session at exit."""
    chosen = settings or Settings()

    async def one_session(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await handler(stream, chosen)

    listeners = await trio.open_tcp_listeners(port, host=host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, one_session, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def run_until_signal(kind: str, host: str, port: int, settings: Settings) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with serving(KINDS[kind], host=host, port=port, settings=settings) as bound:
            print(bound, flush=True)
            await anext(signals)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.servers")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="server")
    parser.add_argument("--delay", type=float, default=0.0)
    given = parser.parse_args()
    trio.run(run_until_signal, given.kind, given.host, given.port, Settings(given.name, given.delay))


if __name__ == "__main__":
    main()
