"""I/O: what a gateway brings into the namespace from Consul: one watcher for each import that the operator signed.

A watcher asks, waits for news, and asks again; whatever fails is asked again after a while, and what was heard last
stays in force. The gateway's data workers are told of an instance before any host is, and forget it later: a host that
has not heard yet that it is gone still finds it there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import trio

from agents.backoff import Backoff
from agents.data_workers import DataWorkers
from agents.guards import must_pass
from agents.imports.watched import Watched
from agents.imports.worker_view import authority_for_workers, placement_for_workers, served
from agents.workers import messages as m
from agents.workers.placement import Placed
from bridge import limits
from bridge.bugs import tell_bug
from bridge.logs import get_logger
from inventory.discovery.consul_listing import next_index
from inventory.errors import MeshError
from inventory.imports import place_of
from inventory.model import Health, Import, Instance
from inventory.registries.interface import Registry
from inventory.snapshot import Snapshot

log = get_logger()

Place = Callable[[str, tuple[Instance, ...], dict[str, Health]], None]
"""Takes what is at a place now, with its health: all of it."""


class Importer:
    """Args:
    gateway: its name.
    consul: its `TrioTransport`; None when the registry is elsewhere, and nothing can be brought in.
    place: told what was found.
    """

    def __init__(self, gateway: str, domain: str, workers: DataWorkers, consul: Any | None, place: Place) -> None:
        self._gateway = gateway
        self._domain = domain
        self._workers = workers
        self._consul = consul
        self._place = place
        self._watched: dict[str, Watched] = {}
        """By Import.id."""
        self._watchers: dict[str, trio.CancelScope] = {}
        self._too_many: tuple[str, ...] = ()
        self._leaving: dict[str, tuple[Instance, float]] = {}
        """Instances that are gone, and until when streams to them are taken (trio's time)."""
        self._snapshot: Snapshot
        self._nursery: trio.Nursery
        self._authority: m.Authority | None = None
        """As the workers were told last."""
        self._placed = Placed()

    def start(self, nursery: trio.Nursery) -> None:
        """The watchers that `follow` begins run in this nursery."""
        self._nursery = nursery

    # --- what the operator wants ----------------------------------------------------------------------------------

    def follow(self, snapshot: Snapshot) -> None:
        """Bring the watchers and the workers in line with what is signed now."""
        self._snapshot = snapshot
        mine = {i: w for i, w in sorted(snapshot.authority.imports.items()) if w.gateway == self._gateway}
        self._too_many = tuple(mine)[limits.IMPORTS_MAX :]
        wanted = {i: mine[i] for i in tuple(mine)[: limits.IMPORTS_MAX]}
        changed = False
        for import_id in [i for i, one in self._watched.items() if wanted.get(i) != one.wanted]:
            del self._watched[import_id]
            changed = True
            watcher = self._watchers.pop(import_id, None)
            if watcher is not None:
                watcher.cancel()
        for import_id, one in wanted.items():
            if import_id not in self._watched:
                self._begin(import_id, one)
                changed = True
        if changed:
            self._leaving = {i: kept for i, kept in self._leaving.items() if self._is_wanted(kept[0])}
            self._publish()
        self.tell_workers(self._snapshot)

    def _is_wanted(self, instance: Instance) -> bool:
        return f"{instance.service}/{self._gateway}" in self._watched

    def _begin(self, import_id: str, wanted: Import) -> None:
        known = self._snapshot.reported.get(place_of(self._gateway), ())
        one = self._watched[import_id] = Watched(wanted, tuple(i for i in known if i.service == wanted.service))
        if self._consul is None:
            one.error = "the registry of this estate is not in Consul"
            return
        scope = self._watchers[import_id] = trio.CancelScope()
        self._nursery.start_soon(self._watch, self._consul, one, scope)

    # --- watching -------------------------------------------------------------------------------------------------

    async def _watch(self, consul: Any, one: Watched, scope: trio.CancelScope) -> None:
        # Only here: its libraries take longer to load than the rest of a gateway.
        from inventory.discovery.consul_health import ask

        backoff = Backoff(rng=random.Random(), maximum=limits.IMPORT_RETRY_MAX)
        index = 0
        with scope:
            while True:
                try:
                    listed = await ask(consul, one.wanted.source, index=index)
                    self._heard(one, one.heard(listed, domain=self._domain))
                    index = next_index(index, listed.index)
                    backoff.reset()
                    await trio.sleep(limits.IMPORT_PACE)
                except BaseException as exc:  # a watcher that ended would be silent for ever
                    if must_pass(exc):
                        raise
                    index = 0
                    self._failed(one, exc)
                    await trio.sleep(backoff.next())

    def _failed(self, one: Watched, error: BaseException) -> None:
        before = one.error
        if isinstance(error, MeshError):
            one.error = str(error)
        else:
            one.error = f"internal error: {type(error).__name__}"
            tell_bug("an import cannot be followed", error)
        if one.error != before:
            log.warning("an import cannot be followed", service=one.wanted.service, reason=one.error)

    def _heard(self, one: Watched, gone: list[Instance]) -> None:
        until = trio.current_time() + limits.IMPORT_LINGER
        self._leaving.update((i.id, (i, until)) for i in gone)
        if gone:
            self._nursery.start_soon(self._forget_later)
        self._publish()

    async def _forget_later(self) -> None:
        await trio.sleep(limits.IMPORT_LINGER)
        now = trio.current_time()
        self._leaving = {i: kept for i, kept in self._leaving.items() if kept[1] > now}
        self.tell_workers(self._snapshot)

    # --- telling --------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        place = place_of(self._gateway)
        instances = tuple(instance for _, one in sorted(self._watched.items()) for instance in one.instances)
        health = {i: state for one in self._watched.values() for i, state in one.health.items()}
        for instance in instances:
            if instance.draining is None:
                self._leaving.pop(instance.id, None)
        if instances != self._snapshot.reported.get(place, ()):
            self._place(place, instances, health)

    def placed(self, snapshot: Snapshot, hosts: Iterable[str]) -> None:
        """The placement of these hosts is otherwise now; the workers hear of what concerns them."""
        self._snapshot = snapshot
        mine = served(snapshot, self._gateway)
        if mine or self._placed.reported:
            concerned = {instance.host for service in mine for instance in service.instances}
            if not concerned.union(self._placed.reported).isdisjoint(hosts):
                self.tell_workers(snapshot)

    def tell_workers(self, snapshot: Snapshot) -> None:
        """What is new to them of what is allowed, and of where it is."""
        self._snapshot = snapshot
        authority = authority_for_workers(snapshot, self._gateway)
        if authority != self._authority:
            self._authority = authority
            self._workers.know(authority)
        leaving = (instance for instance, _ in self._leaving.values())
        placed = placement_for_workers(snapshot, self._gateway, leaving)
        change = placed.since(self._placed)
        if change is not None:
            self._placed = placed
            self._workers.know_placement(change, placed.whole)

    # --- asking ---------------------------------------------------------------------------------------------------

    @property
    def is_any(self) -> bool:
        return bool(self._watched)

    def status(self) -> list[dict[str, object]]:
        return [
            {
                "service": one.wanted.service,
                "source": one.wanted.source,
                "tags": list(one.wanted.tags),
                "instances": sum(1 for i in one.instances if i.draining is None),
                "problem": one.problem,
            }
            for _, one in sorted(self._watched.items())
        ]

    def problems(self) -> list[str]:
        found = [one.problem for one in self._watched.values() if one.problem]
        if self._too_many:
            what = f"{len(self._too_many)} imports are not followed: one gateway takes {limits.IMPORTS_MAX}"
            found.append(f"{what} (the first is {self._too_many[0]})")
        return found


def consul_of(registry: Registry) -> Any:
    """The connections of a registry that is in Consul."""
    # Only here: its libraries take longer to load than the rest of a gateway.
    from agents.consul import transport_of

    return transport_of(registry)
