"""I/O: the process that holds every simulated host, told what to do line by line: JSON in, JSON back.

python -m tests.bench.scale.simulator FOLDER SHAPE

connect {ramp, within}          every host links up, spread over `ramp` seconds; until all are told everything
watch {number | mark}           from now on notice who applied this entry, or health with this reason
seen {count, within}            until so many have; when each had it
fail {host, mark} · heal {host} an instance of the host fails (passes again) and the host reports it
back {count, within}            until so many hosts have been linked and told again since `forget`
churn {rate, seconds}           instances come, go and fail; how late others knew
leave {host}                    its link ends for good
state · forget                  counters; start counting anew
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from agents.control import messages as c
from inventory.authority import Slice
from inventory.model import Health, Instance
from tests.bench.scale.churn import Churn
from tests.bench.scale.host import SimulatedHost
from tests.bench.scale.make_estate import Start
from tests.bench.scale.shape import PASSING, SHOP, Shape
from tests.bench.scale.tunnels import Carrier

_AT_ONCE = 20
_SETTLED = 60.0
_LOOK = 0.02
"""Between two looks whether something has come about, seconds."""

Words = dict[str, Any]


class Simulator:
    """All hosts, and what they heard: the witness of each of them."""

    def __init__(self, folder: Path, shape: Shape, nursery: trio.Nursery) -> None:
        self._folder = folder
        self._shape = shape
        self._nursery = nursery
        self._carrier = Carrier(nursery)
        self.hosts: dict[str, SimulatedHost] = {}
        self._gone: set[str] = set()
        self._number: int | None = None
        self._mark = ""
        self._seen: dict[str, tuple[float, float]] = {}
        self._told: dict[str, tuple[float, int]] = {}
        """Host -> when it was told everything since `forget`, and the bytes that this took."""
        self._away: Counter[str] = Counter()
        """Hosts that somebody was told are away."""
        self._refused: list[str] = []
        self._churn: Churn | None = None

    def make(self) -> None:
        start = msgspec.json.decode((self._folder / "start.json").read_bytes(), type=Start)
        slice_ = Slice.start(start.genesis, start.fingerprint)
        for name in [*self._shape.team_hosts, *self._shape.core_hosts]:
            identity = self._folder / "hosts" / f"{name}.pem"
            host = SimulatedHost(
                name, start=start, slice_=slice_, identity=identity, carrier=self._carrier, witness=self
            )
            host.serve(self._shape.instances_on(name))
            self.hosts[name] = host

    # --- Witness ----------------------------------------------------------------------------------------------------

    def applied(self, host: SimulatedHost, update: c.Update, *, arrived: float, at: float) -> None:
        if update.full:
            self._told[host.name] = (at, host.tunnels.taken)
        if host.name not in self._seen and self._has_it(host, update):
            self._seen[host.name] = (at, arrived)
        for name, presence in update.presence.items():
            if presence is not None and not presence.online:
                self._away[name] += 1
        if self._churn is not None:
            self._churn.heard(host.name, update, at)

    def _has_it(self, host: SimulatedHost, update: c.Update) -> bool:
        if self._number is not None:
            return host.known.snapshot.authority.number >= self._number
        return bool(self._mark) and any(h is not None and h.reason == self._mark for h in update.health.values())

    def refused(self, host: SimulatedHost, reason: str) -> None:
        self._refused.append(f"{host.name}: {reason}")

    # --- what can be asked for --------------------------------------------------------------------------------------

    async def obey(self, command: str, words: Words) -> Words:
        known: dict[str, Callable[[Words], Awaitable[Words]]] = {
            "connect": self._connect,
            "watch": self._watch,
            "seen": self._wait_seen,
            "fail": self._fail,
            "heal": self._heal,
            "back": self._back,
            "churn": self._run_churn,
            "leave": self._leave,
            "state": self._state,
            "forget": self._forget,
        }
        return await known[command](words)

    async def _connect(self, words: Words) -> Words:
        self._nursery.start_soon(self._carrier.drive)
        self._nursery.start_soon(self._carrier.tick)
        self._nursery.start_soon(self._begin_all, words["within"])
        return await self._back({"count": len(self.hosts), **words})

    async def _begin_all(self, within: float) -> None:
        """A few at a time: a thousand hosts that verify their first update on one core would all be too slow for their
        gateway, which a thousand machines would not."""
        few = trio.CapacityLimiter(_AT_ONCE)

        async def begin(host: SimulatedHost) -> None:
            async with few:
                self._nursery.start_soon(host.link.run)
                await until(lambda: host.name in self._told, within)

        async with trio.open_nursery() as nursery:
            for host in self.hosts.values():
                nursery.start_soon(begin, host)

    async def _back(self, words: Words) -> Words:
        await until(lambda: len(self._told) >= words["count"], words["within"])
        return {
            "told": sorted(at for at, _ in self._told.values()),
            "bytes": sorted(size for _, size in self._told.values()),
            **await self._state({}),
        }

    async def _watch(self, words: Words) -> Words:
        self._number, self._mark = words.get("number"), words.get("mark", "")
        self._seen.clear()
        return {}

    async def _wait_seen(self, words: Words) -> Words:
        await until(lambda: len(self._seen) >= words["count"], words["within"])
        await trio.sleep(words.get("linger", 0.0))  # whoever ought not to hear of it would by now
        self._number, self._mark = None, ""
        return {"applied": [at for at, _ in self._seen.values()], "arrived": [at for _, at in self._seen.values()]}

    async def _fail(self, words: Words) -> Words:
        host = self.hosts[words["host"]]
        first = next(iter(host.instances))
        host.health[first] = Health(state="failing", reason=words["mark"])
        host.link.report_changed()
        return {"at": time.time()}

    async def _heal(self, words: Words) -> Words:
        host = self.hosts[words["host"]]
        host.health = dict.fromkeys(host.instances, PASSING)
        host.link.report_changed()
        return {"at": time.time()}

    async def _run_churn(self, words: Words) -> Words:
        busy = [host for host in self.hosts.values() if host.name not in self._gone]
        self._churn = Churn(busy, self.hosts[self._shape.shop_host], random.Random(words["seed"]))
        await self._churn.run(words["rate"], words["seconds"])
        differing = len(self._differing())
        await until(lambda: not self._differing(), _SETTLED)
        figures = {**self._churn.figures(), "differing_at_end": differing, "differing": self._differing()[:5]}
        self._churn = None
        return figures

    def _differing(self) -> list[str]:
        """Hosts of a team that know another thing about a host of their team than that host says."""
        found = []
        for team in range(self._shape.teams):
            members = [self.hosts[name] for name in self._shape.hosts_of(team) if name not in self._gone]
            for observer in members:
                known = observer.known.snapshot
                for other in members:
                    told = {instance.id for instance in known.reported.get(other.name, ())}
                    states = {i: h.state for i, h in other.health.items()}
                    wanted = {i for i, instance in other.instances.items() if self._sees(observer, instance)}
                    if told != wanted or any(known.health[i].state != states[i] for i in wanted & known.health.keys()):
                        found.append(f"{observer.name} about {other.name}")
        return found

    def _sees(self, observer: SimulatedHost, instance: Instance) -> bool:
        return instance.service != SHOP or observer.name == self._shape.shop_host

    async def _leave(self, words: Words) -> Words:
        self._gone.add(words["host"])
        self.hosts[words["host"]].link.end()
        return {}

    async def _state(self, _words: Words) -> Words:
        live = [host for host in self.hosts.values() if host.name not in self._gone]
        by_second = Counter(int(at) for at in self._carrier.handshakes)
        reasons = Counter(host.link.last_error for host in live if not host.link.connected)
        return {
            "hosts": len(live),
            "linked": sum(host.link.connected for host in live),
            "linked_at": sorted(_wall(host.link.since) for host in live if host.link.connected),
            "handshakes": len(self._carrier.handshakes),
            "handshakes_peak": max(by_second.values(), default=0),
            "handshakes_failed": self._carrier.failed,
            "gone": sorted(self._gone),
            "away": {name: count for name, count in self._away.items() if name not in self._gone},
            "refused": self._refused[:5],
            "crashes": self._carrier.crashes[:5],
            "why_not": dict(reasons.most_common(3)),
        }

    async def _forget(self, _words: Words) -> Words:
        self._told.clear()
        self._away.clear()
        self._carrier.handshakes.clear()
        self._carrier.failed = 0
        gc.collect()
        return {}


def _wall(trio_time: float) -> float:
    return time.time() - (trio.current_time() - trio_time)


async def until(found: Callable[[], bool], within: float) -> bool:
    with trio.move_on_after(within):
        while not found():  # noqa: ASYNC110 - what is waited for comes about in a thousand places
            await trio.sleep(_LOOK)
        return True
    return False


async def run(folder: Path, shape: Shape) -> None:
    # A collection walks everything that a thousand hosts know, which none of them would have to do: it is done when
    # nothing is measured.
    gc.disable()
    log = (folder / "simulator.log").open("w", encoding="utf-8")  # standard output is for answers
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=log))
    async with trio.open_nursery() as nursery:
        simulator = Simulator(folder, shape, nursery)
        simulator.make()
        print(json.dumps({"hosts": len(simulator.hosts)}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command, _, rest = line.partition(" ")
            answer = await simulator.obey(command, json.loads(rest))
            print(json.dumps(answer), flush=True)
        nursery.cancel_scope.cancel()


def main() -> None:
    trio.run(run, Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Shape))


if __name__ == "__main__":
    main()
