"""Pure: the passing instances of one service as Consul lists them, and which of them an import may bring in.

What Consul says is not trusted: whatever cannot be used is left out with its reason, and what may be used is decided by
the operator's signed import (see `inventory.imports`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from inventory.imports import instance_of, why_refused
from inventory.model import Import, Instance
from inventory.registries.consul_catalog_wire import DOMAIN
from inventory.strict_json import decode

ANSWER_MAX = 16 * 1024 * 1024
"""Bytes of one list: 1,000 instances with their checks are a few."""
INSTANCES_MAX = 1000
"""Of one import that are used; as many as a host may report."""


class _Place(msgspec.Struct, frozen=True, rename="pascal"):
    address: str = ""
    meta: dict[str, str] | None = None


class _Weights(msgspec.Struct, frozen=True, rename="pascal"):
    passing: int = 1


class _Service(msgspec.Struct, frozen=True, rename="pascal"):
    service: str = ""
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None


class _Check(msgspec.Struct, frozen=True, rename="pascal"):
    status: str = ""


class _Row(msgspec.Struct, frozen=True, rename="pascal"):
    node: _Place
    service: _Service
    checks: tuple[_Check, ...] | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    rows: tuple[_Row, ...]
    index: int


def read_rows(body: bytes) -> tuple[_Row, ...]:
    """Raises InputError."""
    return decode(body, tuple[_Row, ...], max_bytes=ANSWER_MAX, what="list of instances")


class Found(NamedTuple):
    """What of an answer can be used, in the order of their ids, and in words why the rest cannot."""

    instances: tuple[Instance, ...]
    refused: tuple[str, ...]


def next_index(asked: int, answered: int) -> int:
    """The index to ask with next: 0, which does not wait, when Consul's went back (its data was restored, or it forgot
    what was deleted): the next answer's is then a new beginning."""
    return 0 if answered < asked else answered


def usable(wanted: Import, rows: Iterable[_Row], *, domain: str, port: int | None = None) -> Found:
    """What the import may bring in of these.

    Args:
        domain: our trust domain, whose own entries in the catalog never come back (they would go round in circles).
        port: that of the service till now; kept as its one port while any instance has it.
    """
    places: dict[str, tuple[int, int]] = {}
    refused: dict[str, None] = {}
    for row in rows:
        service = row.service
        if service.service != wanted.source or not set(wanted.tags) <= set(service.tags or ()):
            continue
        if any(check.status != "passing" for check in row.checks or ()):
            continue
        if any((meta or {}).get(DOMAIN) == domain for meta in (service.meta, row.node.meta)):
            refused["an entry of this very estate"] = None
            continue
        target = _target(service.address or row.node.address, service.port)
        why = why_refused(target, wanted.allow_loopback)
        if why is not None:
            refused[why] = None
            continue
        weight = min(max(service.weights.passing if service.weights is not None else 1, 1), 65535)
        places.setdefault(target, (service.port, weight))
    if len(places) > INSTANCES_MAX:
        refused[f"there are {len(places)} instances, and {INSTANCES_MAX} are used"] = None
    chosen = _one_port({place_port for place_port, _ in places.values()}, port)
    instances = [instance_of(wanted, target, port=chosen, weight=places[target][1]) for target in sorted(places)]
    return Found(tuple(instances[:INSTANCES_MAX]), tuple(refused))


def _one_port(ports: set[int], before: int | None) -> int:
    """A service has one port here, whatever its instances have: the one before if it is among theirs, or the lowest."""
    return before if before in ports and before is not None else min(ports, default=1)


def _target(address: str, port: int) -> str:
    try:
        literal = ipaddress.ip_address(address)
    except ValueError:
        return f"{address}:{port}"
    return f"[{literal}]:{port}" if literal.version == 6 else f"{literal}:{port}"
