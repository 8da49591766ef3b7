"""I/O: last known good: what a host knows, verified, in memory and on disk (F13, F14).

    authority.slice   signed entries; believed after they were verified again
    allows.json       the allow rules of the policy, with their proofs, by policy number
    placement.json    where things were

Rules are written before the entries that name them, so that at every moment the disk holds a policy with its rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from agents.control.messages import Update
from agents.knowledge.placement import (
    PlacementFile,
    decode_placement,
    encode_placement,
    usable_health,
    usable_instances,
    usable_presence,
)
from bridge.logs import get_logger
from inventory.authority import AuthorityState, Slice
from inventory.errors import InputError, MeshError
from inventory.health import HealthByHost
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

    @classmethod
    def start(cls, slice_: Slice, leaves: PolicySlice, placement: PlacementFile) -> Known:
        """Raises InputError: a rule does not belong to the policy."""
        snapshot = Snapshot(
            authority=slice_.state,
            allows=_rules(slice_, leaves),
            presence=placement.presence,
            reported=placement.reported,
            health=HealthByHost(placement.health),
        )
        return cls(slice_, leaves, snapshot, placement.at)

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

    def updated(self, update: Update, *, at: float) -> Known:
        """What is known after a gateway's update.

        What it says about places is taken only for hosts that the operator signed, and only where it can be used; the
        rest is passed over.

        Raises:
            InputError: an entry or a rule in it does not verify; nothing of it counts then.
        """
        slice_ = self.slice.applied(update.entries, update.dropped) if update.entries or update.dropped else self.slice
        if update.full:
            slice_ = slice_.applied((), _left_out(slice_, update))
        before, after = self.snapshot, slice_.state if slice_ is not self.slice else self.snapshot.authority
        same_policy = after.policy_number == before.authority.policy_number
        leaves = self._leaves(update, same_policy)
        allows = before.allows if leaves is self.leaves and same_policy else _rules(slice_, leaves)
        base = Snapshot(authority=after) if update.full else before
        reported = {h: _checked_instances(before, after, h, i) for h, i in update.reported.items()}
        snapshot = before.evolved(
            authority=after,
            allows=allows,
            presence=_merged(base.presence, {h: usable_presence(p, h, after) for h, p in update.presence.items()}),
            reported=_merged(base.reported, reported),
            health=base.health.changed({i: usable_health(h, i, after) for i, h in update.health.items()}),
            revision=update.revision,
        )
        return replace(self, slice=slice_, leaves=leaves, snapshot=snapshot, as_of=at)

    def _leaves(self, update: Update, same_policy: bool) -> PolicySlice:
        """The rules to go by; those that were proved before, when they are the same again."""
        if same_policy and (update.leaves is None or update.leaves == self.leaves):
            return self.leaves
        return update.leaves if update.leaves is not None else ()

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


def _checked_instances(
    before: Snapshot, authority: AuthorityState, host: str, instances: tuple[Instance, ...]
) -> tuple[Instance, ...] | None:
    """As `usable_instances`; what was checked before is not checked again: a change of one instance brings them all."""
    held = before.reported.get(host)
    if held is None or host not in authority.hosts:
        return usable_instances(instances, host, authority)
    if instances == held:
        return held
    known = {instance.id: instance for instance in held}
    good = (i for i in instances if known.get(i.id) == i or usable_instances((i,), host, authority) is not None)
    return tuple(good) or None


def _left_out(slice_: Slice, update: Update) -> list[str]:
    """Keys held here that a full update does not have, without those that can never be dropped."""
    sent = {signed.payload for signed in update.entries}
    held = (key for key, entry in slice_.entries.items() if entry.signed.payload not in sent)
    return [key for key in held if key != "policy" and not key.startswith("revoke/")]


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
