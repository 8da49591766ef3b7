"""I/O: one control stream of a host, from the gateway's welcome to its end: what is heard, reported and asked on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol, TypeVar

import trio

from agents.control import messages as m
from agents.control.channel import ControlChannel, ControlEnded
from agents.control.parts import Parts
from agents.guards import must_pass
from agents.supervisor import Latest
from bridge import limits
from bridge.bugs import tell_bug
from bridge.errors import PeerError
from bridge.flows import Flow
from bridge.lines import plain
from inventory.errors import MeshError, Unavailable

A = TypeVar("A")
Channel = ControlChannel[m.FromHost, m.FromGateway]

_FLOWS_AT_ONCE = 500


class SessionOver(Exception):
    """The session ended before it answered."""


class LinkOwner(Protocol):
    """The agent, as far as its links need it."""

    def hello(self) -> m.Hello: ...
    def report(self) -> m.Report: ...
    async def updated(self, gateway: str, update: m.Update) -> None: ...
    async def dial_back(self, gateway: str, message: m.DialBack) -> None: ...
    async def live_streams(self) -> tuple[Flow, ...]: ...
    async def cut_streams(self, reason: str) -> tuple[Flow, ...]: ...
    async def gateway_draining(self, gateway: str) -> None: ...
    def gateway_moved(self, gateway: str) -> None:
        """The control stream goes to other workers of the gateway now: those before it take no new streams."""

    def link_changed(self) -> None: ...


class LinkSession:
    """A control stream that is up.

    Args:
        flows: records that the gateway has not been sent yet; they are taken from it.
    """

    def __init__(self, gateway: str, channel: Channel, owner: LinkOwner, flows: list[Flow]) -> None:
        self.changed = Latest()
        self.draining = False
        self._gateway = gateway
        self._channel = channel
        self._owner = owner
        self._flows = flows
        self._leaving = False
        self._scope = trio.CancelScope()
        self._reports = trio.CancelScope()
        self._over = trio.Event()
        self._ids = count(1)
        self._paths: dict[int, trio.MemorySendChannel[m.PathOffered | m.PathRefused]] = {}
        self._renewals: dict[int, trio.MemorySendChannel[m.Renewed]] = {}

    def leave(self) -> None:
        """Another session has taken its place: nothing is reported here any more and no news counts; what was asked
        on it may still be answered until the gateway ends it, which it does at once."""
        self._leaving = True
        self._reports.cancel()
        self._scope.deadline = trio.current_time() + limits.CONTROL_REQUEST_TIMEOUT

    async def take_leave(self) -> None:
        """Another program takes our place: say so, and return when the gateway has ended the session for it."""
        with contextlib.suppress(ControlEnded):
            await self._channel.send(m.Returning())
            await self._over.wait()

    async def run(self) -> str:
        """Until it ends; why it did."""
        reason = ""
        try:
            with self._scope:
                await self._serve()
        except* MeshError as group:
            reason = first_words(group)
        except* OSError as group:
            reason = f"out of descriptors: {first_words(group)}"
        except* BaseException as group:
            if must_pass(group):
                raise
            reason = "internal error"
            tell_bug("a control link was ended by a bug", group, gateway=self._gateway)
        finally:
            self._channel.close()
            for path in self._paths.values():
                path.close()
            for renewal in self._renewals.values():
                renewal.close()
            self._paths.clear()
            self._renewals.clear()
            self._over.set()
        return reason

    async def _serve(self) -> None:
        parts = Parts()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report)
            while True:
                await self._heard(await self._channel.receive(), nursery, parts)

    async def _report(self) -> None:
        said: m.Report | None = None
        with self._reports:
            while True:
                report = self._owner.report()
                if report != said:
                    said = report
                    await self._channel.send(report)
                    # The gateway takes no more: what came faster would wait in the stream, and be old when it is read.
                    await trio.sleep(limits.REPORT_INTERVAL)
                if self._flows:
                    records = tuple(self._flows[:_FLOWS_AT_ONCE])
                    del self._flows[:_FLOWS_AT_ONCE]
                    await self._channel.send(m.Flows(records=records))
                if not self._flows:
                    await self.changed.asked()

    async def _heard(self, message: m.FromGateway, nursery: trio.Nursery, parts: Parts) -> None:
        match message:
            case m.Update():
                update = parts.add(message)
                if update is not None and not self._leaving:
                    await self._owner.updated(self._gateway, update)
            case m.DialBack():
                await self._owner.dial_back(self._gateway, message)
            case m.PathOffered() | m.PathRefused():
                _answer(self._paths, message.id, message)
            case m.Renewed():
                _answer(self._renewals, message.id, message)
            case m.StreamsWanted():
                nursery.start_soon(self._streams, message)
            case m.Cut():
                nursery.start_soon(self._cut, message)
            case m.Draining():
                self.draining = True
                await self._owner.gateway_draining(self._gateway)
            case m.Refused():
                raise PeerError(refused(message))
            case m.Welcome():
                raise PeerError("welcome twice")

    async def _streams(self, message: m.StreamsWanted) -> None:
        with contextlib.suppress(Unavailable):  # without a worker there is no answer, and the asker says so
            streams = await self._owner.live_streams()
            listed = streams[: limits.STREAMS_LISTED]
            await self._channel.send(m.Streams(id=message.id, streams=listed, count=len(streams)))

    async def _cut(self, message: m.Cut) -> None:
        with contextlib.suppress(Unavailable):
            cut = await self._owner.cut_streams(message.reason)
            listed = cut[: limits.STREAMS_LISTED]
            await self._channel.send(m.Streams(id=message.id, streams=listed, count=len(cut), cut=len(cut)))

    # --- asking ---------------------------------------------------------------------------------------------------

    async def path(self, peer: str) -> m.PathOffered | m.PathRefused:
        """Raises SessionOver."""
        return await self._ask(self._paths, lambda number: m.PathWanted(id=number, peer=peer))

    async def renew(self, csr: bytes) -> m.Renewed:
        """Raises SessionOver."""
        return await self._ask(self._renewals, lambda number: m.Renew(id=number, csr=csr))

    async def _ask(self, waiting: dict[int, trio.MemorySendChannel[A]], question: Callable[[int], m.FromHost]) -> A:
        number = next(self._ids)
        send, receive = trio.open_memory_channel[A](1)
        waiting[number] = send
        try:
            await self._channel.send(question(number))
            return await receive.receive()
        except ControlEnded as exc:
            raise SessionOver(exc.what) from None
        except trio.EndOfChannel:
            raise SessionOver("") from None
        finally:
            waiting.pop(number, None)


def _answer(waiting: dict[int, trio.MemorySendChannel[Any]], number: int, message: object) -> None:
    channel = waiting.pop(number, None)
    if channel is not None:
        with contextlib.suppress(trio.BrokenResourceError, trio.WouldBlock):
            channel.send_nowait(message)


def refused(message: m.Refused) -> str:
    return f"the gateway refused the session: {plain(message.reason)}"


def first_words(group: BaseExceptionGroup[BaseException]) -> str:
    """What the first error in a group says."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
