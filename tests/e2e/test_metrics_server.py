"""I/O: the metrics page over a real socket, and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from bridge import limits
from bridge.metrics_server import Pages, serve_metrics
from inventory.endpoints import Endpoint
from inventory.errors import Unavailable

ERRORS: list[BaseException] = []


def broken() -> bytes:
    raise RuntimeError("page is broken")


@asynccontextmanager
async def served(pages: Pages) -> AsyncIterator[Endpoint]:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_metrics, Endpoint("127.0.0.1", 0), pages, report_error=ERRORS.append)
        endpoint: Endpoint = await nursery.start(serve)
        with trio.fail_after(20):
            yield endpoint
        nursery.cancel_scope.cancel()


async def ask(endpoint: Endpoint, request: bytes) -> bytes:
    stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    async with stream:
        await stream.send_all(request)
        answer = b""
        while more := await stream.receive_some(65536):
            answer += more
    return answer


GOOD = Pages(metrics=lambda: b"x 1\n", ready=lambda: None)
WAITING = Pages(metrics=broken, ready=lambda: "no gateway")


async def test_the_three_pages() -> None:
    async with served(GOOD) as endpoint:
        page = await ask(endpoint, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert page.startswith(b"HTTP/1.1 200 OK\r\n") and page.endswith(b"\r\n\r\nx 1\n")
        assert b"version=0.0.4" in page
        assert (await ask(endpoint, b"GET /livez HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nok\n")
        assert (await ask(endpoint, b"GET /readyz HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
        head = await ask(endpoint, b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert head.endswith(b"\r\n\r\n") and b"Content-Length: 4\r\n" in head


async def test_not_ready_says_why_and_a_broken_page_ends_only_its_connection() -> None:
    ERRORS.clear()
    async with served(WAITING) as endpoint:
        assert await ask(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
        answer = await ask(endpoint, b"GET /readyz HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503") and answer.endswith(b"no gateway\n")
    assert [str(error) for error in ERRORS] == ["page is broken"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"DELETE /livez HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 100_000, 431),
    ],
)
async def test_everything_else_is_refused(request_bytes: bytes, status: int) -> None:
    async with served(GOOD) as endpoint:
        assert (await ask(endpoint, request_bytes)).startswith(b"HTTP/1.1 %d " % status)


async def test_a_silent_guest_is_closed_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRICS_TIMEOUT", 0.05)
    async with served(GOOD) as endpoint:
        assert await ask(endpoint, b"GET /metrics HTTP/1.1\r\n") == b""


async def test_guests_beyond_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRICS_CONNECTIONS", 1)
    async with served(GOOD) as endpoint:
        first = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        async with first:
            await first.send_all(b"GET /metrics HTTP/1.1\r\n")
            second = await trio.open_tcp_stream(endpoint.host, endpoint.port)
            async with second:
                assert await second.receive_some(1) == b""
            await first.send_all(b"\r\n")
            assert (await first.receive_some(100)).startswith(b"HTTP/1.1 200")


async def test_a_taken_port_is_a_clear_error() -> None:
    async with served(GOOD) as endpoint:
        with pytest.raises(Unavailable) as caught:
            await serve_metrics(endpoint, GOOD, report_error=ERRORS.append)
    assert caught.value.where == str(endpoint)
    assert "in use" in caught.value.what
