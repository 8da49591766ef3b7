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
class Look:
    """What a host's sight is made of. Hosts of which the same was signed look alike, and what was found out for one
    holds for all: an `Audience` gives them one object, and a `Place` remembers its answers by it."""

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

    @property
    def key(self) -> tuple[bool, frozenset[str], frozenset[str], int, int]:
        """Equal for those that look alike."""
        return self.blind, self.served, self.mixed, self.outwards, self.inwards


BLIND = Look(True, frozenset(), frozenset(), 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """Good for every snapshot with the same policy, the same entry of this host and the same patterns (see
    `PolicyIndex.target_patterns`) for each service that it serves."""

    host: str
    look: Look

    def sees(self, place: Place) -> bool:
        """Whether the host is in `Visible.hosts`."""
        return not self.look.blind and (place.host == self.host or place.is_seen(self.look))

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
        self._leads = {name: towards(snapshot, name) for name in self.services}
        self.towards = 0
        """The rules that lead to a service here."""
        for mask in self._leads.values():
            self.towards |= mask
        entry = snapshot.host(host)
        known = entry is not None and snapshot.host_revoked(host) is None
        self.callers = snapshot.index.from_host(entry) if known and entry is not None else 0
        """The rules by which it may reach others."""
        self._is_seen: dict[Look, bool] = {}
        self._seen_by: dict[Look, frozenset[str]] = {}
        self._reported: dict[frozenset[str], tuple[Instance, ...]] = {}

    def is_seen(self, look: Look) -> bool:
        """Whether other hosts with this look see the host."""
        seen = self._is_seen.get(look)
        if seen is None:
            by_rules = self.towards & look.outwards or self.callers & look.inwards
            seen = not look.blind and bool(by_rules or not look.mixed.isdisjoint(self.services))
            self._is_seen[look] = seen
        return seen

    def seen_by(self, look: Look) -> frozenset[str]:
        """Of its services, those that are in `Visible.services` of the one who looks."""
        seen = self._seen_by.get(look)
        if seen is None:
            seen = self.services & look.served
            if self.towards & look.outwards:
                seen |= {name for name, mask in self._leads.items() if mask & look.outwards}
            self._seen_by[look] = seen
        return seen

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
        mine = self._reported.get(seen)
        if mine is None:
            whole = len(seen) == len(self.services)
            mine = self._reported[seen] = self.own if whole else tuple(i for i in self.own if i.service in seen)
        return mine


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
        return Sight(host, BLIND)
    index = snapshot.index
    served = frozenset((*entry.serves, *(instance.service for instance in snapshot.placed_on(host))))
    inwards = 0
    for name in served:
        inwards |= towards(snapshot, name)
    mixed = _mixed(snapshot, served)
    return Sight(host, Look(False, served, mixed, index.from_host(entry) & index.acting, inwards & index.acting))


def _mixed(snapshot: Snapshot, names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if patterns(snapshot, name)[1])


def patterns(snapshot: Snapshot, service_name: str) -> tuple[frozenset[int], frozenset[int]]:
    """As `PolicyIndex.target_patterns`; when these differ, other hosts may see the service and what serves it."""
    service = snapshot.service(service_name)
    found = snapshot.index.target_patterns(service_name, service.instances if service is not None else ())
    return frozenset(found[0]), frozenset(found[1])
