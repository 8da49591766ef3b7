"""I/O: a host's links to its gateways: one to each that the operator named, and what is asked of whichever is up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import trio

from agents.control.client import GatewayLink
from agents.control.link_session import LinkOwner
from agents.data_workers import DataWorkers
from agents.workers import messages as m
from bridge import limits
from bridge.flows import Flow
from inventory.errors import MeshError, Unavailable
from inventory.model import Gateway
from inventory.snapshot import Snapshot


class GatewayLinks:
    """Owner of the links. `snapshot` gives what is known now: gateways change while links live."""

    def __init__(self, owner: LinkOwner, workers: DataWorkers, snapshot: Callable[[], Snapshot]) -> None:
        self._owner = owner
        self._workers = workers
        self._snapshot = snapshot
        self._links: dict[str, GatewayLink] = {}

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
            raise Unavailable("no data worker is ready")

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

    async def find_path(self, peer: str) -> m.PathFound | m.PathFailed:
        """Ask the gateways that hold the peer first; the first ticket wins."""
        presence = self._snapshot().presence.get(peer)
        near = presence.gateways if presence is not None else ()
        if not self.is_any_connected:
            with trio.move_on_after(limits.LINK_PATIENCE):
                for link in self:
                    await link.attempt_over()
        links = [link for link in self if link.connected and not link.draining]
        reasons = []
        for link in sorted(links, key=lambda link: link.gateway not in near):
            gateway = self._gateways.get(link.gateway)
            if gateway is None:
                continue
            try:
                ticket = await link.path(peer)
                return m.PathFound(peer=peer, gateway=link.gateway, address=gateway.address, ticket=ticket)
            except MeshError as exc:
                reasons.append(exc.what)
        return m.PathFailed(peer=peer, reason="; ".join(reasons) or "no gateway is connected")

    async def renew(self, csr: bytes) -> str:
        """A new certificate chain from whichever gateway gives one. Raises Unavailable with every reason."""
        reasons = []
        for link in list(self):
            try:
                return await link.renew(csr)
            except MeshError as exc:
                reasons.append(exc.what)
        raise Unavailable("; ".join(reasons) or "no gateway is known")
