"""I/O: a host's side of the control streams: one link to each gateway, kept up with jittered retries.

What a gateway sends is checked by the agent before it counts; losing every gateway changes nothing of what is known. A
link that has to leave a worker, at either end, opens its next control stream before the gateway ends the one it has.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from agents import clock
from agents.backoff import Backoff
from agents.control import messages as m
from agents.control.channel import ControlChannel
from agents.control.link_session import Channel, LinkOwner, LinkSession, SessionOver, refused
from agents.guards import must_pass
from agents.supervisor import Latest
from bridge import limits
from bridge.bugs import tell_bug
from bridge.errors import PeerError
from bridge.flows import Flow
from bridge.lines import plain
from bridge.logs import get_logger
from inventory.errors import MeshError, Unavailable

log = get_logger()

A = TypeVar("A")

_FLOWS_HELD = 2000
_SETTLED = 5.0
"""Seconds a link must have been up for the next failure to count as the first."""

Connect = Callable[[str, socket.socket], None]
"""Has a worker carry a socket, which it owns, as `@control` to the gateway of that name. Raises MeshError."""


class NoWorker(Unavailable):
    """No data worker of ours can carry a control stream just now."""


class GatewayLink:
    """The control stream to one gateway."""

    def __init__(self, gateway: str, owner: LinkOwner, connect: Connect) -> None:
        self.gateway = gateway
        self.since = 0.0
        self.last_error = "not tried yet"
        self.clock_difference: float | None = None
        """Seconds by which the gateway's clock was ahead of ours when it said welcome."""
        self._owner = owner
        self._connect = connect
        self._scope = trio.CancelScope()
        self._worker_error = ""
        self._went_nowhere = False
        """Whether the attempt made last ended in this very process."""
        self._session: LinkSession | None = None
        self._over = trio.Event()
        """Set when the session that counts has ended and no other one took its place."""
        self._down_since = 0.0
        self._decided = trio.Event()
        """Set while it is up, or is down and that is no matter of a moment."""
        self._flows: list[Flow] = []
        self._again = Latest()
        self._move = Latest()
        self._move_within = 0.0
        self._taking_leave = False
        self._moving: trio.Event | None = None
        """Set when the move that is under way is over."""

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def draining(self) -> bool:
        """The gateway said that it will end."""
        return self._session is not None and self._session.draining

    async def decided(self) -> None:
        """Wait until the link is up, or it is clear that it will not be in a moment: it has been down for longer than
        LINK_PATIENCE, and no attempt is under way."""
        await self._decided.wait()

    def failed(self, reason: str) -> None:
        """The worker could not open the stream; its end of the socket is closed, which ends the attempt."""
        self._worker_error = reason
        if not self.connected:
            self.last_error = reason

    def report_changed(self) -> None:
        if self._session is not None:
            self._session.changed.ask()

    def retry_now(self) -> None:
        self._again.ask()

    def move(self, *, within: float) -> None:
        """The worker that carries the control stream, here or at the gateway, is to end: use another one, some time
        within so many seconds, so that not all hosts of a gateway come at once."""
        self._move_within = within
        self._move.ask()

    def end(self) -> None:
        """The operator removed the gateway."""
        self._scope.cancel()

    async def take_leave(self) -> None:
        """Another program takes our place: the gateway is told, and what it said before is heard to the end."""
        self._taking_leave = True
        if self._session is not None:
            await self._session.take_leave()
        self.end()

    def flowed(self, records: tuple[Flow, ...]) -> None:
        """Records for the gateway; the oldest are left out when there are too many (the host's own log has them)."""
        self._flows += records
        del self._flows[:-_FLOWS_HELD]
        self.report_changed()

    # --- keeping it up --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the link up until cancelled or ended."""
        backoff = Backoff(rng=random.Random())
        self._down_since = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._moves, nursery)
                    while True:
                        await self._try(nursery, backoff)
                        # What failed before anything was sent costs nobody else anything to try again.
                        wait = limits.BACKOFF_FIRST if self._went_nowhere else backoff.next()
                        await self._again.asked(within=wait)
        finally:
            self._session = None
            self._decided.set()

    async def _try(self, nursery: trio.Nursery, backoff: Backoff) -> None:
        """One link from its beginning to its end, over however many sessions."""
        self._over = trio.Event()
        if self._decided.is_set():
            self._decided = trio.Event()
        session = await self._open()
        if isinstance(session, str):
            if session != self.last_error and not self._went_nowhere:
                log.warning("gateway not reached", gateway=self.gateway, reason=session)
            self.last_error = session
            if trio.current_time() - self._down_since >= limits.LINK_PATIENCE:
                self._decided.set()
            return
        self._take_place(session, nursery)
        self._decided.set()
        self._owner.link_changed()
        await self._over.wait()
        log.warning("gateway lost", gateway=self.gateway, reason=self.last_error)
        self._owner.link_changed()
        if trio.current_time() - self.since > _SETTLED:
            backoff.reset()

    async def _open(self) -> LinkSession | str:
        """A new session that the gateway has welcomed, or why there is none."""
        self._worker_error = ""
        self._went_nowhere = False
        try:
            return await self._greet()
        except NoWorker as exc:
            self._went_nowhere = True
            return str(exc)
        except MeshError as exc:
            # The worker knows best why the stream was never there; the end of the socket says nothing.
            return self._worker_error or str(exc)
        except OSError as exc:
            return f"out of descriptors: {exc}"
        except BaseException as exc:
            if must_pass(exc):
                raise
            tell_bug("a control link was ended by a bug", exc, gateway=self.gateway)
            return "internal error"

    async def _greet(self) -> LinkSession:
        ours, theirs = socket.socketpair()
        channel: Channel = ControlChannel(ours, m.FromGateway)
        try:
            self._connect(self.gateway, theirs)
            await channel.send(self._owner.hello())
            welcome: m.FromGateway | None = None
            with trio.move_on_after(limits.CONTROL_REQUEST_TIMEOUT + limits.PREAUTH_TIMEOUT):
                welcome = await channel.receive()
            if isinstance(welcome, m.Refused):
                raise PeerError(refused(welcome))
            if not isinstance(welcome, m.Welcome):
                raise PeerError("the gateway did not say welcome")
        except BaseException:
            channel.close()
            raise
        self.clock_difference = welcome.now - clock.now()
        return LinkSession(self.gateway, channel, self._owner, self._flows)

    def _take_place(self, session: LinkSession, nursery: trio.Nursery) -> None:
        """This session counts from now on."""
        before, self._session = self._session, session
        if before is not None:
            before.leave()
        self.since = trio.current_time()
        self.last_error = ""
        nursery.start_soon(self._serve, session)

    async def _serve(self, session: LinkSession) -> None:
        reason = await session.run()
        if self._session is session and self._moving is not None:
            await self._moving.wait()  # the gateway ended this one because the next one is there
        if self._session is session:
            self._session = None
            self.last_error = reason
            self._down_since = trio.current_time()
            self._decided = trio.Event()
            if self._taking_leave:
                self.end()
            else:
                self._over.set()

    async def _moves(self, nursery: trio.Nursery) -> None:
        """Move the control stream when asked to, as often as it takes."""
        while True:
            await self._move.asked()
            await trio.sleep(random.uniform(0.0, self._move_within))
            before = self._session
            backoff = Backoff(rng=random.Random())
            while before is not None and self._session is before and not before.draining:
                self._moving = trio.Event()
                session = await self._open()
                if not isinstance(session, str):
                    self._take_place(session, nursery)
                self._moving.set()
                self._moving = None
                if isinstance(session, str):
                    log.info("control stream not moved yet", gateway=self.gateway, reason=session)
                    await trio.sleep(backoff.next())
                else:
                    self._owner.gateway_moved(self.gateway)

    # --- asking ---------------------------------------------------------------------------------------------------

    async def path(self, peer: str) -> str:
        """A ticket for a path to `peer`. Raises Unavailable."""
        answer = await self._ask(lambda session: session.path(peer))
        if isinstance(answer, m.PathRefused):
            raise Unavailable(plain(answer.reason))
        return answer.ticket

    async def renew(self, csr: bytes) -> str:
        """A new certificate chain in PEM. Raises Unavailable."""
        answer = await self._ask(lambda session: session.renew(csr))
        if not answer.chain:
            raise Unavailable(f"gateway {self.gateway} did not renew: {plain(answer.error)}")
        return answer.chain

    async def _ask(self, question: Callable[[LinkSession], Awaitable[A]]) -> A:
        """Asked again when the session ends unanswered because another one took its place."""
        session = self._session
        if session is None:
            raise Unavailable(f"gateway {self.gateway} is not connected")
        with trio.move_on_after(limits.PATH_TIMEOUT):
            while True:
                try:
                    return await question(session)
                except SessionOver as exc:
                    if self._session is session and self._moving is not None:
                        await self._moving.wait()
                    if self._session is session or self._session is None:
                        why = f": {exc}" if str(exc) else " was lost"
                        raise Unavailable(f"gateway {self.gateway}{why}") from None
                    session = self._session
        raise Unavailable(f"gateway {self.gateway} did not answer within {limits.PATH_TIMEOUT:.0f} s")
