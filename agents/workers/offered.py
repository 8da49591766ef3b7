"""Pure: what streams from peers may be opened to at this node: its own instances; at a gateway also those on the hosts
behind it, with the way there.
"""

from __future__ import annotations

import operator

from inventory.errors import Unavailable
from inventory.model import Instance, Reach
from inventory.reach import ReachUrl, parse_reach, why_leads_back, why_target_refused
from inventory.snapshot import Snapshot


class Offered:
    """Args:
    place: the `host` of our own instances.
    gateway: our name as a gateway; empty at a host, which reaches nobody for others.
    """

    def __init__(self, place: str, gateway: str = "") -> None:
        self._place = place
        self._gateway = gateway
        self._snapshot: Snapshot | None = None
        self._hosts: tuple[str, ...] = ()
        self._urls: dict[str, ReachUrl] = {}
        self._instances: dict[tuple[str, str, str], Instance] = {}
        """By place, service and target."""
        self._offers: list[tuple[Instance, ...]] = []
        self.targets: tuple[str, ...] = ()
        """Those that are dialled from here: our own, and those of hosts reached by tcp."""

    def know(self, snapshot: Snapshot) -> bool:
        """Work from this one; whether any instance is new or gone."""
        before, self._snapshot = self._snapshot, snapshot
        if before is None or snapshot.authority is not before.authority:
            self._hosts = snapshot.behind(self._gateway)
            self._urls = {name: url for name in self._hosts if (url := self._url(snapshot, name)) is not None}
            self._offers = []
        offers = [snapshot.offers(name) for name in (self._place, *self._hosts)]
        if len(offers) == len(self._offers) and all(map(operator.is_, offers, self._offers)):
            return False  # a thousand targets are not read again because somebody else came or went
        self._offers = offers
        self._instances = {(i.host, i.service, i.target): i for offer in offers for i in offer}
        mine = (i for i in self._instances.values() if i.host == self._place or self.is_direct(i.host))
        self.targets = tuple(i.target for i in mine)
        return True

    def _url(self, snapshot: Snapshot, host: str) -> ReachUrl | None:
        reach = snapshot.authority.reaches.get(host)
        return parse_reach(reach.url) if reach is not None and reach.gateway == self._gateway else None

    def _way(self, snapshot: Snapshot | None, host: str) -> tuple[str, bool] | None:
        reach = snapshot.authority.reaches.get(host) if snapshot is not None else None
        return (reach.url, reach.allow_loopback) if reach is not None and reach.gateway == self._gateway else None

    @property
    def is_any_behind(self) -> bool:
        return bool(self._hosts)

    def is_direct(self, host: str) -> bool:
        """Whether we connect to its targets ourselves; else the ssh worker does."""
        url = self._urls.get(host)
        return url is not None and url.scheme == "tcp"

    def instance(self, service: str, target: str, host: str | None = None) -> Instance | None:
        """One of our own, or one on a host behind us."""
        if host == self._place:
            return None  # there is one way to say it
        return self._instances.get((host or self._place, service, target))

    def reach(self, instance: Instance) -> Reach:
        """How its host is reached. Raises Unavailable: nobody has signed that, or it leads back to this gateway."""
        assert self._snapshot is not None
        authority = self._snapshot.authority
        reach, gateway = authority.reaches.get(instance.host), authority.gateways.get(self._gateway)
        if instance.host not in self._urls or reach is None or gateway is None:
            raise Unavailable(f"nobody has signed how gateway {self._gateway} reaches {instance.host}")
        why = why_leads_back(reach, gateway) or why_target_refused(reach, instance.target, gateway)
        if why is not None:
            raise Unavailable(f"{instance.host} is not dialled: {why}")
        return reach

    def gone(self, snapshot: Snapshot) -> dict[str, str]:
        """Of the hosts that were behind this gateway, those that are not any more by this snapshot, or not by the same
        way, and why. Streams by ssh and TLS end with that anyway; what was dialled from here ends by this."""
        found: dict[str, str] = {}
        for name in self._hosts:
            host = snapshot.host(name)
            revoked = snapshot.host_revoked(name)
            if host is None:
                found[name] = f"host {name} was removed"
            elif revoked is not None:
                found[name] = f"host {name} is revoked: {revoked}"
            elif host.via != self._gateway:
                found[name] = f"host {name} is no longer reached by gateway {self._gateway}"
            elif self._way(self._snapshot, name) != self._way(snapshot, name):
                found[name] = f"host {name} is reached in another way now"
        return found
