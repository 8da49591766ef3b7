"""Pure: what `status` says of a gateway besides what it says of every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bridge.errors import clock as clock_words
from inventory.model import Instance, Presence
from inventory.snapshot import Snapshot


def host_rows(
    snapshot: Snapshot, *, is_here: Callable[[str], bool], streams: Mapping[str, int], ends: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Every host of the log; `ends` are those of the certificates, where they are known."""
    return [
        {
            "name": name,
            "state": _host_state(snapshot, name, is_here),
            "via": host.via or "",
            "advertise": snapshot.presence.get(name, Presence(host=name)).advertise or "",
            "streams": streams.get(name, 0),
            "certificate_ends": clock_words(ends[name]) if name in ends else "",
        }
        for name, host in sorted(snapshot.authority.hosts.items())
    ]


def presence_rows(
    snapshot: Snapshot, is_here: Callable[[str], bool], streams: Mapping[str, int], why_away: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """Every host that was ever here, by name."""
    alone = served_alone(snapshot, is_here)
    return {
        name: {
            "online": is_here(name),
            "advertise": known.advertise,
            "streams": streams.get(name, 0),
            "why_away": why_away(name),
            "alone": alone.get(name, []),
        }
        for name, known in sorted(snapshot.presence.items())
    }


def served_alone(snapshot: Snapshot, is_here: Callable[[str], bool]) -> dict[str, list[str]]:
    """Host -> services that nobody else could serve in its place at this moment."""
    found: dict[str, list[str]] = {}
    for name, service in sorted(snapshot.services.items()):
        hosts = {i.host for i in service.instances if _takes_streams(snapshot, i, is_here)}
        if len(hosts) == 1:
            found.setdefault(hosts.pop(), []).append(name)
    return found


def _takes_streams(snapshot: Snapshot, instance: Instance, is_here: Callable[[str], bool]) -> bool:
    host = snapshot.host(instance.host)
    is_drained = instance.draining is not None or (host is not None and host.draining is not None)
    return not is_drained and is_here(instance.host) and snapshot.health_of(instance).state != "failing"


def _host_state(snapshot: Snapshot, name: str, is_here: Callable[[str], bool]) -> str:
    host = snapshot.host(name)
    if snapshot.host_revoked(name) is not None:
        return "revoked"
    if host is not None and host.draining is not None:
        return "draining"
    return "online" if is_here(name) else "away"


def service_rows(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "name": service.name,
            "port": service.port,
            "instances": len(service.instances),
            "passing": sum(1 for i in service.instances if snapshot.health_of(i).state == "passing"),
        }
        for service in sorted(snapshot.services.values(), key=lambda s: s.name)
    ]
