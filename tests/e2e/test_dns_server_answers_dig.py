"""I/O: the DNS server answers what people ask with: dig where it is installed, and plain sockets everywhere."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator
from functools import partial

import dns.message
import dns.rcode
import pytest
import trio

from bridge import limits
from bridge.dns.addresses import AddressBook, parse_slice
from bridge.dns.server import serve
from bridge.dns.zone import Zone
from inventory.endpoints import Endpoint
from inventory.errors import Unavailable

PORTS = {"web": 8080, "web.dc1": 8080}
BOOK = AddressBook(parse_slice("127.97.0.0/16")).assign(PORTS)
ZONE = Zone(domain="bridge.internal", book=BOOK, ports=PORTS, server=BOOK.server_address)
WEB = BOOK.assigned["web"]
QUERY = dns.message.make_query("web.bridge.internal", "A", use_edns=0).to_wire()


def never(exc: Exception) -> None:
    raise AssertionError("no client may cause this") from exc


@pytest.fixture
async def server() -> AsyncIterator[Endpoint]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve, Endpoint("127.97.0.1", 0), lambda: ZONE, on_bug=never))
        nursery.cancel_scope.cancel()


async def dig(server: Endpoint, *words: str) -> str:
    """What dig prints; one attempt, so that a lost answer shows."""
    if shutil.which("dig") is None:
        pytest.skip("dig is not installed (Debian: bind9-dnsutils)")
    command = ["dig", f"@{server.host}", "-p", str(server.port), "+tries=1", "+time=5", "+norecurse", *words]
    done = await trio.run_process(command, capture_stdout=True, env=os.environ | {"HOME": "/nonexistent"})
    return done.stdout.decode()


async def test_dig_gets_an_address(server: Endpoint) -> None:
    assert (await dig(server, "+short", "web.bridge.internal")).split() == [WEB]
    assert (await dig(server, "+short", "WEB.dc1.bridge.INTERNAL.")).split() == [BOOK.assigned["web.dc1"]]
    assert (await dig(server, "+short", "+tcp", "web.bridge.internal")).split() == [WEB]
    assert (await dig(server, "+short", "+noedns", "web.bridge.internal")).split() == [WEB]


async def test_dig_gets_the_port_and_the_name_of_an_address(server: Endpoint) -> None:
    srv = await dig(server, "+short", "SRV", "_web._tcp.bridge.internal")
    assert srv.split() == ["0", "0", "8080", "web.bridge.internal."]
    assert (await dig(server, "+short", "-x", WEB)).split() == ["web.bridge.internal."]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["AAAA", "web.bridge.internal"], "NOERROR"),
        (["nope.bridge.internal"], "NXDOMAIN"),
        (["example.com"], "REFUSED"),
        (["CH", "TXT", "version.bind"], "REFUSED"),
        (["+opcode=notify", "bridge.internal"], "NOTIMP"),
        (["+edns=3", "+noednsnegotiation", "web.bridge.internal"], "BADVERS"),
    ],
)
async def test_dig_is_told_why_there_is_no_answer(server: Endpoint, words: list[str], status: str) -> None:
    said = await dig(server, *words)
    assert f"status: {status}" in said and "ANSWER: 0" in said
    assert "malformed" not in said.lower() and "mismatch" not in said.lower(), said


async def test_h28_dig_gets_no_zone_transfer(server: Endpoint) -> None:
    assert "Transfer failed" in await dig(server, "AXFR", "bridge.internal")


async def ask_udp(server: Endpoint, *packets: bytes) -> bytes:
    """Send packets from one port; the first answer."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.connect((server.host, server.port))
        for packet in packets:
            await sock.send(packet)
        with trio.fail_after(5):
            return await sock.recv(65535)


async def test_a_plain_socket_gets_the_same_over_udp_and_tcp(server: Endpoint) -> None:
    over_udp = await ask_udp(server, QUERY)
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        await stream.send_all(len(QUERY).to_bytes(2, "big") + QUERY)
        with trio.fail_after(5):
            over_tcp = await stream.receive_some(65535)
    assert over_tcp == len(over_udp).to_bytes(2, "big") + over_udp
    assert WEB in str(dns.message.from_wire(over_udp).answer[0])


async def test_c39_bad_packets_are_ignored_and_the_server_goes_on(server: Endpoint) -> None:
    answer_packet = QUERY[:2] + b"\x80" + QUERY[3:]
    reply = await ask_udp(server, b"", b"\0", b"\xff" * 11, answer_packet, b"\xff" * 60_000, QUERY)
    assert dns.message.from_wire(reply).id == dns.message.from_wire(QUERY).id


async def test_c41_the_connection_after_the_last_place_is_closed(server: Endpoint) -> None:
    async with trio.open_nursery() as nursery:
        held = [await trio.open_tcp_stream(server.host, server.port) for _ in range(limits.DNS_TCP_CONNECTIONS)]
        async with await trio.open_tcp_stream(server.host, server.port) as extra:
            with trio.fail_after(limits.DNS_TCP_IDLE / 2):
                assert await extra.receive_some(1) == b""
        assert await ask_udp(server, QUERY), "UDP does not notice"
        for stream in held:
            nursery.start_soon(stream.aclose)
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        await stream.send_all(len(QUERY).to_bytes(2, "big") + QUERY)
        with trio.fail_after(5):
            assert await stream.receive_some(65535)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
async def test_a_port_that_is_taken_says_by_whom(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.97.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        endpoint = Endpoint("127.97.0.1", taken.getsockname()[1])
        with pytest.raises(Unavailable, match=rf"\(pid {os.getpid()}\) holds it") as caught:
            await serve(endpoint, lambda: ZONE, on_bug=never)
    assert caught.value.where == str(endpoint) and "--dns" in caught.value.hint
