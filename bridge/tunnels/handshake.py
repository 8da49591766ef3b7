"""I/O: a TLS handshake over memory BIOs on a non-blocking socket, under the caller's deadline.

The socket is handed on to the relay loop afterwards, which is why no SSLSocket or SSLStream is made here. One attempt;
a failure closes nothing: the caller owns the socket.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import replace

import trio

from bridge import limits
from bridge.errors import NO_FACTS, PeerError, TlsFacts, explain_tls_error
from bridge.identity.contexts import peer_issuer
from bridge.tunnels.records import TlsPipe

__all__ = ["TlsPipe", "handshake", "receive_some", "send_all"]

_READ = 64 * limits.KIB


async def handshake(
    sock: socket.socket, context: ssl.SSLContext, *, server: bool, facts: TlsFacts = NO_FACTS
) -> TlsPipe:
    """Shake hands on a connected, non-blocking socket.

    A client's handshake succeeds before the server has judged the client's certificate (TLS 1.3): only the peer's
    ACCEPT frame says that it is content.

    Args:
        facts: what the caller can add to the words of a failure: clocks, our root.

    Raises:
        PeerError: with the reason in words, when TLS fails or the peer goes away.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=server)
    first = b""
    taken = 0
    while True:
        done = False
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            # What OpenSSL wrote is the alert that tells the peer why; the peer may be gone already.
            with contextlib.suppress(PeerError):
                await send_all(sock, outgoing.read())
            facts = replace(facts, first_bytes=first, peer_issuer=peer_issuer(tls))
            raise PeerError(explain_tls_error(error, facts)) from None
        await send_all(sock, outgoing.read())
        if done:
            return TlsPipe(tls, incoming, outgoing)
        data = await receive_some(sock, _READ)
        if not data:
            raise PeerError("the peer closed the connection during the TLS handshake")
        first = first or data[:16]
        taken += len(data)
        if taken > limits.HANDSHAKE_MAX_BYTES:
            raise PeerError(f"the peer sent more than {limits.HANDSHAKE_MAX_BYTES} bytes before the handshake was over")
        incoming.write(data)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Raises PeerError when the connection breaks."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except OSError as exc:
            raise PeerError(f"the connection broke: {exc.strerror}") from None


async def receive_some(sock: socket.socket, size: int, flags: int = 0) -> bytes:
    """At least one byte, or b"" at the end. Raises PeerError when the connection breaks."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return sock.recv(size, flags)
        except BlockingIOError:
            continue
        except OSError as exc:
            raise PeerError(f"the connection broke: {exc.strerror}") from None
