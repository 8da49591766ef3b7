"""Pure: what a gateway's data workers are told of the estate: who may connect and relay; and of what the gateway brings
in, all that it takes to decide about it as a host decides about its own services.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from agents.workers import messages as m
from agents.workers.placement import Placed
from inventory.imports import place_of
from inventory.model import Instance, Service
from inventory.policy_index import bits_of
from inventory.snapshot import Snapshot


def imported(snapshot: Snapshot, gateway: str) -> list[Service]:
    """The services that this gateway brings in, with all their instances: also those that others serve, because what a
    rule says of labels is about all of them."""
    names = sorted(wanted.service for wanted in snapshot.authority.imports.values() if wanted.gateway == gateway)
    return [service for name in names if (service := snapshot.service(name)) is not None]


def authority_for_workers(snapshot: Snapshot, gateway: str) -> m.Authority:
    """Hosts and revocations; and the rules about what this gateway brings in, if anything."""
    authority, index = snapshot.authority, snapshot.index
    nothing = replace(
        authority, invites={}, instances={}, imports={}, numbers={}, policy=None, policy_number=0, number=0, head=""
    )
    services = imported(snapshot, gateway)
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


def placement_for_workers(snapshot: Snapshot, gateway: str, leaving: Iterable[Instance]) -> Placed:
    """Where these services are.

    Args:
        leaving: our own instances that hosts are told of no more, or only as draining; streams to them may be on their
            way, and are taken.
    """
    reported: dict[str, tuple[Instance, ...]] = {}
    for service in imported(snapshot, gateway):
        for instance in service.instances:
            if instance.id not in snapshot.authority.instances:
                reported[instance.host] = (*reported.get(instance.host, ()), instance)
    place = place_of(gateway)
    gone = {instance.id: instance for instance in leaving}
    if gone:
        stay = [i for i in reported.get(place, ()) if i.draining is None or i.id not in gone]
        known = {instance.id for instance in stay}
        reported[place] = (*stay, *(instance for i, instance in gone.items() if i not in known))
    return Placed(revision=snapshot.revision, reported=reported)
