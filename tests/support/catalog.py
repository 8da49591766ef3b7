"""I/O: Consul's catalog in tests: as its own users read it, and a writer of ours on a snapshot that the test makes."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import trio

from agents.catalog.writer import CatalogWriter
from bridge.metrics import NoMetrics
from inventory.health import HealthByHost
from inventory.model import Health, Host, Instance, Presence
from inventory.registries.consul import ConsulRegistry, open_consul
from inventory.registries.consul_catalog import ConsulCatalog
from inventory.registries.consul_catalog_wire import Mark
from inventory.registries.consul_place import ConsulPlace
from inventory.snapshot import Snapshot
from tests.support.consul_server import ConsulServer, documented_catalog_policy, documented_policy
from tests.support.estates import authority
from tests.support.traffic import eventually

PASSING = Health(state="passing")


def new_place(consul: ConsulServer, domain: str) -> ConsulPlace:
    """A prefix of its own, with a token that has what the document tells people to give it, and no more."""
    prefix = f"catalog-{secrets.token_hex(4)}/"
    return consul.place(prefix, rules=documented_policy(prefix) + documented_catalog_policy(domain))


class World:
    """An estate that a test changes by hand, and what writes it into the catalog."""

    def __init__(self, domain: str = "") -> None:
        self.mark = Mark(domain or f"d{secrets.token_hex(4)}.internal", secrets.token_hex(8))
        self.hosts: dict[str, Host] = {}
        self.online: set[str] = set()
        self.instances: dict[str, Instance] = {}
        self.health: dict[str, Health] = {}
        self.writers: list[CatalogWriter] = []
        self.snapshot = self._made()

    def _made(self) -> Snapshot:
        return Snapshot(
            authority=authority(self.hosts.values(), self.instances.values()),
            presence={name: Presence(host=name, online=True) for name in sorted(self.online)},
            health=HealthByHost(self.health),
        )

    def publish(self, hosts: Iterable[str]) -> None:
        """What was changed counts from now on."""
        self.snapshot = self._made()
        for writer in self.writers:
            writer.changed(hosts)

    def fill(self, hosts: int, services: int, *, each: int) -> None:
        """Hosts with `each` instances, of `services` services in turn; all well."""
        number = 0
        for index in range(hosts):
            name = f"vm{index}"
            self.hosts[name] = Host(name=name, labels={"os": "linux"}, site="dc1")
            self.online.add(name)
            for _ in range(each):
                service = f"{self.mark.domain.partition('.')[0]}-{number % services}"
                self.add(Instance(service=service, host=name, target=f"127.0.0.1:{1024 + number}", port=80))
                number += 1
        self.publish(self.hosts)

    def add(self, instance: Instance, health: Health = PASSING) -> None:
        self.instances[instance.id] = instance
        self.health[instance.id] = health


@contextlib.asynccontextmanager
async def writing(world: World, place: ConsulPlace, gateway: str = "gw1") -> AsyncIterator[CatalogWriter]:
    """A writer as a gateway has it, until the block is left."""
    async with open_consul(place) as registry, trio.open_nursery() as nursery:
        writer = new_writer(world, registry, gateway)
        world.writers.append(writer)
        nursery.start_soon(writer.run)
        yield writer
        world.writers.remove(writer)
        nursery.cancel_scope.cancel()


def new_writer(world: World, registry: ConsulRegistry, gateway: str) -> CatalogWriter:
    return CatalogWriter(ConsulCatalog(registry.store, world.mark, gateway), lambda: world.snapshot, NoMetrics())


async def until(found: Callable[[], object], *, what: str, timeout: float = 20.0) -> None:
    """`eventually`, while the writer goes on."""
    await trio.to_thread.run_sync(partial(eventually, found, what=what, timeout=timeout))


class Reader:
    """What is in the catalog, as an administrator reads it."""

    def __init__(self, consul: ConsulServer) -> None:
        self.ask = consul.ask

    def nodes(self, mark: Mark) -> dict[str, Any]:
        return self.nodes_of(mark.domain)

    def nodes_of(self, domain: str) -> dict[str, Any]:
        path = f"/v1/catalog/nodes?node-meta=meshbridge-domain:{domain}"
        return {node["Node"]: node for node in self.ask("GET", path)}

    def services(self, mark: Mark) -> dict[str, str]:
        """Id -> what its check says; only ours."""
        checks = self.ask("GET", f"/v1/health/state/any?node-meta=meshbridge-domain:{mark.domain}")
        return {check["ServiceID"]: check["Status"] for check in checks if check["ServiceID"]}

    def everything(self, without: Iterable[str] = ()) -> Mapping[str, str]:
        """Every node of the catalog, as text with all that is on it, versions included."""
        left_out = set(without)
        found = {}
        for node in self.ask("GET", "/v1/catalog/nodes"):
            name = node["Node"]
            if name not in left_out:
                parts = [self.ask("GET", f"/v1/{kind}/node/{name}") for kind in ("catalog", "health")]
                found[name] = json.dumps(parts, sort_keys=True, default=repr)
        return found

    def register(self, entry: dict[str, Any]) -> None:
        self.ask("PUT", "/v1/catalog/register", entry)

    def deregister(self, entry: dict[str, Any]) -> None:
        self.ask("PUT", "/v1/catalog/deregister", entry)
