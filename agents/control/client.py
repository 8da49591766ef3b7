"""I/O: a host's side of the control streams: one link to each gateway, kept up with jittered retries.

What a gateway sends is checked by the agent before it counts; losing every gateway changes nothing of what is known.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Protocol, TypeVar

import structlog
import trio

from agents import clock
from agents.backoff import Backoff
from agents.control import messages as m
from agents.control.channel import ControlChannel, ControlEnded
from agents.supervisor import Latest
from bridge import limits
from bridge.errors import PeerError
from bridge.flows import Flow
from inventory.errors import MeshError, Unavailable

log = structlog.get_logger()

A = TypeVar("A")

_FLOWS_HELD = 2000
_SETTLED = 5.0
"""Seconds a link must have lasted for the next failure to count as the first."""


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


Connect = Callable[[str, socket.socket], Awaitable[None]]
"""Has the worker carry a socket as `@control` to the gateway of that name."""


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
        self._channel: ControlChannel[m.FromHost, m.FromGateway] | None = None
        self._ids = count(1)
        self._paths: dict[int, trio.MemorySendChannel[m.PathOffered | m.PathRefused]] = {}
        self._renewals: dict[int, trio.MemorySendChannel[m.Renewed]] = {}
        self._changed = Latest()
        self._flows: list[Flow] = []
        self._again = Latest()

    def failed(self, reason: str) -> None:
        """The worker could not open the stream; its end of the socket is closed, which ends the attempt."""
        self.last_error = reason

    def report_changed(self) -> None:
        self._changed.ask()

    def retry_now(self) -> None:
        self._again.ask()

    def flowed(self, records: tuple[Flow, ...]) -> None:
        """Records for the gateway; the oldest are left out when there are too many (the host's own log has them)."""
        self._flows = (self._flows + list(records))[-_FLOWS_HELD:]
        self._changed.ask()

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        backoff = Backoff(rng=random.Random())
        while True:
            started = trio.current_time()
            try:
                await self._once()
            except* MeshError as group:
                if self.connected or self.last_error == "not tried yet":
                    self.last_error = str(group.exceptions[0])
            except* Exception as group:
                log.error("control link ended by a bug", gateway=self.gateway, error=repr(group.exceptions[0]))
            was, self.connected, self._channel = self.connected, False, None
            if was:
                log.warning("gateway lost", gateway=self.gateway, reason=self.last_error)
                self._owner.link_changed()
            if trio.current_time() - started > _SETTLED:
                backoff.reset()
            await self._again.asked(within=backoff.next())

    async def _once(self) -> None:
        ours, theirs = socket.socketpair()
        channel: ControlChannel[m.FromHost, m.FromGateway] = ControlChannel(ours, m.FromGateway)
        try:
            try:
                await self._connect(self.gateway, theirs)
            finally:
                theirs.close()
            await channel.send(self._owner.hello())
            welcome: m.FromGateway | None = None
            with trio.move_on_after(limits.CONTROL_REQUEST_TIMEOUT + limits.PREAUTH_TIMEOUT):
                welcome = await channel.receive()
            if not isinstance(welcome, m.Welcome):
                raise PeerError("the gateway did not say welcome")
            self._channel, self.connected = channel, True
            self.since = trio.current_time()
            self.clock_difference = welcome.now - clock.now()
            self.draining = False
            self.last_error = ""
            self._owner.link_changed()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._report, channel)
                while True:
                    await self._heard(channel, await channel.receive(), nursery)
        finally:
            with trio.move_on_after(1, shield=True):
                await channel.aclose()

    async def _report(self, channel: ControlChannel[m.FromHost, m.FromGateway]) -> None:
        said: m.Report | None = None
        while True:
            report = self._owner.report()
            if report != said:
                said = report
                await channel.send(report)
            if self._flows:
                records, self._flows = tuple(self._flows[:500]), self._flows[500:]
                await channel.send(m.Flows(records=records))
            if not self._flows:
                await self._changed.asked()

    async def _heard(
        self, channel: ControlChannel[m.FromHost, m.FromGateway], message: m.FromGateway, nursery: trio.Nursery
    ) -> None:
        match message:
            case m.Update():
                await self._owner.updated(self.gateway, message)
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
            case m.Welcome():
                raise PeerError("welcome twice")

    async def _streams(self, channel: ControlChannel[m.FromHost, m.FromGateway], message: m.StreamsWanted) -> None:
        await channel.send(m.Streams(id=message.id, streams=await self._owner.live_streams()))

    async def _cut(self, channel: ControlChannel[m.FromHost, m.FromGateway], message: m.Cut) -> None:
        cut = await self._owner.cut_streams(message.reason)
        await channel.send(m.Streams(id=message.id, streams=cut, cut=len(cut)))

    # --- asking ---------------------------------------------------------------------------------------------------

    async def path(self, peer: str) -> str:
        """A ticket for a path to `peer`. Raises Unavailable."""
        answer = await self._ask(self._paths, lambda number: m.PathWanted(id=number, peer=peer))
        if isinstance(answer, m.PathRefused):
            raise Unavailable(answer.reason)
        return answer.ticket

    async def renew(self, csr: bytes) -> str:
        """A new certificate chain in PEM. Raises Unavailable."""
        answer = await self._ask(self._renewals, lambda number: m.Renew(id=number, csr=csr))
        if not answer.chain:
            raise Unavailable(f"gateway {self.gateway} did not renew: {answer.error}")
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
        finally:
            waiting.pop(number, None)
        raise Unavailable(f"gateway {self.gateway} did not answer within {limits.PATH_TIMEOUT:.0f} s")


def _answer(waiting: dict[int, trio.MemorySendChannel[Any]], number: int, message: object) -> None:
    channel = waiting.pop(number, None)
    if channel is not None:
        with contextlib.suppress(trio.BrokenResourceError, trio.WouldBlock):
            channel.send_nowait(message)
