"""I/O: a gateway's side of the control streams: one session per connected host.

A session tells its host what it may see and takes what it reports. Who the host is was proved by its tunnel's TLS;
nothing in a message says it again. Of two sessions of one host the one with the higher epoch lives (F19).
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol, TypeVar

import msgspec
import trio

from agents import clock
from agents.control import messages as m
from agents.control.audience import Audience, Hearer
from agents.control.channel import ControlChannel, ControlEnded, ControlLost
from agents.control.link_session import first_words
from agents.control.parts import split
from agents.control.publisher import EstateView
from agents.control.twins import Twins
from agents.guards import must_pass
from agents.supervisor import Latest
from bridge import limits
from bridge.bugs import tell_bug
from bridge.errors import PeerError
from bridge.flows import Flow
from bridge.logs import get_logger
from inventory.errors import MeshError, Unavailable
from inventory.imports import gateway_of, place_of
from inventory.names import shown
from inventory.snapshot import Touched

log = get_logger()

_GATHER = 0.01
"""Changes that come within this time go out as one update."""
_TURN = 0.005
"""Seconds of work on updates between two looks at everything else that this process has to do."""
_FLOWS_MAX = 2000
_CLOCK_LOOK = 60.0
"""A wall clock may jump: look at it this often."""
_LAST_WORD = 1.0
"""Seconds for a host to take the reason for the end of its session."""

Q = TypeVar("Q", m.Renew, m.PathWanted)


class ControlOwner(Protocol):
    """The gateway, as far as its sessions need it."""

    name: str

    def view(self) -> EstateView: ...
    async def admitted(self, host: str, key: str) -> str | None:
        """Why this host with this key gets no session; None when it does."""

    def reported(self, host: str, report: m.Report) -> None: ...
    def connected(self, host: str, hello: m.Hello) -> None: ...
    def disconnected(self, host: str) -> None: ...
    def is_expected(self, host: str) -> bool:
        """Whether a host without a session counts as here all the same: it was a moment ago."""

    def host_flowed(self, host: str, records: tuple[Flow, ...]) -> None: ...
    async def renew(self, host: str, key: str, csr: bytes) -> str:
        """A new chain in PEM. Raises MeshError."""


class PathOffers(Protocol):
    """The paths through this gateway, as far as its sessions need them."""

    def offer(self, a: str, b: str) -> tuple[str, str]:
        """Tickets for `a`, who asked, and for `b`. Raises PeerError."""

    def waiting_for(self, host: str) -> list[tuple[str, str]]:
        """(who asked, ticket) of the paths to which `host` was asked to connect and has not come yet."""


@dataclass(slots=True, eq=False)
class Session:
    """One host's control stream. `not_after` is the end of its certificate, unix seconds."""

    host: str
    key: str
    not_after: float
    channel: ControlChannel[m.FromGateway, m.FromHost]
    hearer: Hearer
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: str = ""
    """Why it is ended from this side."""
    epoch: int = 0
    said_ends: int = 0
    """When its certificate ends, by its own word: it may have a newer one than it came with."""
    reported_at: float = -math.inf
    renewed_at: float = -math.inf
    behind: bool = True
    """Its own task brings it up to date, at the pace at which the host reads."""
    wake: Latest = field(default_factory=Latest)
    working: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(limits.SESSION_QUESTIONS))
    answers: dict[int, trio.MemorySendChannel[m.Streams]] = field(default_factory=dict)

    parts: deque[m.Update] = field(default_factory=deque)
    """Of an update, what has not been sent yet."""

    def end(self, reason: str) -> None:
        self.ended = reason
        self.scope.cancel()

    def catch_up(self) -> None:
        self.behind = True
        self.wake.ask()


