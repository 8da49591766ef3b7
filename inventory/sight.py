"""Pure: what `visible` says as a whole, asked about one host at a time: does this host see that one, and that service?

The rules about a host and about a service are sets of bits (see `policy_index`), so each answer is an `&` or two, and
nothing has to be kept for each pair. A `Sight` is of the one who looks, a `Place` of the one who is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from inventory.model import Instance
from inventory.policy_index import bits_of
from inventory.snapshot import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Good for every snapshot with the same policy, the same entry of this host and the same patterns (see
    `PolicyIndex.target_patterns`) for each service that it serves."""

    host: str
    blind: bool
    """It is unknown or revoked and sees nothing, not even itself."""
    served: frozenset[str]
    """What it may serve."""
    mixed: frozenset[str]
    """Of these, the services that differ in a label that a rule asks for."""
    outwards: int
    """The rules by which it may reach others."""
    inwards: int
    """The rules by which others may reach what it serves."""

    def sees(self, place: Place) -> bool:
        """Whether the host is in `Visible.hosts`."""
        if self.blind:
            return False
        return bool(
            place.host == self.host
            or place.towards & self.outwards
            or place.callers & self.inwards
            or (self.mixed and not self.mixed.isdisjoint(place.services))
        )

    def is_told(self, place: Place) -> bool:
        """Whether it hears of the host; of itself always, also when it is revoked."""
        return place.host == self.host or self.sees(place)


class Place:
    """One host as others see it, in one snapshot."""

    def __init__(self, snapshot: Snapshot, host: str) -> None:
        self.host = host
        self.offers = snapshot.offers(host)
        self.services = frozenset(instance.service for instance in self.offers)
        self.own = snapshot.reported_on(host)
        """Of these, the ones that are there by its own word."""
        self._acting = snapshot.index.acting
        self._leads = {name: towards(snapshot, name) for name in self.services}
        self.towards = 0
        """The rules that lead to a service here."""
        for mask in self._leads.values():
            self.towards |= mask
        entry = snapshot.host(host)
        known = entry is not None and snapshot.host_revoked(host) is None
        self.callers = snapshot.index.from_host(entry) if known and entry is not None else 0
        """The rules by which it may reach others."""

    def seen_by(self, sight: Sight) -> frozenset[str]:
        """Of its services, those that are in `Visible.services` of the one who looks."""
        seen = self.services & sight.served
        by_rules = self.towards & sight.outwards
        if by_rules:
            seen = seen.union(*(self._by_rule[bit] for bit in bits_of(by_rules)))
        return seen

    @cached_property
    def _by_rule(self) -> dict[int, list[str]]:
        """Position of an acting rule -> the services here to which it leads."""
        found: dict[int, list[str]] = {}
        for name, mask in self._leads.items():
            for bit in bits_of(mask & self._acting):
                found.setdefault(bit, []).append(name)
        return found

    @cached_property
    def ids(self) -> dict[str, list[str]]:
        """Service -> ids of its instances here."""
        found: dict[str, list[str]] = {}
        for instance_id, instance in self.instances.items():
            found.setdefault(instance.service, []).append(instance_id)
        return found

    @cached_property
    def instances(self) -> dict[str, Instance]:
        """Those that count, by id."""
        return {instance.id: instance for instance in self.offers}

    def reported(self, seen: frozenset[str]) -> tuple[Instance, ...]:
        """What it says itself that it serves, of these services."""
        return self.own if len(seen) == len(self.services) else tuple(i for i in self.own if i.service in seen)


def towards(snapshot: Snapshot, service_name: str) -> int:
    """The rules that lead to a service; those that do not let anybody see it are among them."""
    index, service = snapshot.index, snapshot.service(service_name)
    return index.to_instances(service_name, ()) if service is None else index.to_service(service)


def callers(snapshot: Snapshot, mask: int) -> set[str]:
    """The hosts that one of these rules lets in, revoked ones among them."""
    index = snapshot.index
    patterns = {number for bit in bits_of(mask & index.acting) for number in index.rules[bit].sources}
    return {name for number in patterns for name in snapshot.hosts_by_source.get(number, ())}


def sight_of(snapshot: Snapshot, host: str) -> Sight:
    entry = snapshot.host(host)
    if entry is None or snapshot.host_revoked(host) is not None:
        return Sight(host, True, frozenset(), frozenset(), 0, 0)
    index = snapshot.index
    served = frozenset((*entry.serves, *(instance.service for instance in snapshot.placed_on(host))))
    inwards = 0
    for name in served:
        inwards |= towards(snapshot, name)
    mixed = _mixed(snapshot, served)
    return Sight(host, False, served, mixed, index.from_host(entry) & index.acting, inwards & index.acting)


def _mixed(snapshot: Snapshot, names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if patterns(snapshot, name)[1])


def patterns(snapshot: Snapshot, service_name: str) -> tuple[frozenset[int], frozenset[int]]:
    """As `PolicyIndex.target_patterns`; when these differ, other hosts may see the service and what serves it."""
    service = snapshot.service(service_name)
    found = snapshot.index.target_patterns(service_name, service.instances if service is not None else ())
    return frozenset(found[0]), frozenset(found[1])
