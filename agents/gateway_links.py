"""I/O: a host's links to its gateways: one to each that the operator named, and what is asked of whichever is up."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import Callable, Collection, Iterator, Mapping

import trio

from agents.control.client import GatewayLink, NoWorker
from agents.control.link_session import LinkOwner
from agents.data_workers import DataWorkers
from agents.workers import messages as m
from bridge import limits
from bridge.flows import Flow
from inventory.errors import MeshError, Unavailable
from inventory.imports import place_of
from inventory.model import Gateway, Presence
from inventory.snapshot import Snapshot


class GatewayLinks:
    """Owner of the links.

    Args:
        name: of the host.
        snapshot: gives what is known now: gateways change while links live.
        returns: whether a program before us in this process had links, which are opened again now.
    """

    def __init__(
        self,
        name: str,
        owner: LinkOwner,
        workers: DataWorkers,
        snapshot: Callable[[], Snapshot],
        *,
        returns: bool = False,
    ) -> None:
        self._name = name
        self._owner = owner
        self._workers = workers
        self._snapshot = snapshot
        self._links: dict[str, GatewayLink] = {}
        self._up = trio.Event()
        """Set when one of them was up for the first time."""
        self._returns_until = trio.current_time() + limits.RETURN_PATIENCE if returns else -math.inf
        self._lost: tuple[tuple[str, ...], Mapping[str, Presence]] = ((), {})
        self._with_lost: Mapping[str, Presence] = {}
        """What `with_lost` made of these."""

    def __iter__(self) -> Iterator[GatewayLink]:
        return iter(self._links.values())

    def get(self, gateway: str) -> GatewayLink | None:
        return self._links.get(gateway)

    @property
    def _gateways(self) -> dict[str, Gateway]:
        return dict(self._snapshot().authority.gateways)

    @property
    def is_any_connected(self) -> bool:
        return any(link.connected for link in self)

    def why_none(self) -> str:
        """Why no gateway is reached; empty when one is, or there is none."""
        if self.is_any_connected:
            return ""
        return "; ".join(f"gateway {link.gateway} is not reached: {link.last_error}" for link in self)

    def with_lost(self, presence: Mapping[str, Presence]) -> Mapping[str, Presence]:
        """`presence`, and that of the gateways whose link is down: what they bring in is better had through another."""
        lost = tuple(sorted(link.gateway for link in self if not link.connected))
        if not lost:
            return presence
        if self._lost[0] != lost or self._lost[1] is not presence:
            self._lost = (lost, presence)
            self._with_lost = {**presence, **{p: Presence(host=p, online=False) for p in map(place_of, lost)}}
        return self._with_lost

    def follow(self, nursery: trio.Nursery) -> None:
        """One link to every gateway that the operator named, and to no other."""
        gateways = self._gateways
        for name in self._links.keys() - gateways.keys():
            self._links.pop(name).end()
        for name in gateways:
            if name not in self._links:
                link = self._links[name] = GatewayLink(name, self._owner, self._open)
                nursery.start_soon(link.run)

    def _open(self, gateway: str, sock: socket.socket) -> None:
        """Have a worker carry the socket as the control stream to a gateway. Owns the socket."""
        known = self._gateways.get(gateway)
        if known is None:
            sock.close()
            raise Unavailable(f"gateway {gateway} was removed")
        if self._workers.tell_one(m.OpenControl(gateway=gateway, address=known.address), [sock]) is None:
            raise NoWorker("no data worker is ready")

    def report_changed(self) -> None:
        for link in self:
            link.report_changed()

    def retry_now(self) -> None:
        for link in self:
            link.retry_now()

    def move(self, gateway: str, *, within: float) -> None:
        """Have the control stream to a gateway use another worker, some time within so many seconds."""
        link = self._links.get(gateway)
        if link is not None:
            link.move(within=within)

    def move_all(self) -> None:
        for link in self:
            link.move(within=0.0)

    def flowed(self, records: tuple[Flow, ...]) -> None:
        """Records for one gateway, whichever is up."""
        link = next((link for link in self if link.connected), None)
        if link is not None:
            link.flowed(records)

    async def take_leave(self) -> None:
        """Another program takes our place, and opens the links anew."""
        async with trio.open_nursery() as nursery:
            for link in self:
                nursery.start_soon(link.take_leave)

    def one_is_up(self) -> None:
        self._up.set()

    async def up(self) -> None:
        """Wait until there is one that is up."""
        await self._up.wait()

    async def returned(self) -> None:
        """Where a program before us had links, wait until there is one again, or should have been."""
        with trio.move_on_at(self._returns_until):
            await self._up.wait()

    async def find_path(self, peer: str, avoid: Collection[str] = ()) -> m.PathFound | m.PathFailed:
        """Ask the gateways that hold the peer first, of those the ones at our own site; the first ticket wins.

        Args:
            avoid: gateways through which it was tried already.
        """
        await self.returned()
        if not self.is_any_connected:
            with trio.move_on_after(limits.LINK_PATIENCE):
                await self._any_connected()
        links = [link for link in self if link.connected and not link.draining and link.gateway not in avoid]
        random.shuffle(links)  # where they are alike, paths are spread over them
        links.sort(key=lambda link: self._distance(link.gateway, peer))
        tickets = _Tickets()
        async with trio.open_nursery() as nursery:
            for link in links:
                done = trio.Event()
                nursery.start_soon(tickets.ask, link, peer, done, nursery.cancel_scope)
                with trio.move_on_after(limits.PATH_HEDGE):
                    await done.wait()
        if tickets.won is None:
            return m.PathFailed(peer=peer, reason="; ".join(tickets.reasons) or "no gateway is connected")
        gateway, ticket = tickets.won
        known = self._gateways.get(gateway)
        if known is None:
            return m.PathFailed(peer=peer, reason=f"gateway {gateway} was removed")
        is_only = len(links) == 1
        return m.PathFound(peer=peer, gateway=gateway, address=known.address, ticket=ticket, is_only=is_only)

    async def _any_connected(self) -> None:
        """Until a link is up, or it is clear that none will be in a moment."""

        async def wait(link: GatewayLink) -> None:
            await link.decided()
            if link.connected:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for link in self:
                nursery.start_soon(wait, link)

    def _distance(self, gateway: str, peer: str) -> tuple[bool, bool]:
        snapshot = self._snapshot()
        presence, known, me = snapshot.presence.get(peer), self._gateways.get(gateway), snapshot.host(self._name)
        site = me.site if me is not None else None
        return (
            presence is None or gateway not in presence.gateways,
            site is not None and (known is None or known.site != site),
        )

    async def renew(self, csr: bytes) -> str:
        """A new certificate chain from whichever gateway gives one. Raises Unavailable with every reason."""
        reasons = []
        for link in list(self):
            try:
                return await link.renew(csr)
            except MeshError as exc:
                reasons.append(exc.what)
        raise Unavailable("; ".join(reasons) or "no gateway is known")


class _Tickets:
    """What gateways answered to one question, asked of one after the other."""

    def __init__(self) -> None:
        self.won: tuple[str, str] | None = None
        """Gateway and ticket."""
        self.reasons: list[str] = []

    async def ask(self, link: GatewayLink, peer: str, done: trio.Event, others: trio.CancelScope) -> None:
        try:
            ticket = await link.path(peer)
        except MeshError as exc:
            self.reasons.append(exc.what)
        else:
            self.won = self.won or (link.gateway, ticket)
            others.cancel()
        done.set()
