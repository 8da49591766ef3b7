"""Pure: what a gateway sends each host: the part of the estate that policy lets it see, as differences (C46).

One `Sent` per host and control stream remembers what it has; `update_for` says what it lacks. Nothing is sent twice,
and what is no longer visible is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agents.control.messages import Update
from inventory.authority import SignedEntry
from inventory.model import Health, Instance, Presence
from inventory.policy_document import PolicySlicer
from inventory.snapshot import Snapshot
from inventory.visibility import Visible, visible

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class EstateView:
    """All a gateway knows at one moment. `latest` is the newest signed entry of every key, removals included."""

    snapshot: Snapshot
    latest: Mapping[str, SignedEntry]
    slicer: PolicySlicer | None


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
    entries, dropped = _entries(host, view, seen, sent)
    leaves = None
    rules = (snapshot.authority.policy_number, seen.allow_indices)
    if rules != sent.rules and snapshot.authority.policy is not None:
        sent.rules = rules
        leaves = view.slicer.slice(seen.allow_indices) if view.slicer is not None else ()
    presence = _difference(sent.presence, {h: snapshot.presence[h] for h in seen.hosts if h in snapshot.presence})
    wanted = {h: snapshot.reported.get(h, ()) for h in seen.hosts}
    shown = {h: tuple(i for i in mine if i.service in seen.services) for h, mine in wanted.items()}
    reported = _difference(sent.reported, {h: mine for h, mine in shown.items() if mine})
    health = _difference(sent.health, _health(snapshot, seen))
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
        reported={h: mine or () for h, mine in reported.items()},
        health=health,
    )


def _entries(host: str, view: EstateView, seen: Visible, sent: Sent) -> tuple[tuple[SignedEntry, ...], tuple[str, ...]]:
    authority = view.snapshot.authority
    wanted = {"domain", "policy", f"host/{host}"}
    wanted.update(key for key in authority.numbers if key.startswith(("operator/", "gateway/")))
    for name in seen.hosts | {host}:
        wanted.add(f"host/{name}")
        wanted.add(f"revoke/host/{name}")
    for gateway in authority.gateways:
        wanted.add(f"revoke/gateway/{gateway}")
    # A revoked host is no longer visible; whoever was told of it is told that, too, before it is dropped.
    wanted.update(f"revoke/{key}" for key in sent.numbers if key.startswith("host/"))
    for service in seen.services:
        known = view.snapshot.service(service)
        signed = authority.instances
        wanted.update(f"service/{i.id}" for i in (known.instances if known else ()) if i.id in signed)
    numbers = authority.numbers
    new, dropped = [], []
    for key in wanted:
        number = numbers.get(key)
        if number is not None and sent.numbers.get(key) != number:
            new.append((number, view.latest[key]))
            sent.numbers[key] = number
    for key in [key for key in sent.numbers if key not in wanted]:
        number = numbers.get(key, 0)
        if number > sent.numbers[key] and key in view.latest:
            # It changed before it went out of sight (was removed, most likely): the host is told how it ended.
            new.append((number, view.latest[key]))
        if not key.startswith("revoke/"):
            dropped.append(key)
            del sent.numbers[key]
    return tuple(signed for _, signed in sorted(new, key=lambda item: item[0])), tuple(sorted(dropped))


def _health(snapshot: Snapshot, seen: Visible) -> dict[str, Health]:
    known = (snapshot.service(name) for name in seen.services)
    ids = (i.id for service in known if service is not None for i in service.instances)
    return {i: snapshot.health[i] for i in ids if i in snapshot.health}


def _difference(sent: dict[str, V], now: dict[str, V]) -> dict[str, V | None]:
    """What is new or different, and None for what is gone; `sent` becomes `now`."""
    changes: dict[str, V | None] = {key: value for key, value in now.items() if sent.get(key) != value}
    for key in sent.keys() - now.keys():
        changes[key] = None
    sent.clear()
    sent.update(now)
    return changes
