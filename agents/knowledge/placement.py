"""Pure: placement, what is where and how it is, as hosts report it. It chooses and never allows; kept on disk so that a
node starts from what was true last (design: last known good).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bridge.lines import plain
from inventory.authority import AuthorityState, InstanceBody
from inventory.endpoints import parse_target
from inventory.errors import InputError
from inventory.health import host_of
from inventory.imports import gateway_of
from inventory.model import Health, Instance, Presence
from inventory.names import shown
from inventory.snapshot import Snapshot
from inventory.strict_json import decode

PLACEMENT_MAX_BYTES = 256 * 1024 * 1024
_OWNERS_NAMED = 3
_ID_MAX = 600
"""Characters of an instance id: a service, a host and a target at their longest."""


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
    authority: AuthorityState,
    host: str,
    instances: tuple[Instance, ...],
    *,
    most: int,
    placed: Iterable[Instance],
    known: Iterable[Instance] = (),
) -> tuple[tuple[Instance, ...], list[str]]:
    """What of a host's own report counts, and why the rest does not (C10, H25, H26, H27).

    Args:
        authority: what the operator signed.
        host: who reports.
        instances: what it reports.
        most: how many one host may report.
        placed: what the operator placed on the host: it may serve more of the same.
        known: what was found usable before and need not be looked at again.

    Raises:
        InputError: more instances than one host may report.
    """
    if len(instances) > most:
        raise InputError(f"host {host} reports {len(instances)} instances, at most {most} are allowed")
    entry = authority.hosts.get(host)
    allowed = set(entry.serves) if entry is not None else set()
    allowed.update(i.service for i in placed)
    usable = {i.id: i for i in known}
    good, refused = [], []
    for instance in instances:
        if instance.host != host:
            refused.append(f"host {host} cannot speak for host {shown(instance.host)}")
        elif instance.service not in allowed:
            refused.append(f"host {host} may not serve {shown(instance.service)}{_owners(authority, instance.service)}")
        elif usable.get(instance.id) == instance:
            good.append(instance)
        elif (why := why_unusable(instance)) is not None:
            refused.append(f"instance {shown(instance.id)} cannot be used: {why}")
        else:
            good.append(instance)
    return tuple(good), refused


def _owners(authority: AuthorityState, service: str) -> str:
    placed = {i.host for i in authority.instances.values() if i.service == service}
    owners = sorted(placed | {name for name, host in authority.hosts.items() if service in host.serves})
    return f"; it is owned by {', '.join(owners[:_OWNERS_NAMED])}" if owners else ""


def is_place(authority: AuthorityState, name: str) -> bool:
    """Whether there may be instances here: at a host that the operator signed, or at a gateway."""
    gateway = gateway_of(name)
    return name in authority.hosts if gateway is None else gateway in authority.gateways


def why_unusable(instance: Instance) -> str | None:
    """Reported instances keep to the rules of signed ones: nobody else's listener or connect may trip over one."""
    host = gateway_of(instance.host) or instance.host
    try:
        InstanceBody(instance=msgspec.structs.replace(instance, host=host))
    except InputError as exc:
        return exc.what
    return None


def usable_instances(
    instances: tuple[Instance, ...], host: str, authority: AuthorityState
) -> tuple[Instance, ...] | None:
    """Those that are the host's own and can be used; None when there are none, or no such host or gateway."""
    if not is_place(authority, host):
        return None
    return tuple(i for i in instances if i.host == host and why_unusable(i) is None) or None


def usable_presence(presence: Presence | None, host: str, authority: AuthorityState) -> Presence | None:
    """The presence of a host that the operator signed; without an address that nobody could dial (H23)."""
    if presence is None or host not in authority.hosts or presence.host != host:
        return None
    if presence.advertise is None or is_dialable(presence.advertise):
        return presence
    return msgspec.structs.replace(presence, advertise=None)


def is_dialable(advertise: str) -> bool:
    """Whether other hosts may be told to dial this."""
    try:
        parse_target(advertise)
    except InputError:
        return False
    return True


def usable_health(health: Health | None, instance_id: str, authority: AuthorityState) -> Health | None:
    """The health of an instance at a place that the operator signed, its reason printable and of one line."""
    if health is None or not is_place(authority, host_of(instance_id)) or len(instance_id) > _ID_MAX:
        return None
    reason = plain(health.reason)
    return health if reason == health.reason else msgspec.structs.replace(health, reason=reason)
