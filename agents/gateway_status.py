"""Pure: what `status` says of a gateway besides what it says of every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bridge.errors import clock as clock_words
from inventory.model import Presence
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
    return {
        name: {
            "online": is_here(name),
            "advertise": known.advertise,
            "streams": streams.get(name, 0),
            "why_away": why_away(name),
        }
        for name, known in sorted(snapshot.presence.items())
    }


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
