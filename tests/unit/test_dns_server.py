"""Pure: the TCP side of the DNS server over streams in memory, on a clock that jumps. Real sockets: tests/e2e."""

from __future__ import annotations

from functools import partial

import dns.message
import pytest
import trio
import trio.testing

from bridge import limits
from bridge.dns.addresses import AddressBook
from bridge.dns.server import serve, serve_stream
from bridge.dns.zone import Zone
from inventory.endpoints import Endpoint
from inventory.errors import InputError

BOOK = AddressBook().assign(["web"])
ZONE = Zone(domain="bridge.internal", book=BOOK, ports={"web": 80}, server=BOOK.server_address)
QUERY = dns.message.make_query("web.bridge.internal", "A").to_wire()
FRAMED = len(QUERY).to_bytes(2, "big") + QUERY


def never(exc: Exception) -> None:
    raise AssertionError("no client may cause this") from exc


class Client:
    """The client's end of one connection whose server end is being served."""

    def __init__(self, nursery: trio.Nursery, *, places: int = 1, on_bug=never, get_zone=lambda: ZONE) -> None:  # type: ignore[no-untyped-def]
        self.stream, theirs = trio.testing.memory_stream_pair()
        self.places = trio.Semaphore(places)
        nursery.start_soon(partial(serve_stream, self.places, get_zone, on_bug, theirs))

    async def reply(self) -> dns.message.Message:
        head = await self.exactly(2)
        return dns.message.from_wire(await self.exactly(int.from_bytes(head, "big")))

    async def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            more = await self.stream.receive_some(size - len(got))
            assert more, "closed by the server"
            got += more
        return got

    async def is_closed(self) -> bool:
        return await self.stream.receive_some(1) == b""


async def test_queries_are_answered_one_after_the_other(nursery: trio.Nursery) -> None:
    client = Client(nursery)
    await client.stream.send_all(FRAMED * 3)
    for _ in range(3):
        assert (await client.reply()).answer
    for byte in FRAMED:
        await client.stream.send_all(bytes([byte]))
    assert (await client.reply()).answer


async def test_c41_an_idle_connection_is_closed(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    client = Client(nursery)
    start = trio.current_time()
    assert await client.is_closed()
    assert trio.current_time() - start == pytest.approx(limits.DNS_TCP_IDLE)
    assert client.places.value == 1, "its place is free again"


async def test_c41_a_byte_now_and_then_does_not_keep_a_connection(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    client = Client(nursery)
    start = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        for byte in FRAMED:
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(limits.DNS_TCP_IDLE * 0.6)
    assert trio.current_time() - start <= 2 * limits.DNS_TCP_IDLE


async def test_c41_a_client_that_does_not_read_its_answer_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_stream, trio.Semaphore(1), lambda: ZONE, never, theirs))
        await ours.send_all(FRAMED)
        start = trio.current_time()
    assert trio.current_time() - start == pytest.approx(limits.DNS_TCP_IDLE)


async def test_c41_a_connection_too_many_is_closed_at_once(nursery: trio.Nursery) -> None:
    client = Client(nursery, places=0)
    assert await client.is_closed()
    assert client.places.value == 0


@pytest.mark.parametrize("length", [limits.DNS_QUERY_MAX + 1, 0xFFFF])
async def test_c41_a_query_announced_larger_than_the_limit_closes_the_connection(
    nursery: trio.Nursery, length: int
) -> None:
    client = Client(nursery)
    await client.stream.send_all(length.to_bytes(2, "big"))
    assert await client.is_closed()


@pytest.mark.parametrize("query", [b"", b"\0", QUERY[:2] + b"\x80" + QUERY[3:]], ids=["empty", "a byte", "an answer"])
async def test_c39_what_is_no_query_closes_the_connection(nursery: trio.Nursery, query: bytes) -> None:
    client = Client(nursery)
    await client.stream.send_all(len(query).to_bytes(2, "big") + query + FRAMED)
    assert await client.is_closed()


async def test_a_client_that_goes_away_in_the_middle_frees_its_place(nursery: trio.Nursery) -> None:
    for sent in (b"", FRAMED[:1], FRAMED[:20], FRAMED):
        client = Client(nursery)
        await client.stream.send_all(sent)
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert client.places.value == 1


async def test_a_bug_of_ours_is_reported_and_costs_one_connection(nursery: trio.Nursery) -> None:
    reported: list[Exception] = []

    def broken() -> Zone:
        raise RuntimeError("a bug")

    client = Client(nursery, on_bug=reported.append, get_zone=broken)
    await client.stream.send_all(FRAMED)
    assert await client.is_closed()
    assert [str(exc) for exc in reported] == ["a bug"] and client.places.value == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "gw.corp"])
async def test_anything_but_loopback_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="loopback only"):
        await serve(Endpoint(host, 0), lambda: ZONE, on_bug=never)
