"""The handshake on a socketpair: pipes that work, and failures that say why."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from bridge import limits
from bridge.errors import PeerError, TlsFacts
from bridge.identity.contexts import mutual_client
from bridge.tunnels.handshake import TlsPipe, handshake, receive_some, send_all
from tests.support.memory_tls import TrustDomain
from tests.support.relay_pair import Contexts, make_contexts


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(Path(tmp_path_factory.mktemp("identities")), time.time())


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
    yield pair
    for sock in pair:
        sock.close()


async def test_both_ends_get_pipes_that_understand_each_other(
    contexts: Contexts, ends: tuple[socket.socket, socket.socket]
) -> None:
    made: dict[str, TlsPipe] = {}

    async def shake(name: str, sock: socket.socket, context: ssl.SSLContext) -> None:
        made[name] = await handshake(sock, context, server=name == "server")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake, "client", ends[0], contexts.client)
            nursery.start_soon(shake, "server", ends[1], contexts.server)
    made["client"].tls.write(b"hello")
    await send_all(ends[0], made["client"].outgoing.read())
    made["server"].incoming.write(await receive_some(ends[1], 1000))
    assert made["server"].tls.read(100) == b"hello"


async def failure(contexts: Contexts, sock: socket.socket, facts: TlsFacts | None = None) -> str:
    with trio.fail_after(10):
        try:
            await handshake(sock, contexts.server, server=True, **({"facts": facts} if facts else {}))
        except PeerError as exc:
            return exc.what
    raise AssertionError("it succeeded")


async def test_h01_a_peer_that_speaks_something_else_is_quoted(
    contexts: Contexts, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[0].send(b"GET / HTTP/1.1\r\n\r\n")
    assert await failure(contexts, ends[1]) == "not a TLS 1.3 client: it sent 'GET / HTTP/1.1\\r\\n'"


async def test_a_peer_that_goes_away_is_said_so(contexts: Contexts, ends: tuple[socket.socket, socket.socket]) -> None:
    ends[0].close()
    assert "closed the connection during" in await failure(contexts, ends[1])


async def test_a_peer_that_never_stops_is_cut_off(
    contexts: Contexts, ends: tuple[socket.socket, socket.socket]
) -> None:
    """A handshake message that claims 16 MB, arriving record by record (C23)."""

    async def flood() -> None:
        fragment = b"\x01\xff\xff\xff" + bytes(16_000)
        try:
            for _ in range(20):
                await send_all(ends[0], b"\x16\x03\x01" + len(fragment).to_bytes(2, "big") + fragment)
        except PeerError:
            pass

    said = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        said = await failure(contexts, ends[1])
        ends[1].close()
    assert str(limits.HANDSHAKE_MAX_BYTES) in said or said.startswith("TLS failed")


async def test_h03_a_stranger_is_told_by_an_alert_and_named_to_us(
    contexts: Contexts, ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """Its certificate is of another root: our words name both roots."""
    other = TrustDomain(tmp_path, time.time())
    stranger = mutual_client(other.identity("host/x"), other.root_pem)
    said: dict[str, str] = {}

    async def shake(name: str, sock: socket.socket, context: ssl.SSLContext) -> None:
        try:
            await handshake(sock, context, server=name == "server", facts=TlsFacts(our_root="abc"))
        except PeerError as exc:
            said[name] = exc.what

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake, "client", ends[0], stranger)
            nursery.start_soon(shake, "server", ends[1], contexts.server)
    assert said["client"].startswith("unknown issuer: we do not know who issued the peer's certificate")
    assert "our root is sha256 abc" in said["client"] and "the peer's issuer is sha256 " in said["client"]
    assert said["server"].startswith("unknown issuer: the peer does not know who issued our certificate")
