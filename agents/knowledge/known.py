"""I/O: last known good: what a host knows, verified, in memory and on disk (F13, F14).

    authority.slice   signed entries; believed after they were verified again
    allows.json       the allow rules of the policy, with their proofs, by policy number
    placement.json    where things were

Rules are written before the entries that name them, so that at every moment the disk holds a policy with its rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from agents.control.messages import Update
from agents.knowledge.placement import (
    PlacementFile,
    decode_placement,
    encode_placement,
    is_place,
    usable_health,
    usable_instances,
    usable_presence,
)
from agents.knowledge.views import FROM_DISK, Places, View, leaves_in_force, places, with_linked
from bridge.logs import get_logger
from inventory.authority import AuthorityState, Slice
from inventory.errors import InputError, MeshError
from inventory.health import HealthByHost, host_of
from inventory.home import read_file, write_file
from inventory.model import Instance
from inventory.policy_document import PolicySlice, verify_slice
from inventory.policy_rules import Rule
from inventory.snapshot import Snapshot
from inventory.strict_json import decode

log = get_logger()

V = TypeVar("V")

SLICE_FILE = "authority.slice"
ALLOWS_FILE = "allows.json"
PLACEMENT_FILE = "placement.json"
_ALLOWS_MAX_BYTES = 64 * 1024 * 1024


class _Allows(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag="allows-v1"):
    """allows.json: policy entry number -> rules."""

    policies: dict[str, PolicySlice]


@dataclass(frozen=True)
class Known:
    """An immutable moment of what a host knows. `as_of` is unix seconds, 0 when no gateway has ever said anything."""

    slice: Slice
    leaves: PolicySlice
    snapshot: Snapshot
    as_of: float
    views: Mapping[str, View]
    """Gateway -> what it said; and, until each gateway has been heard, what was known at the start."""

    @classmethod
    def start(cls, slice_: Slice, leaves: PolicySlice, placement: PlacementFile) -> Known:
        """Raises InputError: a rule does not belong to the policy."""
        health = HealthByHost(placement.health)
        snapshot = Snapshot(
            authority=slice_.state,
            allows=_rules(slice_, leaves),
            presence=placement.presence,
            reported=placement.reported,
            health=health,
        )
        view = View(
            keys=frozenset(slice_.entries),
            policy_number=slice_.state.policy_number,
            leaves=leaves,
            presence=placement.presence,
            reported=placement.reported,
            health=health,
            linked=False,
        )
        return cls(slice_, leaves, snapshot, placement.at, {FROM_DISK: view})

    @classmethod
    def load(cls, home: Path, genesis: str) -> Known:
        """From disk.

        Raises:
            MeshError: authority.slice is missing or does not verify. Damage to the other files costs only what was in
            them: no rules means that nothing is allowed until a gateway sends them again.
        """
        path = home / SLICE_FILE
        try:
            slice_ = Slice.decode(read_file(path), genesis)
        except InputError as exc:
            raise InputError(
                exc.what, where=str(path), hint="enrol this host again: `host token`, `agent join`"
            ) from None
        leaves: PolicySlice = ()
        placement = PlacementFile()
        try:
            if (home / ALLOWS_FILE).exists():
                kept = decode(
                    read_file(home / ALLOWS_FILE), _Allows, max_bytes=_ALLOWS_MAX_BYTES, what="allow rules on disk"
                )
                leaves = kept.policies.get(str(slice_.state.policy_number), ())
                _rules(slice_, leaves)
        except MeshError as exc:
            leaves = ()
            log.error(
                "the policy's rules on disk cannot be used; nothing is allowed until a gateway answers", reason=str(exc)
            )
        try:
            if (home / PLACEMENT_FILE).exists():
                placement = decode_placement(read_file(home / PLACEMENT_FILE))
        except MeshError as exc:
            log.error("placement on disk cannot be used", reason=str(exc))
        return cls.start(slice_, leaves, placement)

    def updated(self, gateway: str, update: Update, *, at: float) -> Known:
        """What is known after a gateway's update.

        What it says about places is taken only for hosts that the operator signed, and only where it can be used; the
        rest is passed over. Where there are several gateways one may lag behind the others: an older entry than the one
        that is held is no news then, and no reason to believe the gateway less.

        Raises:
            InputError: an entry or a rule in it does not verify; nothing of it counts then.
        """
        slice_, said = self.slice, self.views.get(gateway)
        others = {name: view for name, view in self.views.items() if name != gateway}
        if update.entries or update.dropped:
            several = len(self.snapshot.authority.gateways) > 1
            dropped = [key for key in update.dropped if not any(key in view.keys for view in others.values())]
            slice_ = slice_.applied(update.entries, dropped, passes_over_older=several)
        view = _heard(said or View(), update, slice_)
        gateways = slice_.state.gateways if slice_ is not self.slice else self.snapshot.authority.gateways
        views = {gateway: view, **_standing(others, {gateway, *gateways})}
        if update.full or len(views) <= len(others):
            slice_ = slice_.applied((), _in_no_view(slice_, views))
        before, after = self.snapshot, slice_.state if slice_ is not self.slice else self.snapshot.authority
        view = views[gateway] = _placed(view, said or View(), update, after)
        same_policy = after.policy_number == before.authority.policy_number
        leaves = leaves_in_force(views, after.policy_number)
        leaves = self.leaves if leaves is self.leaves or (same_policy and leaves == self.leaves) else leaves
        allows = before.allows if leaves is self.leaves and same_policy else _rules(slice_, leaves)
        all_differ = update.full or self.views.keys() != views.keys() or said is None or not said.linked
        touched = _hosts(self.views, views) if all_differ else _touched(update)
        now = places(views, self._places, touched)
        snapshot = before.evolved(
            authority=after,
            allows=allows,
            presence=now.presence,
            reported=now.reported,
            health=now.health,
            revision=before.revision + 1,
        )
        return replace(self, slice=slice_, leaves=leaves, snapshot=snapshot, as_of=at, views=views)

    def linked(self, gateways: frozenset[str]) -> Known:
        """What counts when these gateways, and no others, are heard; itself when that changes nothing."""
        views = with_linked(self.views, gateways)
        if views is self.views:
            return self
        if len(views) == 1:
            return replace(self, views=views)
        now = places(views, self._places, _hosts(views))
        snapshot = self.snapshot.evolved(
            presence=now.presence, reported=now.reported, health=now.health, revision=self.snapshot.revision + 1
        )
        return replace(self, views=views, snapshot=snapshot)

    @property
    def _places(self) -> Places:
        return Places(self.snapshot.presence, self.snapshot.reported, self.snapshot.health)

    def save(self, home: Path, before: Known) -> None:
        """Write it to disk. At every moment the disk holds a policy with its rules, so the rules of both are written
        first.

        Args:
            before: what was read or saved last.

        Raises:
            MeshError: what is on disk is intact then.
        """
        policies = {str(known.snapshot.authority.policy_number): known.leaves for known in (before, self)}
        write_file(home / ALLOWS_FILE, msgspec.json.encode(_Allows(policies)))
        write_file(home / SLICE_FILE, self.slice.encode())
        write_file(home / PLACEMENT_FILE, encode_placement(self.snapshot, self.as_of))


def _rules(slice_: Slice, leaves: PolicySlice) -> tuple[Rule, ...]:
    policy = slice_.state.policy
    return verify_slice(policy, leaves) if policy is not None else ()


def _heard(said: View, update: Update, slice_: Slice) -> View:
    """What a gateway lets us see now, of entries and rules. `slice_` has the update's entries already."""
    if not (update.full or update.entries or update.dropped or update.leaves is not None):
        return said
    sent = {signed.payload for signed in update.entries}
    added = {key for key, entry in slice_.entries.items() if entry.signed.payload in sent} if sent else set()
    keys = frozenset(added) if update.full else (said.keys | added).difference(update.dropped)
    number, leaves = said.policy_number, said.leaves if update.leaves is None else update.leaves
    if "policy" in added:
        number = slice_.entries["policy"].number
        if update.leaves is None and number != said.policy_number:
            leaves = ()
    elif update.full and update.leaves is not None:
        number = 0  # rules of a policy before the one that is held
    return replace(said, keys=keys, policy_number=number, leaves=leaves, linked=True)


