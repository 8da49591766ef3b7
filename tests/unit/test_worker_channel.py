"""I/O: messages with descriptors over a socketpair: whole or not at all, in order, whatever is cancelled or lost."""

from __future__ import annotations

import array
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
import trio
import trio.testing

from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed

ToWorker = Channel[m.ToWorker, m.FromWorker]
FromWorker = Channel[m.FromWorker, m.ToWorker]


@contextmanager
def channels(*, buffer: int | None = None) -> Iterator[tuple[ToWorker, FromWorker]]:
    ours, theirs = socket.socketpair()
    if buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    supervisor: ToWorker = Channel(ours, m.FromWorker)
    worker: FromWorker = Channel(theirs, m.ToWorker)
    try:
        yield supervisor, worker
    finally:
        supervisor.close()
        worker.close()


def listen(port: int) -> m.Listen:
    return m.Listen(service="web", site=None, address="127.96.0.2", port=port)


LARGE = m.Drain(reason="x" * 2_000_000)


async def test_messages_arrive_in_order_with_their_own_descriptors() -> None:
    with channels() as (supervisor, worker):
        pairs = [socket.socketpair() for _ in range(3)]
        for number, (end, other) in enumerate(pairs):
            await supervisor.send(m.Unlisten(address="127.96.0.2", port=number))
            await supervisor.send(listen(number), [end.fileno()])
            end.close()
            other.send(b"%d" % number)
        for number in range(3):
            assert await worker.receive() == (m.Unlisten(address="127.96.0.2", port=number), [])
            message, socks = await worker.receive()
            assert message == listen(number)
            assert [sock.recv(9) for sock in socks] == [b"%d" % number]
            assert not socks[0].get_inheritable()
            socks[0].close()
        for _, other in pairs:
            other.close()


async def test_two_descriptors_come_with_one_message() -> None:
    with channels() as (supervisor, worker):
        a, b = socket.socketpair()
        await supervisor.send(m.Join(id=1, a="vm1", b="vm2"), [a.fileno(), b.fileno()])
        message, socks = await worker.receive()
        assert message == m.Join(id=1, a="vm1", b="vm2") and len(socks) == 2
        for sock in (a, b, *socks):
            sock.close()


async def test_a_large_message_waits_for_its_reader_and_others_for_it(nursery: trio.Nursery) -> None:
    with channels() as (supervisor, worker):
        nursery.start_soon(supervisor.send, LARGE)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(supervisor.send, m.ListStreams(id=7))
        assert (await worker.receive())[0] == LARGE
        assert (await worker.receive())[0] == m.ListStreams(id=7)


async def test_a_cancelled_send_leaves_the_stream_of_messages_readable(nursery: trio.Nursery) -> None:
    with channels(buffer=4096) as (supervisor, worker):
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await supervisor.send(LARGE)
        assert scope.cancelled_caught
        nursery.start_soon(supervisor.send, m.ListStreams(id=8))
        assert (await worker.receive())[0] == LARGE, "its rest goes out with the next message"
        assert (await worker.receive())[0] == m.ListStreams(id=8)


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


async def test_closing_wakes_whoever_waits(nursery: trio.Nursery) -> None:
    with channels(buffer=4096) as (supervisor, _worker):
        ended = []

        async def ends(call: object, *args: object) -> None:
            with pytest.raises(ChannelClosed):
                await call(*args)  # type: ignore[operator]
            ended.append(call)

        nursery.start_soon(ends, supervisor.send, LARGE)
        nursery.start_soon(ends, supervisor.receive)
        await trio.testing.wait_all_tasks_blocked()
        supervisor.close()
        await trio.testing.wait_all_tasks_blocked()
        assert len(ended) == 2
        with pytest.raises(ChannelClosed):
            await supervisor.receive()
        with pytest.raises(ChannelClosed):
            await supervisor.send(m.ListStreams(id=1))


async def test_the_end_of_the_other_process_is_an_end_for_both_calls() -> None:
    with channels() as (supervisor, worker):
        worker.close()
        with pytest.raises(ChannelClosed):
            await supervisor.receive()
        with pytest.raises(ChannelClosed):
            await supervisor.send(m.ListStreams(id=1))


@pytest.mark.parametrize("body", [b"\xc1", msgspec.msgpack.encode({"type": "nonsense"}), b""])
async def test_what_is_no_message_ends_the_channel_and_nothing_else(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel: FromWorker = Channel(ours, m.ToWorker)
    theirs.send(len(body).to_bytes(4, "big") + body)
    with pytest.raises(ChannelClosed):
        await channel.receive()
    channel.close()
    theirs.close()


async def test_f29_descriptors_that_were_lost_are_not_taken_from_another_message() -> None:
    """Out of descriptors the kernel drops them; the next message must not be given those of the one before."""
    with channels() as (supervisor, worker):
        first, second = socket.socketpair()
        await supervisor.send(listen(1), [first.fileno()])
        await supervisor.send(listen(2), [second.fileno()])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_lowest_free(), hard))
        try:
            assert await worker.receive() == (listen(1), [])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        message, socks = await worker.receive()
        assert message == listen(2)
        assert [os.fstat(s.fileno()).st_ino for s in socks] == [os.fstat(second.fileno()).st_ino]
        for sock in (first, second, *socks):
            sock.close()


def _lowest_free() -> int:
    fd = os.dup(0)
    os.close(fd)
    return fd


async def test_a_message_without_the_descriptors_it_names_is_refused() -> None:
    with channels() as (supervisor, worker):
        await supervisor.send(listen(1))
        with pytest.raises(ChannelClosed, match="without the descriptors"):
            await worker.receive()


async def test_too_few_descriptors_are_closed_and_none_are_given() -> None:
    ours, theirs = socket.socketpair()
    channel: FromWorker = Channel(theirs, m.ToWorker)
    body = msgspec.msgpack.encode(m.Join(id=1, a="vm1", b="vm2"))
    one, other = socket.socketpair()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))]
    ours.sendmsg([len(body).to_bytes(4, "big") + body], rights)
    one.close()
    assert await channel.receive() == (m.Join(id=1, a="vm1", b="vm2"), [])
    assert other.recv(1) == b"", "the copy that came was closed"
    for end in (channel, ours, other):
        end.close()


async def test_of_several_that_are_closed_each_says_so() -> None:
    """Two tasks that wait for closed sockets wait for the same number, which trio lets nobody do."""
    with channels() as (one, other), channels() as (third, _):
        for channel in (one, third):
            channel.close()
            with pytest.raises(ChannelClosed):
                await channel.discard()
        other.close()
