"""Pure: services that others registered in Consul, brought into the namespace by a gateway: what counts of one.

A gateway is a place of instances as a host is. Its name in their `host` field is `gateway:gw1`, which no host can have.
A gateway is believed about such an instance only as far as the operator's signed import goes; everybody who works from
a snapshot asks here, the gateway itself included.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from inventory.endpoints import parse_target
from inventory.errors import InputError
from inventory.model import Import, Instance

_GATEWAY = "gateway:"
_TRANSLATED = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))
"""IPv6 addresses that stand for an IPv4 address, which could be any of those that are refused."""
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
"""Linux connects to itself for these."""
_REMEMBERED = 4096
"""Targets looked at lately: each change brings all of them again."""


def place_of(gateway: str) -> str:
    """The `host` of the instances that a gateway brings in."""
    return _GATEWAY + gateway


def gateway_of(place: str) -> str | None:
    """The gateway that a place names; None when it is a host's name."""
    return place.removeprefix(_GATEWAY) if place.startswith(_GATEWAY) else None


def import_key(service: str, gateway: str) -> str:
    """The key of the entry by which the gateway brings in the service."""
    return f"import/{service}/{gateway}"


def instance_of(wanted: Import, target: str, *, port: int, weight: int = 1) -> Instance:
    """An instance as the import would have it."""
    return Instance(
        service=wanted.service,
        host=place_of(wanted.gateway),
        target=target,
        port=wanted.port if wanted.port is not None else port,
        check=wanted.check,
        weight=weight,
        labels=wanted.labels,
        max_streams=wanted.max_streams,
        max_rate=wanted.max_rate,
    )


def is_as_signed(wanted: Import, instance: Instance) -> bool:
    """Whether the instance is no more than what the operator lets the gateway bring in."""
    return (
        instance.service == wanted.service
        and instance.host == place_of(wanted.gateway)
        and wanted.port in (None, instance.port)
        and instance.check == wanted.check
        and instance.labels == wanted.labels
        and (instance.max_streams, instance.max_rate) == (wanted.max_streams, wanted.max_rate)
        and why_refused(instance.target, wanted.allow_loopback) is None
    )


@lru_cache(_REMEMBERED)
def why_refused(target: str, allow_loopback: bool) -> str | None:
    """Why a gateway does not connect to this, whoever registered it in Consul (C38); None when it may.

    Only addresses: behind a name there could be another one each time it is asked.
    """
    try:
        endpoint = parse_target(target)
    except InputError as exc:
        return exc.what
    try:
        address = ipaddress.ip_address(endpoint.host)
    except ValueError:
        return f"{endpoint.host} is a name, and not an IP address"
    if address.is_loopback:
        return None if allow_loopback else f"{address} is the gateway itself"
    if address.is_link_local or (address.version == 4 and (address in _THIS_NETWORK or address.is_reserved)):
        return f"{address} cannot be a target"
    if any(address in network for network in _TRANSLATED):
        return f"{address} stands for an IPv4 address"
    return None