def _placed(view: View, said: View, update: Update, authority: AuthorityState) -> View:
    """What a gateway says of places now, as far as it can be used."""
    base = View() if update.full else said
    if not (update.full or update.presence or update.reported or update.health):
        return view
    reported = {h: _checked_instances(said, authority, h, i) for h, i in update.reported.items()}
    return replace(
        view,
        presence=_merged(base.presence, {h: usable_presence(p, h, authority) for h, p in update.presence.items()}),
        reported=_merged(base.reported, reported),
        health=base.health.changed({i: usable_health(h, i, authority) for i, h in update.health.items()}),
        linked=True,
    )


def _standing(others: Mapping[str, View], gateways: Set[str]) -> Mapping[str, View]:
    """The views that still count: of gateways that the operator did not remove, and of the time before the start until
    every gateway has been heard."""
    unheard = gateways - others.keys()
    return {
        name: view
        for name, view in others.items()
        if name in gateways or (name == FROM_DISK and len(unheard) > 1)  # one of them speaks just now
    }


def _in_no_view(slice_: Slice, views: Mapping[str, View]) -> list[str]:
    """Keys that no gateway lets us see any more, without those that can never be dropped."""
    seen = frozenset().union(*(view.keys for view in views.values()))
    return [key for key in slice_.entries if key not in seen and key != "policy" and not key.startswith("revoke/")]


def _touched(update: Update) -> set[str]:
    return {*update.presence, *update.reported, *map(host_of, update.health)}


def _hosts(*several: Mapping[str, View]) -> set[str]:
    return {host for views in several for view in views.values() for host in view.hosts}


def _checked_instances(
    said: View, authority: AuthorityState, host: str, instances: tuple[Instance, ...]
) -> tuple[Instance, ...] | None:
    """As `usable_instances`; what was checked before is not checked again: a change of one instance brings them all."""
    held = said.reported.get(host)
    if held is None or not is_place(authority, host):
        return usable_instances(instances, host, authority)
    if instances == held:
        return held
    known = {instance.id: instance for instance in held}
    good = (i for i in instances if known.get(i.id) == i or usable_instances((i,), host, authority) is not None)
    return tuple(good) or None


def _merged(before: Mapping[str, V], changes: Mapping[str, V | None]) -> Mapping[str, V]:
    """`before` with `changes`, in which None takes away; `before` itself when there are none."""
    if not changes:
        return before
    after = dict(before)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after
