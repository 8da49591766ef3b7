"""I/O: (fakes) what a gateway's importer works with: a Consul that comes and goes, and who is told of what.

Time is trio's, and a test may let it pass by itself: `settle` waits for as long as news takes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import trio
import trio.testing
from consul import base

from agents.imports.importer import Importer
from agents.workers import messages as m
from bridge import limits
from inventory.errors import Unavailable
from inventory.model import Gateway, Health, Host, Import, Instance
from inventory.snapshot import Touched
from tests.support.estates import rule, snapshot

WEB = Import(service="web", gateway="gw1", source="Web")
DB = Import(service="db", gateway="gw1", source="Db", labels={"tier": "db"})
ELSEWHERE = Import(service="web", gateway="gw2", source="Web")
PLACE = "gateway:gw1"


class Consul:
    """Answers at once to a question without an index, and to one that waits when something has changed, or
    its time is over."""

    def __init__(self) -> None:
        self.index = 1
        self.services: dict[str, list[str]] = {}
        self.away = ""
        self.asked = 0
        self._news = trio.Event()

    def say(self, service: str, *addresses: str) -> None:
        self.services[service] = list(addresses)
        self.index += 1
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def leave(self, why: str) -> None:
        self.away = why
        self._wake()

    async def ask(self, method: str, callback: Any, path: str, params: Any, *, waits: float) -> Any:
        self.asked += 1
        index = int(dict(params).get("index", 0))
        with trio.move_on_after(waits):
            while not self.away and index and self.index <= index:
                await self._news.wait()
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable(self.away)
        service = path.rpartition("/")[2]
        rows = [
            {"Node": {"Address": "10.9.9.9"}, "Service": {"Service": service, "Address": a, "Port": 80}, "Checks": []}
            for a in self.services.get(service, ())
        ]
        return callback(base.Response(200, {"X-Consul-Index": str(self.index)}, msgspec.json.encode(rows)))


class Gateway1:
    """What a gateway agent has around its importer; keeps in order who was told what."""

    def __init__(self, *imports: Import) -> None:
        made = snapshot([Host(name="a")], rules=[rule("r", "allow", "host:a", "*"), rule("s", "allow", "host:b", "x")])
        gateways = {name: Gateway(name=name, address="10.0.0.9:7443") for name in ("gw1", "gw2")}
        authority = replace(made.authority, gateways=gateways, imports={one.id: one for one in imports})
        self.snapshot = made.evolved(authority=authority)
        self.consul = Consul()
        self.told: list[tuple[str, Any]] = []
        self.importer = Importer("gw1", "t.internal", self, self.consul, self.place)  # type: ignore[arg-type]

    def know(self, message: m.Authority) -> None:
        self.told.append(("allowed", message))

    def know_placement(self, change: m.PlacementChanged, whole: Any) -> None:
        self.told.append(("worker", self.targets(whole().reported.get(PLACE, ()))))

    def place(self, place: str, instances: tuple[Instance, ...], health: dict[str, Health]) -> None:
        assert place == PLACE
        touched = Touched(hosts=frozenset([place]))
        reported = {**self.snapshot.reported, place: instances}
        states = self.snapshot.health.with_host(place, health)
        self.snapshot = self.snapshot.evolved(touched, reported=reported, health=states)
        self.importer.placed(self.snapshot, [place])
        self.told.append(("host", self.targets(instances)))

    def sign(self, *imports: Import) -> None:
        authority = replace(self.snapshot.authority, imports={one.id: one for one in imports})
        self.snapshot = self.snapshot.evolved(authority=authority)
        self.importer.follow(self.snapshot)

    @staticmethod
    def targets(instances: Any) -> list[str]:
        """Those that take streams."""
        return sorted(f"{i.service}@{i.target.partition(':')[0]}" for i in instances if i.draining is None)

    def worker_had(self, number: int) -> list[str]:
        """What the workers were told last before that message."""
        return next((list(what) for who, what in reversed(self.told[:number]) if who == "worker"), [])

    def last(self, who: str) -> Any:
        return next((what for name, what in reversed(self.told) if name == who), None)


@asynccontextmanager
async def running(gateway: Gateway1) -> AsyncIterator[Gateway1]:
    async with trio.open_nursery() as nursery:
        gateway.importer.start(nursery)
        gateway.importer.follow(gateway.snapshot)
        await trio.testing.wait_all_tasks_blocked()
        yield gateway
        nursery.cancel_scope.cancel()


async def settle() -> None:
    await trio.sleep(2 * limits.IMPORT_PACE)
