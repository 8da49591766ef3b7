"""I/O: TLS over a stream for the two sides of enrolment, and length-prefixed JSON messages inside it.

This is the only TLS without a client certificate, so it is kept apart from tunnels: nothing but enrolment is spoken
over it. Every byte a guest sends is counted, inside TLS and before. The caller holds the deadline.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
import struct
from typing import Any, TypeVar

import msgspec
import trio

from bridge import limits
from bridge.errors import NO_FACTS, PeerError, TlsFacts, explain_tls_error
from bridge.identity.contexts import peer_chain
from bridge.identity.verify import PeerChain
from inventory.errors import InputError
from inventory.names import shown
from inventory.strict_json import decode

_LENGTH = struct.Struct(">I")
_FINISH_TIMEOUT = 1.0
_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)

T = TypeVar("T")


class GuestStream(trio.abc.Stream):
    """A transport that gives up on a peer which sends more than `most` bytes in all."""

    def __init__(self, stream: trio.abc.Stream, most: int) -> None:
        self._stream = stream
        self._left = most
        self.first = b""
        """The first bytes it sent after the preface, for words about what it was."""

    async def expect(self, preface: bytes) -> None:
        """Takes exactly `preface` from the stream, and not a byte more. Raises PeerError."""
        got = b""
        while len(got) < len(preface):
            data = bytes(await self._receive(len(preface) - len(got)))
            got += data
            if not data or not preface.startswith(got):
                raise PeerError(f"not an enrolment: it sent {shown(got.decode('latin-1'))}")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._receive(max_bytes)
        self.first = self.first or bytes(data[:16])
        return data

    async def _receive(self, max_bytes: int | None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except _BROKEN:
            raise PeerError("the connection broke") from None
        self._left -= len(data)
        if self._left < 0:
            raise PeerError("it sent more than an enrolment needs")
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class GuestTls:
    """Messages over TLS. Made by `accept` at the gateway and by `connect` at the node that enrols."""

    def __init__(self, stream: trio.SSLStream[GuestStream]) -> None:
        self._stream = stream

    @classmethod
    async def accept(cls, transport: GuestStream, context: ssl.SSLContext) -> GuestTls:
        """Raises PeerError, with the reason in words."""
        return await cls._shake(trio.SSLStream(transport, context, server_side=True), NO_FACTS)

    @classmethod
    async def connect(cls, transport: GuestStream, context: ssl.SSLContext, facts: TlsFacts = NO_FACTS) -> GuestTls:
        """Raises PeerError, with the reason in words."""
        return await cls._shake(trio.SSLStream(transport, context, server_hostname=None), facts)

    @classmethod
    async def _shake(cls, stream: trio.SSLStream[GuestStream], facts: TlsFacts) -> GuestTls:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as exc:
            cause = exc.__cause__ if isinstance(exc.__cause__, Exception) else EOFError()
            first = stream.transport_stream.first
            raise PeerError(explain_tls_error(cause, dataclasses.replace(facts, first_bytes=first))) from None
        return cls(stream)

    def peer_chain(self) -> PeerChain:
        """The peer's certificates, for `verify_peer`. Raises PeerRefused."""
        # trio forwards getpeercert, but not what the chain is read by.
        inner: Any = self._stream._ssl_object
        return peer_chain(inner)

    async def send(self, message: msgspec.Struct) -> None:
        """Raises PeerError when the connection breaks."""
        body = msgspec.json.encode(message)
        try:
            await self._stream.send_all(_LENGTH.pack(len(body)) + body)
        except _BROKEN:
            raise PeerError("the connection broke") from None

    async def receive(self, types: type[T] | Any) -> T:
        """The next message, one of `types`.

        Raises:
            PeerError: the connection ended, or what came is no such message.
        """
        size = _LENGTH.unpack(await self._exactly(_LENGTH.size))[0]
        if size > limits.ENROLMENT_MAX_BYTES:
            raise PeerError(f"a message of {size} bytes, at most {limits.ENROLMENT_MAX_BYTES} are allowed")
        body = await self._exactly(size)
        try:
            message: T = decode(body, types, max_bytes=limits.ENROLMENT_MAX_BYTES, what="enrolment message")
        except InputError as exc:
            raise PeerError(exc.what) from None
        return message

    async def _exactly(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            try:
                data = await self._stream.receive_some(size - len(got))
            except _BROKEN:
                data = b""
            if not data:
                raise PeerError("the connection ended in the middle of the exchange")
            got += data
        return bytes(got)

    async def finish(self) -> None:
        """Waits a moment for the peer to close, so that the answer is not lost to a reset, and closes."""
        with trio.move_on_after(_FINISH_TIMEOUT, shield=True), contextlib.suppress(*_BROKEN, PeerError):
            await self._stream.receive_some(1)
        with trio.move_on_after(_FINISH_TIMEOUT, shield=True):
            await trio.aclose_forcefully(self._stream)