class ControlServer:
    """All sessions of a gateway."""

    def __init__(self, owner: ControlOwner, paths: PathOffers) -> None:
        self._owner = owner
        self._paths = paths
        self._sessions: dict[str, Session] = {}
        self._awaited: dict[str, trio.Event] = {}
        """Hosts without a session that somebody waits for."""
        self._returning: set[str] = set()
        """Those that said why they have none and that it takes a little longer."""
        self._audience = Audience(owner.view())
        self._touched: Touched | None = Touched()
        """By what the owner's view differs from the audience's; None: by anything."""
        self._changed = Latest()
        self._due: dict[str, Session] = {}
        """Who may have to hear something, and is not behind."""
        self._first = trio.Lock()
        """One host at a time is told the whole: a thousand that come at once must not hold up the others."""
        self._following = trio.Lock()
        """Nobody is told anything while the audience follows a change."""
        self._ids = count(1)
        self._twins = Twins()

    @property
    def hosts(self) -> frozenset[str]:
        return frozenset(self._sessions)

    def holds(self, host: str) -> bool:
        """Whether the host has a session here."""
        return host in self._sessions

    def publish(self, touched: Touched | None = None) -> None:
        """Something changed: whoever may have to know of it is told soon.

        Args:
            touched: at least what differs; None: anything may.
        """
        self._touched = None if touched is None or self._touched is None else self._touched | touched
        self._changed.ask()

    async def run(self) -> None:
        """Tell the hosts what changed, until cancelled."""
        while True:
            await self._changed.asked()
            await trio.sleep(_GATHER)
            await self._follow()
            began = trio.current_time()
            while self._due:
                _, session = self._due.popitem()
                self._tell_now(session)
                if trio.current_time() - began > _TURN:
                    await trio.lowlevel.checkpoint()
                    await self._follow()  # what came meanwhile does not wait for all who must hear of what was before
                    began = trio.current_time()
            self._audience.forget_places()

    async def _follow(self) -> None:
        if self._touched == Touched():
            return
        async with self._following:
            view, touched = self._owner.view(), self._touched
            self._touched = Touched()
            try:
                began = trio.current_time()
                for hearer in self._audience.follow(view, touched):
                    self._note_due(hearer)
                    if trio.current_time() - began > _TURN:
                        await trio.lowlevel.checkpoint()
                        began = trio.current_time()
            except BaseException as exc:  # a bug here must not leave the hosts with what was so before
                if must_pass(exc):
                    raise
                tell_bug("a change could not be followed", exc)
                for hearer in self._audience.start_over(view):
                    self._note_due(hearer)

    def _note_due(self, hearer: Hearer | None) -> None:
        session = self._sessions.get(hearer.host) if hearer is not None else None
        if session is not None and session.hearer is hearer and not session.behind:
            self._due.pop(session.host, None)
            self._due[session.host] = session  # at the end, which is taken first: the newest news is the most urgent

    def _tell_now(self, session: Session) -> None:
        """Most updates are small and fit the socket; what does not is left to the session's own task."""
        try:
            if session.behind or not session.channel.is_idle:
                session.catch_up()
                return
            update = self._audience.next_update(session.hearer)
            if update is None:
                return
            first, *rest = split(update)
            session.parts += rest
            if not session.channel.offer(first) or rest:
                session.catch_up()
        except ControlEnded as exc:
            session.end(exc.what)
        except BaseException as exc:  # this session's bug and nobody else's (F43)
            if must_pass(exc):
                raise
            tell_bug("control session ended by a bug", exc, host=session.host)
            session.end(f"internal error: {type(exc).__name__}")

    def end(self, host: str, reason: str) -> None:
        """Its host is revoked or removed."""
        session = self._sessions.get(host)
        if session is not None:
            session.end(reason)

    async def say_draining(self, reason: str) -> None:
        """Tell every host to go elsewhere; who has not taken it within DRAIN_NOTICE is not waited for."""

        async def say(session: Session) -> None:
            with contextlib.suppress(ControlEnded):
                await session.channel.send(m.Draining(reason=m.words(reason)))

        with trio.move_on_after(limits.DRAIN_NOTICE):
            async with trio.open_nursery() as nursery:
                for session in list(self._sessions.values()):
                    nursery.start_soon(say, session)

    # --- one session ----------------------------------------------------------------------------------------------

    async def serve(self, sock: socket.socket, host: str, key: str, *, remote: str, not_after: float) -> None:
        """Run a session until it ends. The guard of this connection: no host ends the gateway."""
        session = Session(host, key, not_after, ControlChannel(sock, m.FromHost), Hearer(host))
        try:
            with session.scope:
                await self._serve(session, remote)
        except* ControlLost as group:
            log.info("control session ended", host=host, reason=first_words(group))
        except* MeshError as group:
            session.ended = first_words(group)
        except* BaseException as group:
            if must_pass(group):
                raise
            tell_bug("control session ended by a bug", group, host=host)
        finally:
            await self._over(session)

    async def _over(self, session: Session) -> None:
        self._audience.leave(session.hearer)
        if session.ended:
            log.info("control session ended", host=session.host, reason=session.ended)
            with trio.move_on_after(_LAST_WORD, shield=True), contextlib.suppress(ControlEnded):
                await session.channel.send(m.Refused(reason=m.words(session.ended)))
        session.channel.close()
        for waiting in session.answers.values():
            waiting.close()
        if self._sessions.get(session.host) is session:
            del self._sessions[session.host]
            self._owner.disconnected(session.host)

    async def _serve(self, session: Session, remote: str) -> None:
        refusal = await self._owner.admitted(session.host, session.key)
        if refusal is not None:
            raise PeerError(refusal)
        hello: m.FromHost | None = None
        with trio.move_on_after(limits.PREAUTH_TIMEOUT):
            hello = await session.channel.receive()
        if not isinstance(hello, m.Hello):
            raise PeerError("the first message is not hello")
        self._take_place(session, hello.epoch, remote)
        log.info("host connected", host=session.host, remote=remote, version=hello.version)
        await session.channel.send(m.Welcome(gateway=self._owner.name, now=clock.now()))
        self._owner.connected(session.host, hello)
        self._returning.discard(session.host)
        awaited = self._awaited.pop(session.host, None)
        if awaited is not None:
            awaited.set()
        for peer, ticket in self._paths.waiting_for(session.host):
            # What was sent to the session before this one may have been lost with it; to come twice does no harm.
            await session.channel.send(_dial_back(ticket, peer))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, session)
            nursery.start_soon(self._until_certificate_ends, session)
            while True:
                await self._heard(session, await session.channel.receive(), nursery)

    def _take_place(self, session: Session, epoch: int, remote: str) -> None:
        """Of two sessions of one host the newer one lives (F19)."""
        session.epoch = epoch
        other = self._sessions.get(session.host)
        now = trio.current_time()
        if self._twins.came(session.host, session.key, epoch, remote, is_here=other is not None, now=now):
            log.warning("two machines seem to have one identity", host=session.host, addresses=self.twins[session.host])
        if other is not None and other.epoch > epoch:
            raise PeerError("a newer session of this host is open: does another machine have its identity?")
        if other is not None:
            other.end("a newer session of this host was opened")
        self._sessions[session.host] = session

    async def _until_certificate_ends(self, session: Session) -> None:
        """A tunnel may live on after its certificate; who wants to be told and issued more has to show a good one."""
        while True:
            left = session.not_after + limits.CLOCK_TOLERANCE - clock.now()
            if left <= 0:
                raise PeerError("the certificate of this session has ended; connect again with the new one")
            await trio.sleep(min(left, _CLOCK_LOOK))

    async def _tell(self, session: Session) -> None:
        """Tell the whole, and later what `_tell_now` could not."""
        self._audience.join(session.hearer)
        while True:
            await session.channel.send_rest()
            while session.parts:
                await session.channel.send(session.parts.popleft())
            async with self._first:
                async with self._following:
                    update = self._audience.next_update(session.hearer)
                    # Now: what is followed while this waits for its turn is news to it.
                    session.behind = update is not None
                await trio.lowlevel.checkpoint()
            if update is not None:
                session.parts.extend(split(update))
                continue
            await session.wake.asked()

    async def _heard(self, session: Session, message: m.FromHost, nursery: trio.Nursery) -> None:
        match message:
            case m.Report():
                # A report may concern every other host; whoever changes its mind all the time waits.
                await trio.sleep_until(session.reported_at + limits.REPORT_INTERVAL)
                session.reported_at = trio.current_time()
                session.said_ends = message.certificate_ends
                self._owner.reported(session.host, message)
            case m.Flows():
                records = message.records[:_FLOWS_MAX]
                host = session.host
                self._owner.host_flowed(
                    host, tuple(r if r.host == host else msgspec.structs.replace(r, host=host) for r in records)
                )
            case m.Renew():
                await session.working.acquire()
                nursery.start_soon(self._work, session, self._renew, message)
            case m.PathWanted():
                await session.working.acquire()
                nursery.start_soon(self._work, session, self._path, message)
            case m.Streams():
                waiting = session.answers.pop(message.id, None)
                if waiting is not None:
                    with contextlib.suppress(trio.BrokenResourceError, trio.WouldBlock):
                        waiting.send_nowait(message)
            case m.Returning():
                self._returning.add(session.host)
                raise ControlLost("its agent becomes another version")
            case m.Hello():
                raise PeerError("hello twice")

    async def _work(self, session: Session, work: Callable[[Session, Q], Awaitable[None]], message: Q) -> None:
        """On a question, beside the others: one that waits for another host holds up nothing else."""
        try:
            await work(session, message)
        finally:
            session.working.release()

    async def _renew(self, session: Session, message: m.Renew) -> None:
        due = session.renewed_at + limits.RENEWAL_INTERVAL
        session.renewed_at = max(due, trio.current_time())
        await trio.sleep_until(session.renewed_at)
        try:
            chain = await self._owner.renew(session.host, session.key, message.csr)
            answer = m.Renewed(id=message.id, chain=chain)
        except MeshError as exc:
            answer = m.Renewed(id=message.id, chain="", error=m.words(exc.what))
        await session.channel.send(answer)

    async def _path(self, session: Session, message: m.PathWanted) -> None:
        """A host asks for a way to another: both must be able to see each other, and the other must be here."""
        try:
            peer = await self._path_peer(session, message.peer)
            ours, theirs = self._paths.offer(session.host, message.peer)
            with contextlib.suppress(ControlEnded):  # it may be back at once, and is asked again then
                await peer.channel.send(_dial_back(theirs, session.host))
        except PeerError as exc:
            await session.channel.send(m.PathRefused(id=message.id, reason=m.words(exc.what)))
            return
        await session.channel.send(m.PathOffered(id=message.id, ticket=ours))

    async def _path_peer(self, session: Session, name: str) -> Session:
        """The host at the other end. One that was here a moment ago (a worker that carried its session died, here or
        there) is waited for: whoever asks now would otherwise fail for it."""
        host = session.host
        if name == host or not self._audience.sees(session.hearer, name):
            raise PeerError(f"no rule lets {host} and {shown(name)} reach each other")
        return await self._session_of(name)

    async def own_path(self, name: str) -> str:
        """A ticket for a path from this gateway to a host, which is told to come.

        Raises:
            PeerError: it is not connected to us, or there are too many paths.
        """
        peer = await self._session_of(name)
        place = place_of(self._owner.name)
        ours, theirs = self._paths.offer(place, name)
        with contextlib.suppress(ControlEnded):
            await peer.channel.send(_dial_back(theirs, place))
        return ours

    async def _session_of(self, name: str) -> Session:
        if name not in self._sessions and self._owner.is_expected(name):
            patience = limits.RETURN_PATIENCE if name in self._returning else limits.LINK_PATIENCE
            with trio.move_on_after(patience):
                await self._awaited.setdefault(name, trio.Event()).wait()
        peer = self._sessions.get(name)
        if peer is None:
            raise PeerError(f"host {name} is not connected to gateway {self._owner.name}")
        return peer

    @property
    def twins(self) -> Mapping[str, list[str]]:
        """Hosts whose identity two machines seem to have, with the addresses of those."""
        return self._twins.found(trio.current_time())

    def key_of(self, host: str) -> str | None:
        """Of the session that it has; None when it has none."""
        session = self._sessions.get(host)
        return session.key if session is not None else None

    def certificate_ends(self, lifetime: float) -> dict[str, float]:
        """Of every host that is connected: what it showed, or what it says if that can be."""
        most = clock.now() + lifetime + limits.CLOCK_TOLERANCE
        return {s.host: max(s.not_after, min(s.said_ends, most)) for s in self._sessions.values()}

    # --- asking a host --------------------------------------------------------------------------------------------

    async def streams(self, host: str) -> m.Streams:
        """A host's live streams. Raises Unavailable."""
        return await self._ask(host, lambda number: m.StreamsWanted(id=number))

    async def cut(self, host: str, reason: str) -> m.Streams:
        """Have a host end every live stream. Raises Unavailable."""
        return await self._ask(host, lambda number: m.Cut(id=number, reason=m.words(reason)))

    async def _ask(self, host: str, question: Callable[[int], m.FromGateway]) -> m.Streams:
        session = self._sessions.get(host)
        if session is None:
            raise Unavailable(f"host {host} is not connected", hint="start its agent, or look at `host list`")
        number = next(self._ids)
        send, receive = trio.open_memory_channel[m.Streams](1)
        session.answers[number] = send
        try:
            with trio.move_on_after(limits.CONTROL_REQUEST_TIMEOUT):
                await session.channel.send(question(number))
                return await receive.receive()
        except (ControlEnded, trio.EndOfChannel):
            raise Unavailable(f"host {host} was lost before it answered") from None
        finally:
            session.answers.pop(number, None)
        raise Unavailable(f"host {host} did not answer within {limits.CONTROL_REQUEST_TIMEOUT:.0f} s")


def _dial_back(ticket: str, peer: str) -> m.DialBack:
    """`peer` as in a path: a host's name, or the place of this gateway."""
    gateway = gateway_of(peer)
    if gateway is not None:
        return m.DialBack(ticket=ticket, peer=gateway, role="gateway")
    return m.DialBack(ticket=ticket, peer=peer)
