"""I/O: the control stream as messages: what is not one of ours ends the session, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socket import SO_SNDBUF, SOL_SOCKET, socket, socketpair

import msgspec
import pytest
import trio
import trio.testing

from agents.control import messages as m
from agents.control.channel import ControlChannel, ControlEnded, ControlLost
from bridge import limits
from bridge.flows import Flow
from inventory.model import Health

Host = ControlChannel[m.FromHost, m.FromGateway]
Gateway = ControlChannel[m.FromGateway, m.FromHost]


@contextmanager
def channels(
    *, max_bytes: int = limits.CONTROL_MESSAGE_MAX, buffer: int | None = None
) -> Iterator[tuple[Host, Gateway]]:
    ours, theirs = socketpair()
    if buffer is not None:
        ours.setsockopt(SOL_SOCKET, SO_SNDBUF, buffer)
    host: Host = ControlChannel(ours, m.FromGateway, max_bytes=max_bytes)
    gateway: Gateway = ControlChannel(theirs, m.FromHost, max_bytes=max_bytes)
    try:
        yield host, gateway
    finally:
        host.close()
        gateway.close()


@contextmanager
def hearing() -> Iterator[tuple[socket, Gateway]]:
    """A gateway's end, and a raw socket of a host that may say anything."""
    ours, theirs = socketpair()
    gateway: Gateway = ControlChannel(theirs, m.FromHost)
    try:
        yield ours, gateway
    finally:
        ours.close()
        gateway.close()


async def said(body: bytes) -> m.FromHost:
    """What a gateway makes of one message."""
    ours, theirs = socketpair()
    gateway: Gateway = ControlChannel(theirs, m.FromHost)
    sending = trio.socket.from_stdlib_socket(ours)
    heard: list[m.FromHost | ControlEnded] = []

    async def hear() -> None:
        try:
            heard.append(await gateway.receive())
        except ControlEnded as exc:
            heard.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        left = len(body).to_bytes(4, "big") + body
        while left:
            left = left[await sending.send(left) :]
    sending.close()
    gateway.close()
    if isinstance(heard[0], ControlEnded):
        raise heard[0]
    return heard[0]


FLOW = Flow(ts=1.0, id="f", subject="host:vm1", service="web", result="ok")
FROM_HOST: list[m.FromHost] = [
    m.Hello(version="1", epoch=1, number=2, advertise="10.0.0.1:7443"),
    m.Report(health={"web/vm1/127.0.0.1:80": Health(state="passing")}, streams=3),
    m.Flows(records=(FLOW,)),
    m.Renew(id=1, csr=b"csr"),
    m.PathWanted(id=1, peer="vm2"),
    m.Streams(id=1, streams=(FLOW,), count=1),
    m.Returning(),
]
FROM_GATEWAY: list[m.FromGateway] = [
    m.Welcome(gateway="gw1", now=1.5),
    m.Update(revision=1, full=True, leaves=()),
    m.Refused(reason="no"),
    m.Renewed(id=1, chain="x"),
    m.PathOffered(id=1, ticket="t"),
    m.PathRefused(id=1, reason="no"),
    m.DialBack(ticket="t", peer="vm2"),
    m.StreamsWanted(id=1),
    m.Cut(id=1, reason="no"),
    m.Draining(reason="no"),
]


async def test_every_message_arrives_as_it_was_sent() -> None:
    with channels() as (host, gateway):
        for up in FROM_HOST:
            await host.send(up)
            assert await gateway.receive() == up
        for down in FROM_GATEWAY:
            await gateway.send(down)
            assert await host.receive() == down


def test_the_lists_above_name_every_message() -> None:
    assert {type(message) for message in FROM_HOST} == set(m.FromHost.__args__)
    assert {type(message) for message in FROM_GATEWAY} == set(m.FromGateway.__args__)


@pytest.mark.parametrize("message", FROM_GATEWAY, ids=lambda message: type(message).__name__)
async def test_c22_a_host_that_speaks_like_a_gateway_is_not_heard(message: m.FromGateway) -> None:
    with pytest.raises(ControlEnded, match="cannot be read"):
        await said(msgspec.json.encode(message))


@pytest.mark.parametrize("message", FROM_HOST, ids=lambda message: type(message).__name__)
async def test_c22_a_gateway_that_speaks_like_a_host_is_not_heard(message: m.FromHost) -> None:
    with channels() as (host, gateway):
        await gateway.send(message)  # type: ignore[arg-type]
        with pytest.raises(ControlEnded, match="cannot be read"):
            await host.receive()


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"hello","version":"1","epoch":1,"number":1,"role":"gateway"}',
        b'{"type":"admin","command":"cut"}',
        b'{"type":"hello"}',
        b'{"type":"hello","version":"1","epoch":-1,"number":1}',
        b'{"type":"hello","version":"1","epoch":1,"number":1e3}',
        b'{"type":"hello","version":"1","epoch":1,"number":"1"}',
        b'{"type":"hello","version":"1","epoch":1,"number":18446744073709551616}',
        b'{"type":"report","streams":%s}' % (b"9" * 5000),
        b'{"type":"path-wanted","id":1,"peer":"%s"}' % (b"x" * 1000),
        b'{"type":"renew","id":1,"csr":"%s"}' % (b"AAAA" * 100_000),
        b'{"type":"report","health":{"x":{"state":"splendid"}}}',
        b"[]",
        b"null",
        b"",
        b"{",
    ],
)
async def test_c07_a_message_that_is_not_exactly_one_of_ours_ends_the_session(body: bytes) -> None:
    with pytest.raises(ControlEnded) as caught:
        await said(body)
    assert caught.value.what.startswith("control message") and len(caught.value.what) < 300


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
async def test_h14_numbers_that_are_none_end_the_session_with_the_reason(number: bytes) -> None:
    record = b'{"ts":%s,"id":"f","subject":"s","service":"web","result":"ok"}' % number
    with pytest.raises(ControlEnded, match="control message cannot be read"):
        await said(b'{"type":"flows","records":[%s]}' % record)


