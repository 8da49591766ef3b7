"""Pure: how many instances each service has in each state, kept by counting again only what a change touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from bridge.counters import InstanceState
from inventory.model import Service
from inventory.snapshot import Snapshot

_STATES: tuple[InstanceState, ...] = get_args(InstanceState)


class InstanceCounts:
    """The counts of one snapshot after another. Whoever makes a snapshot says which hosts it touched."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._counts: dict[tuple[str, InstanceState], int] = {}
        self._hosts: set[str] = set()

    def touched(self, hosts: Iterable[str] | None) -> None:
        """These hosts' instances or their health may differ in the next snapshot; None: anybody's."""
        if hosts is None:
            self._snapshot = None
        elif self._snapshot is not None:
            self._hosts.update(hosts)

    def count(self, snapshot: Snapshot) -> Mapping[tuple[str, InstanceState], int]:
        """Service and state -> how many."""
        before, hosts, self._hosts = self._snapshot, self._hosts, set()
        self._snapshot = snapshot
        if before is None:
            self._counts = {}
            names: Iterable[str] = snapshot.services
        else:
            names = {i.service for host in hosts for known in (before, snapshot) for i in known.offers(host)}
        for name in names:
            self._recount(snapshot, name, snapshot.service(name))
        return self._counts

    def _recount(self, snapshot: Snapshot, name: str, service: Service | None) -> None:
        for state in _STATES:
            self._counts.pop((name, state), None)
        for instance in service.instances if service is not None else ():
            now: InstanceState = "draining" if instance.draining else snapshot.health_of(instance).state
            self._counts[name, now] = self._counts.get((name, now), 0) + 1
