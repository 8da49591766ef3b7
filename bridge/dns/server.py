"""I/O: the DNS server on a host's loopback address: UDP and TCP on one port, both asking `answer.answer`.

Nothing that a client sends ends it: a bad packet is dropped and the loop goes on, a bad TCP connection is closed. It
never asks another server, never listens anywhere but where it is told, and keeps nothing between two queries.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import partial

import trio

from bridge import limits
from bridge.dns.answer import Transport, answer
from bridge.dns.zone import Zone
from bridge.ports import Protocol, holder_of
from inventory.endpoints import Endpoint
from inventory.errors import InputError, MeshError, Unavailable

Sockets = tuple[socket.socket, socket.socket]
"""One that listens, and one for datagrams."""
GetZone = Callable[[], Zone | None]
"""The zone of this moment; None while nothing is known, which clients are told as SERVFAIL."""
OnBug = Callable[[Exception], None]
"""Told of every exception that no client should be able to cause. Must not raise."""

_BACKLOG = 128


async def serve(
    endpoint: Endpoint,
    get_zone: GetZone,
    *,
    on_bug: OnBug,
    sockets: Sockets | None = None,
    opened: Callable[[Sockets], None] = lambda _: None,
    task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer on `endpoint` until cancelled; `task_status` gets the endpoint bound (port 0: the kernel chooses).

    Args:
        sockets: bound already, by the process before this one. Owned from here on.
        opened: is told which sockets are used, before they are.

    Raises:
        InputError: the address is not a literal loopback address.
        Unavailable: it cannot be bound; the message says who holds it, where that can be found out.
    """
    if not endpoint.is_loopback:
        raise InputError("the DNS server listens on loopback only", where=str(endpoint), hint="give 127.x.y.z:PORT")
    sockets = sockets or await _open(endpoint)
    opened(sockets)
    with (
        trio.socket.from_stdlib_socket(sockets[0]) as listening,
        trio.socket.from_stdlib_socket(sockets[1]) as datagrams,
    ):
        bound = Endpoint(endpoint.host, listening.getsockname()[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_datagrams, datagrams, get_zone, on_bug)
            nursery.start_soon(_serve_listener, trio.SocketListener(listening), get_zone, on_bug)
            task_status.started(bound)


async def _open(endpoint: Endpoint) -> Sockets:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    listening, datagrams = socket.socket(family, socket.SOCK_STREAM), socket.socket(family, socket.SOCK_DGRAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await _bind(listening, endpoint, "tcp")
        await _bind(datagrams, Endpoint(endpoint.host, listening.getsockname()[1]), "udp")
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        datagrams.close()
        raise
    listening.setblocking(False)
    datagrams.setblocking(False)
    return listening, datagrams


async def _bind(sock: socket.socket, endpoint: Endpoint, protocol: Protocol) -> None:
    try:
        sock.bind((endpoint.host, endpoint.port))
    except OSError as exc:
        raise await trio.to_thread.run_sync(_why_not_bound, exc, endpoint, protocol) from None


def _why_not_bound(exc: OSError, endpoint: Endpoint, protocol: Protocol) -> MeshError:
    what = f"the DNS server cannot listen ({protocol}): {exc.strerror}"
    hint = "choose another address with --dns ADDR:PORT"
    if exc.errno == errno.EADDRINUSE:
        holder = holder_of(endpoint.host, endpoint.port, protocol)
        if holder is not None:
            what += f"; {holder} holds it"
            hint = f"stop it, or {hint}"
    elif exc.errno == errno.EACCES:
        hint = "ports under 1024 need root; " + hint
    return Unavailable(what, where=str(endpoint), hint=hint)


def _answer(get_zone: GetZone, query: bytes, transport: Transport, on_bug: OnBug) -> bytes | None:
    """The guard of every query: a bug of ours costs that one answer."""
    try:
        return answer(get_zone(), query, transport)
    except Exception as exc:
        on_bug(exc)
        return None


async def serve_datagrams(sock: trio.socket.SocketType, get_zone: GetZone, on_bug: OnBug) -> None:
    """Answer every datagram to where it came from. Ends only when cancelled or when the socket is gone."""
    while True:
        query, sender = await sock.recvfrom(limits.DNS_QUERY_MAX + 1)
        reply = _answer(get_zone, query, "udp", on_bug)
        if reply is None:
            continue
        try:
            await sock.sendto(reply, sender)
        except OSError:
            # A sender that cannot be answered (port 0, a firewall's EPERM) is that sender's loss.
            continue


async def _serve_listener(listener: trio.SocketListener, get_zone: GetZone, on_bug: OnBug) -> None:
    places = trio.Semaphore(limits.DNS_TCP_CONNECTIONS)
    await trio.serve_listeners(partial(serve_stream, places, get_zone, on_bug), [listener])


async def serve_stream(places: trio.Semaphore, get_zone: GetZone, on_bug: OnBug, stream: trio.abc.Stream) -> None:
    """One TCP connection: closed at once when there is no place left for it (C41), else when it is idle or wrong."""
    async with stream:
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            await _serve_queries(stream, get_zone, on_bug)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            places.release()


async def _serve_queries(stream: trio.abc.Stream, get_zone: GetZone, on_bug: OnBug) -> None:
    """Each query has DNS_TCP_IDLE from the last answer to its last byte, and its answer as long to be taken."""
    unread = bytearray()
    while True:
        with trio.move_on_after(limits.DNS_TCP_IDLE) as idle:
            query = await _read_query(stream, unread)
        if idle.cancelled_caught or query is None:
            return
        reply = _answer(get_zone, query, "tcp", on_bug)
        if reply is None:
            return
        with trio.move_on_after(limits.DNS_TCP_IDLE) as stuck:
            await stream.send_all(len(reply).to_bytes(2, "big") + reply)
        if stuck.cancelled_caught:
            return


async def _read_query(stream: trio.abc.Stream, unread: bytearray) -> bytes | None:
    """The next query behind its two bytes of length (RFC 1035 section 4.2.2); None when there is none to come.

    Args:
        unread: what was received and not used yet; kept from call to call.
    """
    if not await _fill(stream, unread, 2):
        return None
    length = int.from_bytes(unread[:2], "big")
    if length > limits.DNS_QUERY_MAX or not await _fill(stream, unread, 2 + length):
        return None
    query = bytes(unread[2 : 2 + length])
    del unread[: 2 + length]
    return query


async def _fill(stream: trio.abc.Stream, unread: bytearray, size: int) -> bool:
    """Receive until `unread` holds `size` bytes; False at the end of the stream."""
    while len(unread) < size:
        received = await stream.receive_some(limits.DNS_QUERY_MAX)
        if not received:
            return False
        unread += received
    return True
