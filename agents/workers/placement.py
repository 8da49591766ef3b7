"""Pure: what a worker is told of the placement: the whole once, and then what differs from what it was told before.

A host may see 10,000 instances, and one of them changes. Whatever the order in which a worker hears a whole and the
changes that are in it, it ends with the same: a change says how things are now, not what to do to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agents.workers import messages as m
from inventory.health import HealthByHost
from inventory.model import Instance, Presence
from inventory.snapshot import Snapshot, Touched

V = TypeVar("V")


@dataclass(frozen=True)
class Placed:
    """What is where, and how it is, at one moment. Nothing in it is changed afterwards."""

    revision: int = 0
    presence: Mapping[str, Presence] = field(default_factory=dict)
    reported: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    health: HealthByHost = field(default_factory=HealthByHost)

    def whole(self) -> m.Placement:
        return m.Placement(
            revision=self.revision,
            presence=dict(self.presence),
            reported=dict(self.reported),
            health=dict(self.health),
        )

    def since(self, before: Placed) -> m.PlacementChanged | None:
        """What differs from an earlier moment; None when nothing does."""
        presence = _differing(before.presence, self.presence)
        reported = _differing(before.reported, self.reported)
        health = self.health.since(before.health)
        if not (presence or reported or health):
            return None
        return m.PlacementChanged(revision=self.revision, presence=presence, reported=reported, health=health)


def placed(snapshot: Snapshot, message: m.Placement) -> Snapshot:
    """The snapshot with another placement."""
    return snapshot.evolved(
        presence=message.presence,
        reported=message.reported,
        health=HealthByHost(message.health),
        revision=message.revision,
    )


def changed(snapshot: Snapshot, message: m.PlacementChanged) -> Snapshot:
    """The snapshot with what differs."""
    return snapshot.evolved(
        Touched(hosts=frozenset(message.reported)),  # of the derived things, only these make a difference
        presence=_merged(snapshot.presence, message.presence),
        reported=_merged(snapshot.reported, message.reported),
        health=snapshot.health.changed(message.health),
        revision=message.revision,
    )


def _differing(before: Mapping[str, V], after: Mapping[str, V]) -> dict[str, V | None]:
    """What is new or otherwise, and None for what is gone."""
    if before is after:
        return {}
    found: dict[str, V | None] = {}
    for key, value in after.items():
        known = before.get(key)
        if known is not value and known != value:  # most are the very same
            found[key] = value
    found.update((key, None) for key in before if key not in after)
    return found


def _merged(before: Mapping[str, V], changes: Mapping[str, V | None]) -> Mapping[str, V]:
    """`before` with `changes`, in which None takes away; itself when there are none."""
    if not changes:
        return before
    merged = {**before, **changes}
    return {key: value for key, value in merged.items() if value is not None}
