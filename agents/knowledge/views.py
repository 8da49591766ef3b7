"""Pure: what each gateway says of places, and what a host makes of all of it.

A host hears of the same hosts from every gateway, each of which knows first-hand only those that it holds. So what they
say is kept apart, and what counts of a host is one gateway's word as a whole, never half of one and half of another:
that of a gateway that we hear now and that holds the host, else of one that we hear, else what was said last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from inventory.health import HealthByHost
from inventory.imports import gateway_of
from inventory.model import Health, Instance, Presence
from inventory.policy_document import PolicyLeaf, PolicySlice

FROM_DISK = ""
"""The name, which no gateway can have, of what was known before the start, whoever said it."""


@dataclass(frozen=True)
class View:
    """What one gateway said. Mappings are never changed once made."""

    keys: frozenset[str] = frozenset()
    """Of the entries that it lets us see."""
    policy_number: int = 0
    """Of the policy that `leaves` belong to, as far as that is the one in force."""
    leaves: PolicySlice = ()
    presence: Mapping[str, Presence] = field(default_factory=dict)
    reported: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    health: HealthByHost = field(default_factory=HealthByHost)
    linked: bool = True
    """Whether we hear it now."""

    @property
    def hosts(self) -> set[str]:
        return {*self.presence, *self.reported, *self.health.hosts}


@dataclass(frozen=True)
class Places:
    """What counts, of all hosts."""

    presence: Mapping[str, Presence]
    reported: Mapping[str, tuple[Instance, ...]]
    health: HealthByHost


def places(views: Mapping[str, View], before: Places, touched: Iterable[str]) -> Places:
    """What counts now, where at most `touched` hosts differ from `before`."""
    if len(views) == 1:
        [only] = views.values()
        return Places(only.presence, only.reported, only.health)
    presence, reported = dict(before.presence), dict(before.reported)
    health: dict[str, Mapping[str, Health]] = {}
    for host in touched:
        here, instances, states = place_of(views, host)
        if here is None:
            presence.pop(host, None)
        elif presence.get(host) != here:
            presence[host] = here
        if not instances:
            reported.pop(host, None)
        elif reported.get(host) != instances:
            reported[host] = instances
        if before.health.on(host) != states:
            health[host] = states
    return Places(presence, reported, before.health.with_hosts(health))


def place_of(
    views: Mapping[str, View], host: str
) -> tuple[Presence | None, tuple[Instance, ...], Mapping[str, Health]]:
    """Where one host is, what it serves and how that is."""
    view = min(views.items(), key=lambda item: _rank(item[0], item[1], host))[1]
    here = view.presence.get(host)
    if here is not None:
        gateways = _holders(views, host)
        if here.gateways != gateways:
            here = msgspec.structs.replace(here, gateways=gateways)
    return here, view.reported.get(host, ()), view.health.on(host)


def _rank(name: str, view: View, host: str) -> tuple[int, bool, str]:
    """The least counts. Of gateways that hold a host alike, one that has its report goes before one that has not."""
    if gateway_of(host) == name:
        return 0, False, name  # what a gateway brings in is known to itself alone
    here = view.presence.get(host)
    if here is None:
        knowing = 3
    elif name in here.gateways:
        knowing = 0
    else:
        knowing = 1 if here.online else 2
    rank = 6 if here is None else knowing if view.linked else 3 + knowing
    return rank, not (view.reported.get(host) or view.health.on(host)), name


def _holders(views: Mapping[str, View], host: str) -> tuple[str, ...]:
    """The gateways that hold the host: those that we hear if there are any, else those that did when we heard them."""
    holding = [
        (name, view)
        for name, view in sorted(views.items())
        if (here := view.presence.get(host)) is not None and name in here.gateways
    ]
    heard = tuple(name for name, view in holding if view.linked)
    if heard:
        return heard
    if holding:
        return tuple(name for name, _ in holding)
    disk = views.get(FROM_DISK)
    kept = disk.presence.get(host) if disk is not None else None
    return kept.gateways if kept is not None else ()


def leaves_in_force(views: Mapping[str, View], policy_number: int) -> PolicySlice:
    """The allow rules of the policy in force, from whoever knows it. Each is proved against what the operator signed,
    so none can be too many."""
    known = [view.leaves for view in views.values() if view.policy_number == policy_number]
    if not known:
        return ()
    first = known[0]
    if all(leaves is first or leaves == first for leaves in known[1:]):
        return first
    by_index: dict[int, PolicyLeaf] = {leaf.index: leaf for leaves in known for leaf in leaves}
    return tuple(by_index[index] for index in sorted(by_index))


def with_linked(views: Mapping[str, View], names: frozenset[str]) -> Mapping[str, View]:
    """The same with those of `names`, and no other, heard now; itself when that is so already."""
    if all(view.linked == (name in names) for name, view in views.items()):
        return views
    return {name: replace(view, linked=name in names) for name, view in views.items()}
