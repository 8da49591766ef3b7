"""Pure: what `status` says of a host besides what it says of every node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bridge.errors import clock as clock_words
from inventory.model import Gateway, Health, Instance
from inventory.names import ServiceName
from inventory.snapshot import Snapshot


def gateway_row(gateway: Gateway, *, connected: bool, reason: str, clock_ahead: float | None) -> dict[str, Any]:
    return {
        "name": gateway.name,
        "address": gateway.address,
        "state": "connected" if connected else "away",
        "reason": reason,
        "clock_ahead_seconds": round(clock_ahead, 1) if clock_ahead is not None else None,
    }


def service_rows(
    snapshot: Snapshot, names: Mapping[str, tuple[ServiceName, int]], addresses: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every visible name with its loopback address, its instances, and how many of them pass their checks."""
    rows = []
    for name, (meant, port) in sorted(names.items()):
        service = snapshot.service(meant.service)
        instances = service.instances if service is not None else ()
        rows.append(
            {
                "name": name,
                "address": f"{addresses[name]}:{port}" if name in addresses else "",
                "instances": len(instances),
                "passing": sum(1 for i in instances if snapshot.health_of(i).state == "passing"),
            }
        )
    return rows


def instance_rows(instances: Iterable[Instance], health: Mapping[str, Health]) -> list[dict[str, Any]]:
    rows = []
    for instance in instances:
        found = health.get(instance.id, Health())
        rows.append({"id": instance.id, "state": found.state, "reason": found.reason})
    return rows


def known_since(as_of: float) -> str:
    return clock_words(as_of) if as_of else "never"
