"""Pure: what a gateway's data workers are told of the estate: who may connect and relay; and of what the gateway serves
for others (what it brings in, and what is on the hosts that it reaches), all that it takes to decide about it as a host
decides about its own services; and of what it publishes, all that it takes to get there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from agents.workers import messages as m
from agents.workers.placement import Placed
from inventory.health import HealthByHost
from inventory.imports import place_of
from inventory.model import Instance, Publication, Reach, Service
from inventory.policy_index import bits_of
from inventory.snapshot import Snapshot


def served(snapshot: Snapshot, gateway: str) -> list[Service]:
    """The services that this gateway takes streams to, with all their instances: also those that others serve, because
    what a rule says of labels is about all of them."""
    names = {wanted.service for wanted in snapshot.authority.imports.values() if wanted.gateway == gateway}
    names.update(instance.service for host in snapshot.behind(gateway) for instance in snapshot.offers(host))
    names |= published(snapshot, gateway)
    return [service for name in sorted(names) if (service := snapshot.service(name)) is not None]


def published(snapshot: Snapshot, gateway: str) -> set[str]:
    """Services to which this gateway takes those for whom it speaks, wherever they are served."""
    behind = set(snapshot.behind(gateway))
    publications = snapshot.authority.publications.values()
    return {one.service for one in publications if one.gateway == gateway or one.host in behind}


def authority_for_workers(snapshot: Snapshot, gateway: str) -> m.Authority:
    """Hosts and revocations; and the rules about what this gateway serves for others, if anything."""
    authority, index = snapshot.authority, snapshot.index
    mine = {name: _without_secrets(reach) for name, reach in authority.reaches.items() if reach.gateway == gateway}
    nothing = replace(
        authority, invites={}, instances={}, imports={}, reaches=mine, publications=_published_here(snapshot, gateway),
        numbers={}, policy=None, policy_number=0, number=0, head="",
    )  # fmt: skip
    services = served(snapshot, gateway)
    if not services:
        return m.Authority(state=nothing, allows=())
    mask = 0
    for service in services:
        mask |= index.to_service(service)
    names = {service.name for service in services}
    placed = (i for service in services for i in service.instances if i.id in authority.instances)
    state = replace(
        nothing,
        policy=authority.policy,
        instances={i.id: i for i in placed},
        imports={i: wanted for i, wanted in authority.imports.items() if wanted.service in names},
    )
    return m.Authority(state=state, allows=tuple(index.rules[bit].rule for bit in bits_of(mask & index.allows)))


def _published_here(snapshot: Snapshot, gateway: str) -> dict[str, Publication]:
    behind = set(snapshot.behind(gateway))
    publications = snapshot.authority.publications.items()
    return {i: one for i, one in publications if one.gateway == gateway or one.host in behind}


def _without_secrets(reach: Reach) -> Reach:
    """Data workers connect to the host, or ask the ssh worker to: what that one needs is its own."""
    return msgspec.structs.replace(reach, credential=None, host_keys=(), ca=None)


def placement_for_workers(snapshot: Snapshot, gateway: str, leaving: Iterable[Instance]) -> Placed:
    """Where these services are.

    Args:
        leaving: our own instances that hosts are told of no more, or only as draining; streams to them may be on their
            way, and are taken.
    """
    reported: dict[str, tuple[Instance, ...]] = {}
    for service in served(snapshot, gateway):
        for instance in service.instances:
            if instance.id not in snapshot.authority.instances:
                reported[instance.host] = (*reported.get(instance.host, ()), instance)
    place = place_of(gateway)
    gone = {instance.id: instance for instance in leaving}
    if gone:
        stay = [i for i in reported.get(place, ()) if i.draining is None or i.id not in gone]
        known = {instance.id for instance in stay}
        reported[place] = (*stay, *(instance for i, instance in gone.items() if i not in known))
    goals = [found for name in published(snapshot, gateway) if (found := snapshot.service(name)) is not None]
    hosts = {instance.host for goal in goals for instance in goal.instances}
    known_health = {
        i.id: health
        for goal in goals
        for i in goal.instances
        if (health := snapshot.health_on(i.host).get(i.id)) is not None
    }
    return Placed(
        revision=snapshot.revision,
        presence={host: snapshot.presence[host] for host in hosts if host in snapshot.presence},
        reported=reported,
        health=HealthByHost(known_health),
    )
