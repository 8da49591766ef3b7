"""I/O: whether this gateway writes Consul's catalog. What that takes is loaded only where it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from agents.estate import HomeConfig
from bridge.metrics import Metrics
from inventory.registries.interface import Registry
from inventory.snapshot import Snapshot


class Catalog(Protocol):
    def changed(self, hosts: Iterable[str]) -> None:
        """Something about these hosts is otherwise now."""

    def status(self) -> dict[str, Any]:
        """What it adds to the gateway's status."""

    def warnings(self) -> list[dict[str, str]]:
        """What an operator should know."""

    async def run(self) -> None:
        """Writes until it is cancelled."""


class NoCatalog:
    """Of a gateway that writes none."""

    def changed(self, hosts: Iterable[str]) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {}

    def warnings(self) -> list[dict[str, str]]:
        return []

    async def run(self) -> None:
        return


def catalog_of(config: HomeConfig, registry: Registry, snapshot: Callable[[], Snapshot], metrics: Metrics) -> Catalog:
    """Args: as those of `CatalogWriter`."""
    if config.consul is None or not config.consul.catalog:
        return NoCatalog()
    from agents.catalog.writer import CatalogWriter
    from inventory.registries.consul import ConsulRegistry
    from inventory.registries.consul_catalog import ConsulCatalog
    from inventory.registries.consul_catalog_wire import Mark

    if not isinstance(registry, ConsulRegistry):
        return NoCatalog()
    mark = Mark(config.trust_domain, config.genesis[:ESTATE_LENGTH])
    return CatalogWriter(ConsulCatalog(registry.store, mark, config.name), snapshot, metrics)


ESTATE_LENGTH = 16
"""Of the genesis fingerprint, hex, in the mark: enough to tell one estate from another of the same name."""
