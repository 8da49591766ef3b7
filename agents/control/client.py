"""I/O: a host's side of the control streams: one link to each gateway, kept up with jittered retries.

What a gateway sends is checked by the agent before it counts; losing every gateway changes nothing of what is known.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol, TypeVar

import trio

from agents import clock
from agents.backoff import Backoff
from agents.control import messages as m
from agents.control.channel import ControlChannel, ControlEnded
from agents.control.parts import Parts
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
Channel = ControlChannel[m.FromHost, m.FromGateway]

_FLOWS_HELD = 2000
_FLOWS_AT_ONCE = 500
_SETTLED = 5.0
"""Seconds a link must have been up for the next failure to count as the first."""


class LinkOwner(Protocol):
    """The agent, as far as its links need it."""

    def hello(self) -> m.Hello: ...
    def report(self) -> m.Report: ...
    async def updated(self, gateway: str, update: m.Update) -> None: ...
    async def dial_back(self, gateway: str, message: m.DialBack) -> None: ...
    async def live_streams(self) -> tuple[Flow, ...]: ...
    async def cut_streams(self, reason: str) -> tuple[Flow, ...]: ...
    async def gateway_draining(self, gateway: str) -> None: ...
    def link_changed(self) -> None: ...


Connect = Callable[[str, socket.socket], None]
"""Has a worker carry a socket, which it owns, as `@control` to the gateway of that name. Raises MeshError."""


class GatewayLink:
    """The control stream to one gateway."""

    def __init__(self, gateway: str, owner: LinkOwner, connect: Connect) -> None:
        self.gateway = gateway
        self.connected = False
        self.since = 0.0
        self.last_error = "not tried yet"
        self.draining = False
        self.clock_difference: float | None = None
        """Seconds by which the gateway's clock was ahead of ours when it said welcome."""
        self._owner = owner
        self._connect = connect
        self._channel: Channel | None = None
        self._scope = trio.CancelScope()
        self._worker_error = ""
        self._ids = count(1)
        self._paths: dict[int, trio.MemorySendChannel[m.PathOffered | m.PathRefused]] = {}
        self._renewals: dict[int, trio.MemorySendChannel[m.Renewed]] = {}
        self._changed = Latest()
        self._flows: list[Flow] = []
        self._again = Latest()

    def failed(self, reason: str) -> None:
        """The worker could not open the stream; its end of the socket is closed, which ends the attempt."""
        self._worker_error = reason
        if not self.connected:
            self.last_error = reason

    def report_changed(self) -> None:
        self._changed.ask()

    def retry_now(self) -> None:
        self._again.ask()

    def end(self) -> None:
        """The operator removed the gateway."""
        self._scope.cancel()

    def flowed(self, records: tuple[Flow, ...]) -> None:
        """Records for the gateway; the oldest are left out when there are too many (the host's own log has them)."""
        self._flows = (self._flows + list(records))[-_FLOWS_HELD:]
        self._changed.ask()

    # --- keeping it up --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the link up until cancelled or ended."""
        backoff = Backoff(rng=random.Random())
        with self._scope:
            while True:
                await self._try(backoff)
                await self._again.asked(within=backoff.next())

    async def _try(self, backoff: Backoff) -> None:
        """One link from its beginning to its end, whatever ends it."""
        self._worker_error = ""
        reason = ""
        try:
            await self._once()
        except* MeshError as group:
            reason = first_words(group)
        except* OSError as group:
            reason = f"out of descriptors: {first_words(group)}"
        except* Exception as group:
            reason = "internal error"
            tell_bug("control link ended by a bug", group, gateway=self.gateway)
        finally:
            was, self.connected, self._channel = self.connected, False, None
            self._forget_questions()
        # The worker knows best why the stream was never there; the end of the socket says nothing.
        self.last_error = self._worker_error or reason
        if was:
            log.warning("gateway lost", gateway=self.gateway, reason=self.last_error)
            self._owner.link_changed()
            if trio.current_time() - self.since > _SETTLED:
                backoff.reset()

    def _forget_questions(self) -> None:
        for path in self._paths.values():
            path.close()
        for renewal in self._renewals.values():
            renewal.close()
        self._paths.clear()
        self._renewals.clear()

    async def _once(self) -> None:
        ours, theirs = socket.socketpair()
        channel: Channel = ControlChannel(ours, m.FromGateway)
        try:
            self._connect(self.gateway, theirs)
            await channel.send(self._owner.hello())
            welcome: m.FromGateway | None = None
            with trio.move_on_after(limits.CONTROL_REQUEST_TIMEOUT + limits.PREAUTH_TIMEOUT):
                welcome = await channel.receive()
            if isinstance(welcome, m.Refused):
                raise PeerError(_refused(welcome))
            if not isinstance(welcome, m.Welcome):
                raise PeerError("the gateway did not say welcome")
            self._up(channel, welcome)
            parts = Parts()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report, channel)
                while True:
                    await self._heard(channel, await channel.receive(), nursery=nursery, parts=parts)
        finally:
            channel.close()

    def _up(self, channel: Channel, welcome: m.Welcome) -> None:
        self._channel, self.connected = channel, True
        self.since = trio.current_time()
        self.clock_difference = welcome.now - clock.now()
        self.draining = False
        self.last_error = ""
        self._owner.link_changed()

    async def _report(self, channel: Channel) -> None:
        said: m.Report | None = None
        while True:
            report = self._owner.report()
            if report != said:
                said = report
                await channel.send(report)
            if self._flows:
                records, self._flows = tuple(self._flows[:_FLOWS_AT_ONCE]), self._flows[_FLOWS_AT_ONCE:]
                await channel.send(m.Flows(records=records))
            if not self._flows:
                await self._changed.asked()

    async def _heard(self, channel: Channel, message: m.FromGateway, *, nursery: trio.Nursery, parts: Parts) -> None:
        match message:
            case m.Update():
                update = parts.add(message)
                if update is not None:
                    await self._owner.updated(self.gateway, update)
            case m.DialBack():
                await self._owner.dial_back(self.gateway, message)
            case m.PathOffered() | m.PathRefused():
                _answer(self._paths, message.id, message)
            case m.Renewed():
                _answer(self._renewals, message.id, message)
            case m.StreamsWanted():
                nursery.start_soon(self._streams, channel, message)
            case m.Cut():
                nursery.start_soon(self._cut, channel, message)
            case m.Draining():
                self.draining = True
                await self._owner.gateway_draining(self.gateway)
            case m.Refused():
                raise PeerError(_refused(message))
            case m.Welcome():
                raise PeerError("welcome twice")

    async def _streams(self, channel: Channel, message: m.StreamsWanted) -> None:
        with contextlib.suppress(Unavailable):  # without a worker there is no answer, and the asker says so
            streams = await self._owner.live_streams()
            await channel.send(m.Streams(id=message.id, streams=streams[: limits.STREAMS_LISTED], count=len(streams)))

    async def _cut(self, channel: Channel, message: m.Cut) -> None:
        with contextlib.suppress(Unavailable):
            cut = await self._owner.cut_streams(message.reason)
            await channel.send(
                m.Streams(id=message.id, streams=cut[: limits.STREAMS_LISTED], count=len(cut), cut=len(cut))
            )

    # --- asking ---------------------------------------------------------------------------------------------------

    async def path(self, peer: str) -> str:
        """A ticket for a path to `peer`. Raises Unavailable."""
        answer = await self._ask(self._paths, lambda number: m.PathWanted(id=number, peer=peer))
        if isinstance(answer, m.PathRefused):
            raise Unavailable(plain(answer.reason))
        return answer.ticket

    async def renew(self, csr: bytes) -> str:
        """A new certificate chain in PEM. Raises Unavailable."""
        answer = await self._ask(self._renewals, lambda number: m.Renew(id=number, csr=csr))
        if not answer.chain:
            raise Unavailable(f"gateway {self.gateway} did not renew: {plain(answer.error)}")
        return answer.chain

    async def _ask(self, waiting: dict[int, trio.MemorySendChannel[A]], question: Callable[[int], m.FromHost]) -> A:
        channel = self._channel
        if channel is None:
            raise Unavailable(f"gateway {self.gateway} is not connected")
        number = next(self._ids)
        send, receive = trio.open_memory_channel[A](1)
        waiting[number] = send
        try:
            with trio.move_on_after(limits.PATH_TIMEOUT):
                await channel.send(question(number))
                return await receive.receive()
        except ControlEnded as exc:
            raise Unavailable(f"gateway {self.gateway}: {exc.what}") from None
        except trio.EndOfChannel:
            raise Unavailable(f"gateway {self.gateway} was lost") from None
        finally:
            waiting.pop(number, None)
        raise Unavailable(f"gateway {self.gateway} did not answer within {limits.PATH_TIMEOUT:.0f} s")


def _answer(waiting: dict[int, trio.MemorySendChannel[Any]], number: int, message: object) -> None:
    channel = waiting.pop(number, None)
    if channel is not None:
        with contextlib.suppress(trio.BrokenResourceError, trio.WouldBlock):
            channel.send_nowait(message)


def _refused(message: m.Refused) -> str:
    return f"the gateway refused the session: {plain(message.reason)}"


def first_words(group: BaseExceptionGroup[BaseException]) -> str:
    """What the first error in a group says."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