async def test_h16_deep_nesting_ends_the_session_with_the_reason() -> None:
    for body in (b"[" * 100_000, b'{"type":"flows","records":' + b"[" * 5000 + b"]" * 5000 + b"}"):
        with pytest.raises(ControlEnded, match="nested deeper than 32 levels"):
            await said(body)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (rb"\ud800", "cannot be read"),
        (rb"\u0000", "NUL"),
        (b"\xff", "UTF-8"),
        (b"\xed\xa0\x80", "UTF-8"),
        (b"x" * 1000, "cannot be read"),
    ],
    ids=["lone surrogate", "NUL", "invalid UTF-8", "encoded surrogate", "too long"],
)
async def test_h18_text_that_is_none_ends_the_session_with_the_reason(text: bytes, reason: str) -> None:
    with pytest.raises(ControlEnded, match=reason):
        await said(b'{"type":"path-wanted","id":1,"peer":"%s"}' % text)


async def test_h18_a_byte_order_mark_ends_the_session_with_the_reason() -> None:
    with pytest.raises(ControlEnded, match="byte order mark"):
        await said(b'\xef\xbb\xbf{"type":"path-wanted","id":1,"peer":"x"}')


async def test_h18_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with hearing() as (sock, gateway):
        sock.sendall((limits.CONTROL_MESSAGE_MAX + 1).to_bytes(4, "big"))
        with pytest.raises(ControlEnded, match="at most 16777216 are allowed"):
            await gateway.receive()


async def test_a_message_of_ours_over_the_limit_is_not_sent() -> None:
    with channels(max_bytes=100) as (host, gateway):
        with pytest.raises(ControlEnded, match="larger than 100"):
            await host.send(m.PathWanted(id=1, peer="x" * 200))
        await host.send(m.PathWanted(id=1, peer="x"))
        assert await gateway.receive() == m.PathWanted(id=1, peer="x")


async def test_the_end_of_the_stream_is_an_end_also_in_the_middle_of_a_message() -> None:
    for piece in (b"", b"\0", b"\0\0\0\x08", b"\0\0\0\x08{"):
        with hearing() as (sock, gateway):
            sock.sendall(piece)
            sock.close()
            with pytest.raises(ControlLost):
                await gateway.receive()


async def test_a_message_in_many_pieces_is_one_message(nursery: trio.Nursery) -> None:
    with hearing() as (sock, gateway):
        body = msgspec.json.encode(FROM_HOST[0])
        data = len(body).to_bytes(4, "big") + body

        async def dribble() -> None:
            for byte in data:
                sock.send(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(dribble)
        assert await gateway.receive() == FROM_HOST[0]


async def test_f11_a_reader_that_stops_ends_the_sender(autojump_clock: trio.testing.MockClock) -> None:
    with channels(buffer=4096) as (host, _gateway), pytest.raises(ControlEnded, match="does not read"):
        while True:
            await host.send(m.Flows(records=(FLOW,) * 1000))


async def test_a_cancelled_message_does_not_garble_the_next(nursery: trio.Nursery) -> None:
    large = m.Flows(records=(FLOW,) * 5000)
    with channels(buffer=4096) as (host, gateway):
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

            nursery.start_soon(cancel)
            await host.send(large)
        assert scope.cancelled_caught
        nursery.start_soon(host.send, FROM_HOST[0])
        assert await gateway.receive() == large
        assert await gateway.receive() == FROM_HOST[0]


async def test_closing_wakes_whoever_waits(nursery: trio.Nursery) -> None:
    with channels(buffer=4096) as (host, gateway):
        ended: list[str] = []

        async def waits(what: str) -> None:
            with pytest.raises(ControlLost):
                if what == "receive":
                    await host.receive()
                else:
                    await host.send(m.Flows(records=(FLOW,) * 5000))
            ended.append(what)

        for what in ("receive", "send"):
            nursery.start_soon(waits, what)
        await trio.testing.wait_all_tasks_blocked()
        host.close()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(ended) == ["receive", "send"]
        with pytest.raises(ControlLost):
            await gateway.send(m.StreamsWanted(id=1))
            await gateway.send(m.StreamsWanted(id=2))


def test_words_always_fit_and_can_always_be_read() -> None:
    for text in ("x" * 5000, "a\0b", "\ud800", "é" * 2000):
        message = m.PathRefused(id=1, reason=m.words(text))
        assert msgspec.json.decode(msgspec.json.encode(message), type=m.FromGateway) == message


async def test_what_an_offer_leaves_goes_out_before_the_next_message() -> None:
    with channels(buffer=4096) as (host, gateway):
        large = m.Report(health={f"web/vm1/{'x' * 50}{n}": Health() for n in range(5000)})
        assert host.is_idle and host.offer(m.Hello(version="1", epoch=1, number=1))
        assert not host.offer(large) and not host.is_idle
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.send_rest)
            nursery.start_soon(host.send, m.Renew(id=1, csr=b"x"))
            heard = [await gateway.receive() for _ in range(3)]
        assert isinstance(heard[0], m.Hello) and heard[1] == large and isinstance(heard[2], m.Renew)
        assert host.is_idle


async def test_an_offer_to_nobody_says_so() -> None:
    with channels() as (host, gateway):
        gateway.close()
        with pytest.raises(ControlLost):
            host.offer(m.Hello(version="1", epoch=1, number=1))
    with channels() as (host, _):
        host.close()
        with pytest.raises(ControlLost):
            host.offer(m.Hello(version="1", epoch=1, number=1))
