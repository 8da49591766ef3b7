"""I/O: the servers and the process helpers that all other end-to-end tests stand on."""

from __future__ import annotations

import hashlib
import socket

import pytest
import trio

from tests.support.estate import Estate
from tests.support.servers import NEL, Settings, digest, ebcdic, echo, hold, http, serving


async def ask(port: int, request: bytes, *, shut: bool = True) -> bytes:
    """Sends `request` and reads to the end of stream, with our sending side shut meanwhile unless told otherwise."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request)
        if shut:
            await stream.send_eof()
        return b"".join([part async for part in stream])


async def test_echo_answers_after_half_close() -> None:
    async with serving(echo) as port:
        assert await ask(port, b"abc" * 1000) == b"abc" * 1000


async def test_digest_counts_every_byte() -> None:
    sent = bytes(range(256)) * 4096
    async with serving(digest) as port:
        assert await ask(port, sent) == f"{len(sent)} {hashlib.sha256(sent).hexdigest()}\n".encode()


async def test_http_names_its_instance_and_keeps_the_connection() -> None:
    one = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"
    body = b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n"
    async with serving(http, settings=Settings("web-1")) as port:
        answer = await ask(port, one + body + last, shut=False)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b"\r\n\r\nhello from web-1\n") == 3


async def test_ebcdic_speaks_code_page_037() -> None:
    async with serving(ebcdic, settings=Settings("lpar7")) as port:
        answer = await ask(port, "balance 42".encode("cp037") + NEL)
    assert answer == "LPAR7 BALANCE 42".encode("cp037") + NEL


async def test_hold_greets_and_stays() -> None:
    async with serving(hold, settings=Settings("lpar7")) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            assert await stream.receive_some() == b"session open at lpar7\n"
            await stream.send_all(b"one\n")
            assert await stream.receive_some() == b"held: one\n"


def test_a_server_process_prints_its_port_and_ends_at_sigterm(estate: Estate) -> None:
    port = estate.start_server("http", name="web-1")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b"X-Instance: web-1" in client.recv(65536)
    assert estate.terminate("web-1") == 0


def test_waiting_for_a_line_that_never_comes_says_so(estate: Estate) -> None:
    estate.start_server("echo")
    process = estate.nodes["echo"]
    process.kill9()
    with pytest.raises(AssertionError, match="the output ended"):
        process.stderr.wait_for("ready", 10)


def test_two_estates_share_no_address(estate: Estate, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Estate(tmp_path_factory.mktemp("other")) as other:
        assert estate.next_slice() != other.next_slice()
        assert estate.next_slice() != estate.next_slice()
