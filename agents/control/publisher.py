"""Pure: what a gateway sends each host: the part of the estate that policy lets it see, as differences (C46).

One `Sent` per host and control stream remembers what it has; `update_for` says what it lacks. Nothing is sent twice,
and what is no longer visible is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agents.control.messages import Update
from inventory.authority import AuthorityState, SignedEntry
from inventory.clients import client_key
from inventory.imports import gateway_of, import_key
from inventory.model import Health, Instance, Presence, Service
from inventory.policy_document import PolicySlicer
from inventory.snapshot import Snapshot
from inventory.visibility import visible

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class EstateView:
    """All a gateway knows at one moment. `latest` is the newest signed entry of every key, removals included."""

    snapshot: Snapshot
    latest: Mapping[str, SignedEntry]
    slicer: PolicySlicer | None
    everybody: frozenset[str]
    """As `for_everybody` of the snapshot's authority: worked out once, not once for each host."""


def for_everybody(authority: AuthorityState) -> frozenset[str]:
    """Keys of the entries that every host gets: who may sign, who may relay, and that there is a policy."""
    found = {key for key in authority.numbers if key.startswith(("operator/", "gateway/"))}
    revocations = (f"revoke/{key}" for key in found if key.startswith("gateway/"))
    return frozenset({"domain", "policy", *found, *revocations})


@dataclass(slots=True)
class Sent:
    """What one host has been sent on this control stream."""

    revision: int = -1
    numbers: dict[str, int] = field(default_factory=dict)
    rules: tuple[int, tuple[int, ...]] | None = None
    """Policy entry number, and the positions of the allow rules sent."""
    presence: dict[str, Presence] = field(default_factory=dict)
    reported: dict[str, tuple[Instance, ...]] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)


def update_for(host: str, view: EstateView, sent: Sent) -> Update | None:
    """What the host lacks, or None; `sent` is brought up to date."""
    snapshot = view.snapshot
    seen = visible(snapshot, host)
    first = sent.revision < 0
    services = [service for name in seen.services if (service := snapshot.service(name)) is not None]
    told = {host, *seen.hosts}
    wanted = _wanted(view, told, services, sent) | {client_key(name) for name in seen.clients}
    entries, dropped = _entries(view, wanted, sent)
    leaves = None
    rules = (snapshot.authority.policy_number, seen.allow_indices)
    if rules != sent.rules and snapshot.authority.policy is not None:
        sent.rules = rules
        leaves = view.slicer.slice(seen.allow_indices) if view.slicer is not None else ()
    presence = _difference(sent.presence, {h: snapshot.presence[h] for h in seen.hosts if h in snapshot.presence})
    mine = {h: tuple(i for i in snapshot.reported_on(h) if i.service in seen.services) for h in told}
    reported = _difference(sent.reported, {h: instances for h, instances in mine.items() if instances})
    health = _difference(sent.health, _health(snapshot, services, told))
    sent.revision = snapshot.revision
    if not (first or entries or dropped or leaves is not None or presence or reported or health):
        return None
    return Update(
        revision=snapshot.revision,
        full=first,
        entries=entries,
        dropped=dropped,
        leaves=leaves,
        presence=presence,
        reported={h: instances or () for h, instances in reported.items()},
        health=health,
    )


def _wanted(view: EstateView, told: set[str], services: Iterable[Service], sent: Sent) -> set[str]:
    """Keys of the entries that the host should have, as far as there are such entries."""
    wanted = set(view.everybody)
    for name in told:
        wanted.add(f"host/{name}")
        wanted.add(f"revoke/host/{name}")
    signed = view.snapshot.authority.instances
    for service in services:
        wanted.update(f"service/{i.id}" for i in service.instances if i.host in told and i.id in signed)
        gateways = {gateway for i in service.instances if i.host in told and (gateway := gateway_of(i.host))}
        wanted.update(import_key(service.name, gateway) for gateway in gateways)
    for key in sent.numbers:
        if key.startswith("host/"):
            # A revoked host is no longer visible; whoever was told of it is told that, too, before it is dropped.
            wanted.add(f"revoke/{key}")
        elif key.startswith("revoke/"):
            wanted.add(key)  # never dropped
    return wanted


def _entries(view: EstateView, wanted: set[str], sent: Sent) -> tuple[tuple[SignedEntry, ...], tuple[str, ...]]:
    """Entries that are new to the host, in the order in which they were signed, and keys that it should forget."""
    numbers = view.snapshot.authority.numbers
    new, dropped = [], []
    for key in wanted:
        number = numbers.get(key)
        if number is not None and sent.numbers.get(key) != number:
            new.append((number, view.latest[key]))
            sent.numbers[key] = number
    for key in [key for key in sent.numbers if key not in wanted]:
        number = numbers.get(key, 0)
        if number > sent.numbers.pop(key):
            # It changed before it went out of sight (was removed, most likely): the host is told how it ended.
            new.append((number, view.latest[key]))
        dropped.append(key)
    return tuple(signed for _, signed in sorted(new, key=lambda item: item[0])), tuple(sorted(dropped))


def _health(snapshot: Snapshot, services: Iterable[Service], hosts: set[str]) -> dict[str, Health]:
    found = {}
    for service in services:
        for instance in service.instances:
            if instance.host in hosts:
                instance_id = instance.id
                health = snapshot.health_on(instance.host).get(instance_id)
                if health is not None:
                    found[instance_id] = health
    return found


def _difference(sent: dict[str, V], now: dict[str, V]) -> dict[str, V | None]:
    """What is new or different, and None for what is gone; `sent` becomes `now`."""
    changes: dict[str, V | None] = {key: value for key, value in now.items() if sent.get(key) != value}
    for key in sent.keys() - now.keys():
        changes[key] = None
    sent.clear()
    sent.update(now)
    return changes
