"""Pure: placement, what is where and how it is, as hosts report it. It chooses and never allows; kept on disk so that a
node starts from what was true last (design: last known good).
"""

from __future__ import annotations

import msgspec

from inventory.authority import AuthorityState
from inventory.errors import InputError
from inventory.model import Health, Instance, Presence
from inventory.snapshot import Snapshot
from inventory.strict_json import decode

PLACEMENT_MAX_BYTES = 256 * 1024 * 1024


class PlacementFile(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="placement-v1"):
    """placement.json. `at` is unix seconds: when a gateway last said so."""

    at: float = 0.0
    presence: dict[str, Presence] = {}
    reported: dict[str, tuple[Instance, ...]] = {}
    health: dict[str, Health] = {}


def encode_placement(snapshot: Snapshot, at: float) -> bytes:
    return msgspec.json.encode(
        PlacementFile(
            at=at,
            presence=dict(snapshot.presence),
            reported=dict(snapshot.reported),
            health=dict(snapshot.health),
        )
    )


def decode_placement(data: bytes) -> PlacementFile:
    """Raises InputError when it is damaged; start from nothing then: it comes again from the hosts."""
    return decode(data, PlacementFile, max_bytes=PLACEMENT_MAX_BYTES, what="placement file")


def check_report(
    authority: AuthorityState, host: str, instances: tuple[Instance, ...], *, most: int
) -> tuple[tuple[Instance, ...], list[str]]:
    """What of a host's own report counts, and why the rest does not (C10, H25, H26).

    Raises:
        InputError: more instances than one host may report.
    """
    if len(instances) > most:
        raise InputError(f"host {host} reports {len(instances)} instances, at most {most} are allowed")
    entry = authority.hosts.get(host)
    allowed = set(entry.serves) if entry is not None else set()
    allowed.update(i.service for i in authority.instances.values() if i.host == host)
    good, refused = [], []
    for instance in instances:
        if instance.host != host:
            refused.append(f"host {host} cannot speak for host {instance.host}")
        elif instance.service not in allowed:
            owners = sorted({i.host for i in authority.instances.values() if i.service == instance.service})
            owned = f"; it is owned by {', '.join(owners[:3])}" if owners else ""
            refused.append(f"host {host} may not serve {instance.service}{owned}")
        else:
            good.append(instance)
    return tuple(good), refused
