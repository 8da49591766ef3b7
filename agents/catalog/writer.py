"""I/O: keeps Consul's catalog saying what this gateway knows, while it holds the lock; waits for the lock otherwise.

At the start, and after any error, all that carries our mark is read, and the difference is written. After that a change
is written as it comes: a few milliseconds later, with whatever else has changed by then. Every CATALOG_LOOK the catalog
is looked at, so that what others did to our entries is mended; what did not change costs a few requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import trio

from agents.backoff import Backoff
from agents.catalog.entries import node_prefix, wanted_on
from agents.catalog.mirror import Mirror
from agents.catalog.plan import Denied, Plan, name_of, plan
from agents.guards import must_pass
from agents.node import warning
from agents.supervisor import Latest
from bridge import limits
from bridge.bugs import tell_bug
from bridge.logs import get_logger
from bridge.metrics import Metrics
from inventory.errors import MeshError
from inventory.names import shown
from inventory.registries.consul_catalog import SESSION_TTL, ConsulCatalog, LockLost, is_askable
from inventory.registries.consul_catalog_wire import (
    BYTES_MAX,
    DENIED,
    OPERATIONS_MAX,
    STALE,
    Entry,
    Found,
    Key,
    Operation,
    Service,
)
from inventory.snapshot import Snapshot

log = get_logger()

_RENEWAL = SESSION_TTL * 0.4
_ALWAYS_THERE = "consul"
"""A service of others that every Consul has: its own servers."""


class _Batch(NamedTuple):
    """What goes into one transaction."""

    operations: list[Operation]
    encoded: list[bytes]
    plans: dict[str, Plan]
    """Of the nodes that it completes."""


@dataclass(slots=True)
class _Denials:
    nodes: set[str] = field(default_factory=set)
    services: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.services)


class CatalogWriter:
    """Args:
    snapshot: what the gateway knows now.
    """

    def __init__(self, catalog: ConsulCatalog, snapshot: Callable[[], Snapshot], metrics: Metrics) -> None:
        self._catalog = catalog
        self._mark = catalog.mark
        self._snapshot = snapshot
        self._metrics = metrics
        self._rng = random.Random()
        self._prefix = node_prefix(self._mark.domain)
        self._alarm = ""
        self._writes = self._counted = 0
        self._wish, self._look_wish = Latest(), Latest()
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of the catalog."""
        self._mirror = Mirror(self._mark)
        self._blind = False
        """Whether the services of others are hidden from us, so that none of ours may be written."""
        self._asked: set[str] = set()
        """Service names of which it is known whether others have them."""
        self._services_number = -1
        self._urgent: dict[str, None] = {}
        """Nodes to look at, by their names in Consul, as they were asked for: what has changed ..."""
        self._rest: dict[str, None] = {}
        """... and what was found to differ."""
        self._conflicts: dict[str, tuple[str, ...]] = {}
        self._denied = _Denials()
        self._failed: dict[str, int] = {}
        """Node -> how often it could not be written since the last look."""
        self._failure = ""
        self._entries = {"node": 0, "service": 0}

    # --- what the gateway says and asks -------------------------------------------------------------------------------

    def changed(self, hosts: Iterable[str]) -> None:
        """Something about these hosts is otherwise now."""
        self._urgent.update(dict.fromkeys(self._prefix + host for host in hosts))
        self._wish.ask()

    def status(self) -> dict[str, Any]:
        return {
            "catalog": {
                "writer": self._catalog.writer,
                "nodes": self._entries["node"],
                "services": self._entries["service"],
                "requests": self._catalog.requests,
            }
        }

    def warnings(self) -> list[dict[str, str]]:
        found = [warning("catalog", text) for text in (self._alarm, self._failure, self._missing_right()) if text]
        conflicts = sorted({text for texts in self._conflicts.values() for text in texts})
        if conflicts:
            more = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
            found.append(warning("catalog-conflict", f"not written to Consul's catalog: {conflicts[0]}{more}"))
        return found

    def _missing_right(self) -> str:
        rights = ['node_prefix "" (read)'] if self._blind else []
        if self._denied.nodes:
            rights.append(f'node_prefix "{self._prefix}" (write)')
        if self._denied.services:
            rights.append(f'service "{min(self._denied.services)}" (write)')
        return f"the token lacks rights for Consul's catalog: {', '.join(rights)}" if rights else ""

    # --- one gateway at a time ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        backoff = Backoff(rng=self._rng)
        try:
            while True:
                try:
                    await self._catalog.acquire(self._stand_by)
                    await self._hold(backoff)
                except BaseException as exc:  # whatever it was: it costs the catalog, and nobody else
                    if must_pass(exc):
                        raise
                    self._tell(exc)
                await trio.sleep(backoff.next())
        finally:
            with trio.move_on_after(limits.CATALOG_RELEASE, shield=True):
                try:
                    await self._catalog.release()
                except MeshError as exc:
                    log.info("the lock of the catalog ends by itself", reason=str(exc))

    def _stand_by(self) -> None:
        """Another gateway writes, so what is wrong with the catalog is its to say; and Consul has answered us."""
        self._alarm = ""
        self._forget()

    def _tell(self, exc: BaseException) -> None:
        causes = list(_leaves(exc))
        if all(isinstance(cause, LockLost) for cause in causes):
            log.info("another gateway may write Consul's catalog", reason=str(causes[0]))
        elif all(isinstance(cause, MeshError) for cause in causes):
            self._alarm = str(causes[0])
            log.warning("Consul's catalog cannot be written", reason=str(causes[0]))
        else:
            self._alarm = f"internal error: {type(causes[0]).__name__}"
            tell_bug("Consul's catalog cannot be written", exc)

    async def _hold(self, backoff: Backoff) -> None:
        """Write until that fails."""
        self._forget()
        await self._look()
        self.changed(self._snapshot().authority.hosts)
        self._alarm = ""
        backoff.reset()
        log.info("this gateway writes Consul's catalog")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._renew)
            nursery.start_soon(self._keep_looking)
            nursery.start_soon(self._keep_writing)

    async def _renew(self) -> None:
        while True:
            await trio.sleep(_RENEWAL)
            await self._catalog.renew()

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            # Not all at the same moment, and never much later.
            await trio.sleep(limits.CATALOG_LOOK * self._rng.uniform(0.8, 1.0))
            await self._look()

    async def _look(self) -> None:
        """Reads what is marked. What differs from what we know, and what could not be written, is planned anew."""
        catalog, mirror = self._catalog, self._mirror
        mirror.begin_reading()
        names = await catalog.names()
        found = [*await catalog.nodes(), *await catalog.checks()]
        again: set[str] = set()
        if names.number == self._services_number:
            changed, _ = mirror.read_all(found, None)
        else:
            wanted = self._names_served()
            asked = {name for name in (await catalog.names_on_our_nodes()) | (wanted & names.known) if is_askable(name)}
            services = await self._services_of(sorted(asked))
            changed, differ = mirror.read_all(found, services, names=asked | wanted)
            self._see(await catalog.services(_ALWAYS_THERE))
            self._asked = asked | wanted
            self._services_number = names.number
            again = {self._prefix + host for name in differ for host in self._hosts_of(name)}
        if self._blind:
            self._services_number = -1  # a right that was given changes no number
        if self._denied or self._failed:
            again |= {*self._failed, *(self._prefix + host for host in self._snapshot().authority.hosts)}
            self._denied, self._failed, self._failure = _Denials(), {}, ""
        self._rest.update(dict.fromkeys(sorted(changed | again)))
        self._wish.ask()

    def _names_served(self) -> set[str]:
        """By hosts of the estate. What gateways bring in from Consul is others' there, and stays that."""
        snapshot = self._snapshot()
        return {instance.service for host in snapshot.authority.hosts for instance in snapshot.offers(host)}

    def _see(self, servers: list[Found]) -> None:
        """Consul lists no service whose node the token may not read, and does not say so."""
        if self._blind != (not servers):
            self._blind = not servers
            self.changed(self._snapshot().authority.hosts)

    async def _services_of(self, names: Iterable[str]) -> list[Found]:
        found = []
        for name in names:
            found += await self._catalog.services(name)
            await trio.sleep(limits.CATALOG_READ_PAUSE)
        return found

    def _hosts_of(self, name: str) -> Iterator[str]:
        service = self._snapshot().service(name)
        return (instance.host for instance in service.instances) if service is not None else iter(())

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _keep_writing(self) -> None:
        while True:
            await self._wish.asked()
            while self._urgent or self._rest:
                batch = await self._next_batch()
                if batch.operations:
                    await self._write(batch)
                await trio.sleep(limits.CATALOG_PAUSE)
            self._entries = {kind: self._mirror.count(kind) for kind in self._entries}
            self._metrics.catalog(writes=self._writes - self._counted, entries=self._entries)
            self._counted = self._writes

    async def _next_batch(self) -> _Batch:
        """As much as one transaction takes of what has changed, then of the rest; planned from what is known now."""
        batch = _Batch([], [], {})
        size = 0
        for _ in range(limits.CATALOG_PLANNED):
            queue = self._urgent or self._rest
            if not queue:
                break
            node = next(iter(queue))
            del queue[node]
            if self._failed.get(node, 0) >= limits.CATALOG_TRIES:
                continue
            wanted = self._wanted(node)
            await self._ask_about_new(wanted.values())
            planned = self._plan(node, wanted)
            for group in planned.groups:
                encoded = [msgspec.json.encode(operation.json) for operation in group]
                size += sum(map(len, encoded))
                if batch.operations and (len(batch.operations) + len(group) > OPERATIONS_MAX or size > BYTES_MAX):
                    queue[node] = None
                    return batch
                batch.operations.extend(group)
                batch.encoded.extend(encoded)
            batch.plans[node] = planned
            if not planned.groups:
                self._settled(node, planned)
        return batch

    def _wanted(self, node: str) -> dict[Key, Entry]:
        """Nothing for what carries our mark and is no host of ours."""
        if not node.startswith(self._prefix):
            return {}
        return wanted_on(self._snapshot(), node.removeprefix(self._prefix), self._mark)

    async def _ask_about_new(self, wanted: Iterable[Entry]) -> None:
        """Before a service name is written for the first time: whose is it?"""
        for name in {entry.name for entry in wanted if isinstance(entry, Service)} - self._asked:
            self._mirror.read_name(name, await self._catalog.services(name))
            self._asked.add(name)

    def _plan(self, node: str, wanted: dict[Key, Entry]) -> Plan:
        found = self._mirror.nodes.get(node, {})
        services = self._denied.services
        if self._blind:
            services = {name_of(entry) for entry in (*wanted.values(), *(f.entry for f in found.values()))} - {""}
        denied = Denied(self._denied.nodes, services)
        return plan(node, wanted, found, mark=self._mark, taken=self._mirror.taken, denied=denied)

    def _settled(self, node: str, planned: Plan) -> None:
        if planned.conflicts:
            self._conflicts[node] = tuple(conflict.what for conflict in planned.conflicts)
        else:
            self._conflicts.pop(node, None)

    async def _write(self, batch: _Batch) -> None:
        outcome = await self._catalog.write(batch.encoded)
        nodes = dict.fromkeys(operation.key.node for operation in batch.operations)
        if not outcome.failures:
            self._writes += 1
            self._mirror.wrote(batch.operations, outcome.versions)
            for node, planned in batch.plans.items():
                self._settled(node, planned)
            return
        unsure: dict[str, str] = {}
        for failure in outcome.failures:
            operation = batch.operations[failure.operation]
            if failure.what == DENIED:
                self._deny(operation)
            else:
                unsure[operation.key.node] = failure.what
        for node, what in unsure.items():
            self._failed[node] = self._failed.get(node, 0) + 1
            if STALE not in what or self._failed[node] >= limits.CATALOG_TRIES:
                self._failure = f"Consul refuses an entry of its catalog: {shown(what)}"
            # Somebody has changed it since it was read, or somebody else has that name.
            self._mirror.read_node(node, await self._catalog.node(node) if is_askable(node) else ())
        self._urgent.update(nodes)

    def _deny(self, operation: Operation) -> None:
        name = name_of(operation.entry)
        if name:
            self._denied.services.add(name)
        else:
            self._denied.nodes.add(operation.key.node)


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
