"""I/O: a gateway's side of the control streams: one session per connected host.

A session tells its host what it may see and takes what it reports. Who the host is was proved by its tunnel's TLS;
nothing in a message says it again. Of two sessions of one host the one with the higher epoch lives (F19).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import msgspec
import structlog
import trio

from agents import clock
from agents.control import messages as m
from agents.control.channel import ControlChannel, ControlEnded
from agents.control.publisher import EstateView, Sent, update_for
from agents.supervisor import Latest
from bridge import limits
from bridge.errors import PeerError
from bridge.flows import Flow
from inventory.errors import MeshError, Unavailable
from inventory.names import shown
from inventory.visibility import visible

log = structlog.get_logger()

_GATHER = 0.01
"""Changes that come within this time go out as one update."""
_FLOWS_MAX = 2000


class ControlOwner(Protocol):
    """The gateway, as far as its sessions need it."""

    name: str

    def view(self) -> EstateView: ...
    async def admitted(self, host: str, key: str) -> str | None:
        """Why this host with this key gets no session; None when it does."""

    def reported(self, host: str, report: m.Report) -> None: ...
    def connected(self, host: str, hello: m.Hello) -> None: ...
    def disconnected(self, host: str) -> None: ...
    def host_flowed(self, host: str, records: tuple[Flow, ...]) -> None: ...
    async def renew(self, host: str, key: str, csr: bytes) -> str:
        """A new chain in PEM. Raises MeshError."""


@dataclass(slots=True, eq=False)
class Session:
    host: str
    key: str
    channel: ControlChannel[m.FromGateway, m.FromHost]
    scope: trio.CancelScope
    epoch: int = 0
    wake: Latest = field(default_factory=Latest)
    answers: dict[int, trio.MemorySendChannel[m.Streams]] = field(default_factory=dict)


class ControlServer:
    """All sessions of a gateway. `offer_path` makes two tickets for two hosts, or raises PeerError."""

    def __init__(self, owner: ControlOwner, offer_path: Callable[[str, str], tuple[str, str]]) -> None:
        self._owner = owner
        self._offer_path = offer_path
        self._sessions: dict[str, Session] = {}
        self._ids = count(1)

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(self._sessions)

    def publish(self) -> None:
        """Something changed: every session looks whether its host must know."""
        for session in self._sessions.values():
            session.wake.ask()

    def end(self, host: str) -> None:
        """Its host is revoked or removed."""
        session = self._sessions.get(host)
        if session is not None:
            session.scope.cancel()

    async def say_draining(self, reason: str) -> None:
        """Tell every host to go elsewhere."""
        for session in list(self._sessions.values()):
            with contextlib.suppress(ControlEnded):
                await session.channel.send(m.Draining(reason=reason))

    # --- one session ----------------------------------------------------------------------------------------------

    async def serve(self, sock: socket.socket, host: str, key: str, remote: str) -> None:
        """Run a session until it ends. The guard of this connection: no host ends the gateway."""
        channel: ControlChannel[m.FromGateway, m.FromHost] = ControlChannel(sock, m.FromHost)
        session = Session(host, key, channel, trio.CancelScope())
        try:
            with session.scope:
                await self._serve(session, remote)
        except* MeshError as group:
            log.info("control session ended", host=host, reason=_words(group))
        except* Exception as group:
            log.error("control session ended by a bug", host=host, reason=_words(group))
        finally:
            with trio.move_on_after(1, shield=True):
                await channel.aclose()
            if self._sessions.get(host) is session:
                del self._sessions[host]
                self._owner.disconnected(host)

    async def _serve(self, session: Session, remote: str) -> None:
        refusal = await self._owner.admitted(session.host, session.key)
        if refusal is not None:
            raise PeerError(f"refused: {refusal}")
        hello: m.FromHost | None = None
        with trio.move_on_after(limits.PREAUTH_TIMEOUT):
            hello = await session.channel.receive()
        if not isinstance(hello, m.Hello):
            raise PeerError("the first message is not hello")
        session.epoch = hello.epoch
        other = self._sessions.get(session.host)
        if other is not None and other.epoch > session.epoch:
            raise PeerError("a newer session of this host is open")
        if other is not None:
            other.scope.cancel()
        self._sessions[session.host] = session
        log.info("host connected", host=session.host, remote=remote, version=hello.version)
        await session.channel.send(m.Welcome(gateway=self._owner.name, now=clock.now()))
        self._owner.connected(session.host, hello)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, session)
            while True:
                await self._heard(session, await session.channel.receive(), nursery)

    async def _tell(self, session: Session) -> None:
        sent = Sent()
        while True:
            update = update_for(session.host, self._owner.view(), sent)
            if update is not None:
                await session.channel.send(update)
            await session.wake.asked()
            await trio.sleep(_GATHER)

    async def _heard(self, session: Session, message: m.FromHost, nursery: trio.Nursery) -> None:
        match message:
            case m.Report():
                self._owner.reported(session.host, message)
            case m.Flows():
                records = message.records[:_FLOWS_MAX]
                self._owner.host_flowed(
                    session.host, tuple(msgspec.structs.replace(r, host=session.host) for r in records)
                )
            case m.Renew():
                nursery.start_soon(self._renew, session, message)
            case m.PathWanted():
                await self._path(session, message)
            case m.Streams():
                waiting = session.answers.pop(message.id, None)
                if waiting is not None:
                    with contextlib.suppress(trio.BrokenResourceError, trio.WouldBlock):
                        waiting.send_nowait(message)
            case m.Hello():
                raise PeerError("hello twice")

    async def _renew(self, session: Session, message: m.Renew) -> None:
        try:
            chain = await self._owner.renew(session.host, session.key, message.csr)
            answer = m.Renewed(id=message.id, chain=chain)
        except MeshError as exc:
            answer = m.Renewed(id=message.id, chain="", error=exc.what)
        await session.channel.send(answer)

    async def _path(self, session: Session, message: m.PathWanted) -> None:
        """A host asks for a way to another: both must be able to see each other, and the other must be here."""
        snapshot = self._owner.view().snapshot
        peer = self._sessions.get(message.peer)
        seen = visible(snapshot, session.host).hosts
        reason = None
        if message.peer not in seen or snapshot.host_revoked(message.peer) is not None:
            reason = f"no rule lets {session.host} and {shown(message.peer)} reach each other"
        elif peer is None:
            reason = f"host {message.peer} is not connected to gateway {self._owner.name}"
        if reason is not None or peer is None:
            await session.channel.send(m.PathRefused(id=message.id, reason=reason or ""))
            return
        try:
            ours, theirs = self._offer_path(session.host, message.peer)
        except PeerError as exc:
            await session.channel.send(m.PathRefused(id=message.id, reason=exc.what))
            return
        with contextlib.suppress(ControlEnded):
            await peer.channel.send(m.DialBack(ticket=theirs, peer=session.host))
        await session.channel.send(m.PathOffered(id=message.id, ticket=ours))

    # --- asking a host --------------------------------------------------------------------------------------------

    async def streams(self, host: str) -> m.Streams:
        """A host's live streams. Raises Unavailable."""
        return await self._ask(host, lambda number: m.StreamsWanted(id=number))

    async def cut(self, host: str, reason: str) -> m.Streams:
        """Have a host end every live stream. Raises Unavailable."""
        return await self._ask(host, lambda number: m.Cut(id=number, reason=reason))

    async def _ask(self, host: str, question: Callable[[int], m.FromGateway]) -> m.Streams:
        session = self._sessions.get(host)
        if session is None:
            raise Unavailable(f"host {host} is not connected", hint="start its agent, or look at `host list`")
        number = next(self._ids)
        send, receive = trio.open_memory_channel[m.Streams](1)
        session.answers[number] = send
        with trio.move_on_after(limits.CONTROL_REQUEST_TIMEOUT):
            await session.channel.send(question(number))
            return await receive.receive()
        session.answers.pop(number, None)
        raise Unavailable(f"host {host} did not answer within {limits.CONTROL_REQUEST_TIMEOUT:.0f} s")


def _words(group: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
