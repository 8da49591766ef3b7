"""I/O: (socketpairs) clients that show a certificate: who is let in, and that their TLS ends as what it is."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from agents.workers.client_tls import ClientTls, Shaken, TlsRefused, carry
from agents.workers.live import LiveFlow
from bridge.policy.decide import Subject
from bridge.tunnels.handshake import receive_some, send_all
from tests.support.client_certificates import ClientCertificate, make
from tests.support.memory_tls import TrustDomain

NOW = 1_800_000_000.0
SECONDS = 5


class Client:
    """A client's end: TLS by Python's own ssl, on a socketpair."""

    def __init__(self, context: ssl.SSLContext) -> None:
        ours, self.theirs = socket.socketpair()
        for sock in (ours, self.theirs):
            sock.setblocking(False)
        self.raw = ours
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Until it needs nothing more from the other end."""
        while True:
            try:
                result = function()
            except ssl.SSLWantReadError:
                await send_all(self.raw, self.outgoing.read())
                data = await receive_some(self.raw, 65536)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
                continue
            await send_all(self.raw, self.outgoing.read())
            return result

    def close(self) -> None:
        self.raw.close()
        self.theirs.close()


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return TrustDomain(tmp_path, NOW)


@pytest.fixture
def pinned(tmp_path: Path) -> ClientCertificate:
    return make(tmp_path, "pos")


def server_for(domain: TrustDomain, *certificates: ClientCertificate) -> ClientTls:
    tls = ClientTls(domain.identity("gateway/gw1"))
    tls.know({one.hash: one.pem.read_text() for one in certificates})
    return tls


def context_of(certificate: ClientCertificate) -> ssl.SSLContext:
    """Verifies nobody: the test's gateway has its certificate from another clock."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificate.both)
    return context


async def shake(server: ClientTls, client: Client) -> Shaken:
    refused: TlsRefused | None = None
    async with trio.open_nursery() as nursery:

        async def dial() -> None:
            with suppress(ssl.SSLError):
                await client.call(client.tls.do_handshake)

        nursery.start_soon(dial)
        with trio.fail_after(SECONDS):
            try:
                return await server.accept(client.theirs)
            except TlsRefused as exc:
                refused = exc
            finally:
                nursery.cancel_scope.cancel()
    assert refused is not None
    raise refused


@pytest.mark.parametrize("is_rsa", [False, True])
async def test_who_shows_a_pinned_certificate_is_known_by_its_key(
    domain: TrustDomain, tmp_path: Path, is_rsa: bool
) -> None:
    mine, other = make(tmp_path, "mine", is_rsa=is_rsa), make(tmp_path, "other")
    client = Client(context_of(mine))
    shaken = await shake(server_for(domain, mine, other), client)
    assert shaken.key == mine.hash != other.hash
    assert client.tls.version() == "TLSv1.3"
    client.close()


async def test_nobody_else_is(domain: TrustDomain, tmp_path: Path, pinned: ClientCertificate) -> None:
    issued = make(tmp_path, "issued", issuer=pinned)
    stranger = make(tmp_path, "stranger")
    expired = make(tmp_path, "expired", days=-1)
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
    old = context_of(pinned)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    for context, why in [
        (context_of(stranger), "none of those on record"),
        (context_of(expired), "certificate has expired"),
        (bare, "peer did not return a certificate"),
        (old, "unsupported protocol"),
    ]:
        client = Client(context)
        with pytest.raises(TlsRefused, match=why):
            await shake(server_for(domain, pinned, expired), client)
        client.close()
    client = Client(context_of(issued))
    shaken = await shake(server_for(domain, pinned), client)
    assert shaken.key == issued.hash != pinned.hash, "what a pinned one issued has a key of its own, and is nobody's"
    client.close()


async def test_what_is_no_tls_is_refused(domain: TrustDomain, pinned: ClientCertificate) -> None:
    server = server_for(domain, pinned)
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + b"\0" * 100, b""):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        with ours, theirs, trio.fail_after(SECONDS), pytest.raises(TlsRefused):
            await server.accept(theirs)


class Carried:
    """A client and the stream that stands for it."""

    def __init__(self, domain: TrustDomain, pinned: ClientCertificate) -> None:
        self.client = Client(context_of(pinned))
        self.server = server_for(domain, pinned)
        self.stream, self.outer = socket.socketpair()
        for sock in (self.stream, self.outer):
            sock.setblocking(False)
        self.flow = LiveFlow(
            side="source", subject=Subject("client", "pos"), service="web", site=None, host="gw1", started=0, began=0
        )
        self.flow.over = trio.Event()
        self.broke: list[str] = []

    async def run(self, act: Callable[[], object]) -> None:
        shaken = await shake(self.server, self.client)
        await self.client.call(self.client.tls.do_handshake)
        async with trio.open_nursery() as nursery:

            async def carried() -> None:
                await carry(self.client.theirs, self.outer, shaken.pipe, self.flow, broke=self._broke)

            nursery.start_soon(carried)
            with trio.fail_after(SECONDS):
                await act()  # type: ignore[misc]

    def _broke(self, reason: str) -> None:
        self.broke.append(reason)
        self.end("cut")

    def end(self, result: str) -> None:
        """What streams do when one ends."""
        self.flow.result = result  # type: ignore[assignment]
        assert self.flow.over is not None
        self.flow.over.set()
        self.stream.close()


@pytest.fixture
def carried(domain: TrustDomain, pinned: ClientCertificate) -> Carried:
    return Carried(domain, pinned)


async def test_each_direction_ends_on_its_own(carried: Carried) -> None:
    big = bytes(range(256)) * 4096

    async def act() -> None:
        client, stream = carried.client, carried.stream
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, stream, big)
            got = b""
            while len(got) < len(big):
                got += await client.call(lambda: client.tls.read(65536))
        assert got == big
        stream.shutdown(socket.SHUT_WR)
        assert await client.call(lambda: client.tls.read(1)) == b"", "a close_notify, and no error"
        await client.call(lambda: client.tls.write(b"after the end of the other direction"))
        assert await receive_some(stream, 100) == b"after the end of the other direction"
        with suppress(ssl.SSLError):
            client.tls.unwrap()
        await send_all(client.raw, client.outgoing.read())
        assert await receive_some(stream, 100) == b""
        carried.end("ok")

    await carried.run(act)
    assert not carried.broke
    carried.client.close()


async def test_an_end_without_a_close_notify_is_no_end(carried: Carried) -> None:
    async def act() -> None:
        await carried.client.call(lambda: carried.client.tls.write(b"half a "))
        assert await receive_some(carried.stream, 100) == b"half a "
        carried.client.raw.close()

    await carried.run(act)
    assert carried.broke == ["the client's TLS connection ended without a close_notify"]
    carried.client.close()


async def test_a_stream_that_is_cut_ends_the_connection_without_a_close_notify(carried: Carried) -> None:
    async def act() -> None:
        carried.end("cut")
        with pytest.raises(ssl.SSLError, match="EOF"):
            await carried.client.call(lambda: carried.client.tls.read(1))

    await carried.run(act)
    assert not carried.broke
    carried.client.close()


async def test_garbage_after_the_handshake_ends_the_stream(carried: Carried) -> None:
    async def act() -> None:
        await send_all(carried.client.raw, b"\x17\x03\x03\x00\x20" + b"\0" * 32)
        while not carried.broke:
            await trio.lowlevel.checkpoint()

    await carried.run(act)
    assert carried.broke == ["the client broke the TLS protocol"]
    carried.client.close()
