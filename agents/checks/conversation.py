"""I/O: one probe's conversation with its target: how it gets there, and bounds on what it reads (H30)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from agents.checks.answers import TOO_LONG, Failed
from bridge import limits
from bridge.proxy_protocol import local_header
from inventory.endpoints import Endpoint

Connect = Callable[[Endpoint], Awaitable[trio.abc.HalfCloseableStream]]
"""Connects to a target as its streams do. What fails raises OSError, or Failed with the reason in words."""


async def connect_directly(target: Endpoint) -> trio.abc.HalfCloseableStream:
    return await trio.open_tcp_stream(target.host, target.port)


def with_header(connect: Connect) -> Connect:
    """For a target that expects the PROXY protocol: it is told that nobody asked for this connection."""

    async def connected(target: Endpoint) -> trio.abc.HalfCloseableStream:
        stream = await connect(target)
        try:
            await stream.send_all(local_header())
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    return connected


class Conversation:
    """What is said to a target, and what it says, up to the limits."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._left = limits.CHECK_READ_MAX
        self._reads_left = limits.CHECK_READS_MAX
        self.reached = ""
        """How far it came, should the time run out."""

    async def say(self, data: bytes) -> None:
        if data:
            await self._stream.send_all(data)

    async def read(self) -> bytes:
        """The next bytes; none when the target has ended."""
        if not self._left:
            raise Failed(TOO_LONG)
        if not self._reads_left:
            raise Failed(f"it answers in more than {limits.CHECK_READS_MAX} pieces")
        data = bytes(await self._stream.receive_some(self._left))
        self._left -= len(data)
        self._reads_left -= 1
        return data

    async def leave(self, last_words: bytes) -> None:
        """End it as its protocol does, so that the target counts no broken session. The answer is known already:
        nothing that happens here changes it."""
        with trio.move_on_after(limits.CHECK_LEAVE):
            try:
                await self.say(last_words)
                await self._stream.send_eof()
                while await self.read():
                    pass
            except (OSError, trio.BrokenResourceError, trio.BusyResourceError, Failed):
                pass  # it was quicker, or has more to say than anybody listens to

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)
