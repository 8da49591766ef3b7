"""I/O: a registry in Consul, opened with the TLS that it needs, and its connections for what else is asked of Consul.
It loads libraries: import it where it is used.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from bridge.identity import contexts
from inventory.registries import consul
from inventory.registries.consul import ConsulRegistry
from inventory.registries.consul_http import TrioTransport
from inventory.registries.consul_place import ConsulPlace, parse_address
from inventory.registries.interface import Registry


def open_consul(place: ConsulPlace, *, accepts_moved: bool = False) -> AbstractAsyncContextManager[ConsulRegistry]:
    """As `inventory.registries.consul.open_consul`.

    Raises:
        InputError: the CA's file cannot be used.
    """
    tls = contexts.consul_client(place.ca_file) if parse_address(place.address).scheme == "https" else None
    return consul.open_consul(place, tls=tls, accepts_moved=accepts_moved)


def transport_of(registry: Registry) -> TrioTransport | None:
    """The connections of a registry that is in Consul."""
    return registry.store.consul.http if isinstance(registry, ConsulRegistry) else None
