"""I/O: clients that show a certificate: the handshake, and what turns their TLS into plain bytes and back.

What comes out is one end of a socketpair, which the loop joins to a stream like any program's connection. Both
directions end as they do in TCP: a close_notify is the end of one direction; a connection that ends without one has
broken, and so has its stream, because bytes may be missing.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio
from cryptography import x509

from agents.workers.live import LiveFlow
from bridge import limits
from bridge.errors import PeerError
from bridge.identity.certificates import key_hash
from bridge.identity.contexts import clients_server
from bridge.tunnels.handshake import receive_some, send_all
from bridge.tunnels.records import TlsPipe
from inventory.errors import InputError

_AT_ONCE = 64 * limits.KIB
_ABORT = struct.pack("ii", 1, 0)


class TlsRefused(Exception):
    """In words, why a client's handshake came to nothing."""


@dataclass(frozen=True, slots=True)
class Shaken:
    """A handshake that is over."""

    pipe: TlsPipe
    key: str
    """SHA-256 of the SPKI DER of the client's certificate, hex."""


class ClientTls:
    """Handshakes with clients. A certificate counts when it is, byte for byte, one that is signed for some client.

    Args:
        identity: the gateway's own certificate and key, which it shows.
    """

    def __init__(self, identity: Path) -> None:
        self._identity = identity
        self._certificates: Mapping[str, str] = {}
        self._context: ssl.SSLContext | None = None

    def know(self, certificates: Mapping[str, str]) -> None:
        """Exactly these, by key hash, from now on."""
        if certificates != self._certificates:
            self._certificates, self._context = certificates, None

    def reload(self) -> None:
        """The gateway's own certificate is another one."""
        self._context = None

    async def accept(self, sock: socket.socket) -> Shaken:
        """The handshake with a client, under the caller's deadline. Raises TlsRefused."""
        try:
            if self._context is None:
                self._context = clients_server(self._identity, self._certificates.values())
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            pipe = TlsPipe(self._context.wrap_bio(incoming, outgoing, server_side=True), incoming, outgoing)
            await _shake(sock, pipe)
            return Shaken(pipe, _key_of(pipe.tls))
        except (PeerError, InputError) as exc:
            raise TlsRefused(exc.what) from None


async def _shake(sock: socket.socket, pipe: TlsPipe) -> None:
    while True:
        try:
            pipe.tls.do_handshake()
            await send_all(sock, pipe.outgoing.read())
            return
        except ssl.SSLWantReadError:
            await send_all(sock, pipe.outgoing.read())
        except ssl.SSLError as exc:
            with contextlib.suppress(PeerError):
                await send_all(sock, pipe.outgoing.read())  # the alert that says why
            verify = exc.verify_message if isinstance(exc, ssl.SSLCertVerificationError) else ""
            reason = (exc.reason or "unknown").lower().replace("_", " ")
            raise TlsRefused(f"its certificate is none of those on record: {verify}" if verify else reason) from None
        received = await receive_some(sock, _AT_ONCE)
        if not received:
            raise TlsRefused("it went away during the handshake")
        pipe.incoming.write(received)


def _key_of(tls: ssl.SSLObject) -> str:
    der = tls.getpeercert(binary_form=True)
    if der is None:
        raise TlsRefused("it showed no certificate")
    try:
        return key_hash(x509.load_der_x509_certificate(der).public_key())  # type: ignore[arg-type]
    except Exception:  # whatever a foreign certificate makes of the parser
        raise TlsRefused("its certificate cannot be read") from None


async def carry(
    sock: socket.socket, inner: socket.socket, pipe: TlsPipe, flow: LiveFlow, *, broke: Callable[[str], None]
) -> None:
    """Move bytes between a client's TLS connection and the plain socket that stands for it, until both directions have
    ended or one has broken. Owns both sockets.

    Args:
        broke: ends the stream, for this reason.
    """
    carrier = _Carrier(sock, inner, pipe, flow)
    with sock, inner:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carrier.watch, nursery.cancel_scope)
                async with trio.open_nursery() as ways:
                    ways.start_soon(carrier.inwards)
                    ways.start_soon(carrier.outwards)
                nursery.cancel_scope.cancel()
        except* (PeerError, ssl.SSLError) as group:
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            what = first.what if isinstance(first, PeerError) else "the client broke the TLS protocol"
            broke(what)
        if flow.result != "ok":
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)


class _Carrier:
    def __init__(self, sock: socket.socket, inner: socket.socket, pipe: TlsPipe, flow: LiveFlow) -> None:
        self._sock = sock
        self._inner = inner
        self._pipe = pipe
        self._flow = flow
        self._sending = trio.Lock()

    async def watch(self, scope: trio.CancelScope) -> None:
        """A stream that was cut or failed leaves nothing to carry."""
        assert self._flow.over is not None
        await self._flow.over.wait()
        if self._flow.result != "ok":
            scope.cancel()

    async def _flush(self) -> None:
        async with self._sending:
            await send_all(self._sock, self._pipe.outgoing.read())

    async def inwards(self) -> None:
        """From the client to the stream."""
        while True:
            while (data := self._decrypted()) is not None:
                if not data:
                    with contextlib.suppress(OSError):
                        self._inner.shutdown(socket.SHUT_WR)
                    return
                await send_all(self._inner, data)
            await self._flush()
            ciphertext = await receive_some(self._sock, _AT_ONCE)
            if not ciphertext:
                raise PeerError("the client's TLS connection ended without a close_notify")
            self._pipe.incoming.write(ciphertext)

    def _decrypted(self) -> bytes | None:
        """What is there in plain; b"" after a close_notify, None when more has to come first."""
        try:
            return self._pipe.tls.read(_AT_ONCE)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""

    async def outwards(self) -> None:
        """From the stream to the client."""
        while True:
            data = await receive_some(self._inner, _AT_ONCE)
            if not data:
                break
            self._pipe.tls.write(data)
            await self._flush()
        if self._flow.result in (None, "ok"):
            # All that came was decrypted before, so this only adds our close_notify to what goes out.
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLSyscallError, ssl.SSLZeroReturnError):
                self._pipe.tls.unwrap()
            await self._flush()
