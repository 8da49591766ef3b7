"""I/O: from a change to the moment at which every host that may see it has verified and applied it.

Counted from when the registry has the operator's signed entry, or from when the host reported. All simulated hosts
share one core (and the machine with the gateway); a thousand machines would work at the same time. So what is compared
with the goal is when the last byte arrived, as the kernel stamps it, and then the work of one host: the simulator's
processor time for the change, divided by the hosts that applied it. What it took with all on one core is shown as well.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from agents.estate import Operator, operate
from agents.operating.hosts import revoke_host
from agents.operating.services import Which, add_service, drain_service, resume_service
from inventory.model import Instance
from inventory.registries.interface import Change, Registry
from tests.bench.scale.figures import Section, percentile
from tests.bench.scale.make_estate import apply_rules
from tests.bench.scale.shape import CORE_PORT, CORE_SERVICE, PORT
from tests.bench.scale.stand import Cpu, Stand

GOAL = 0.25
TITLES = {
    "a-signed": "signed, all hosts see it",
    "a-reported": "reported by a host, all see it",
    "b-signed": "signed, one team sees it",
    "b-reported": "reported by a host, its team sees it",
    "c-policy": "the policy with one rule changed",
    "d-revocation": "revocation, all hosts see it",
}
_WITHIN = 60.0
_QUIET = 0.5
"""Between two changes, so that what one left to do is not counted with the next."""

_SETTLED = 2.0
_LOOK = 0.02

Do = Callable[[Operator], Awaitable[object]]


@dataclass(frozen=True)
class Spread:
    """One change: how long it took to each host, and what it cost."""

    applied: Sequence[float]
    arrived: Sequence[float]
    expected: int
    cpu: Cpu
    lag: float
    """The longest that the supervisor took to answer meanwhile."""

    @property
    def own(self) -> list[float]:
        """How long it took to each host if it had a machine of its own: until it arrived, and the work of one host."""
        work = self.cpu.simulator / max(1, len(self.arrived))
        return [lag + work for lag in self.arrived]


class _Acknowledging:
    """A registry that notes when it had acknowledged a change."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.at = 0.0
        self.read, self.get, self.watch = registry.read, registry.get, registry.watch
        self.lease, self.release, self.leases = registry.lease, registry.release, registry.leases

    async def transact(self, changes: Sequence[Change]) -> int:
        revision = await self._registry.transact(changes)
        self.at = time.time()
        return revision


class Changes:
    """Measures changes one at a time, each several times."""

    def __init__(self, stand: Stand, rounds: int) -> None:
        self._stand = stand
        self._rounds = rounds
        self._everybody = stand.shape.hosts + stand.shape.core

    def measure(self) -> Section:
        section = Section("From a change to in force at every host that may see it")
        trio.run(self._all, section)
        return section

    async def _all(self, section: Section) -> None:
        shape, rounds = self._stand.shape, self._rounds
        async with operate(self._stand.home) as operator:
            self._registry = _Acknowledging(operator.registry)
            operator.registry = self._registry
            team = shape.hosts_of(0)
            await self._place(operator)
            signed = (self._drain, self._resume)
            found = [await self._signed(operator, signed[n % 2], self._everybody) for n in range(rounds)]
            self._write(section, "a-signed", found, goal=GOAL)
            found = [await self._reported(shape.core_hosts[0], self._everybody, n) for n in range(rounds)]
            self._write(section, "a-reported", found, goal=GOAL)
            found = [await self._signed(operator, self._add_in_team(n), len(team)) for n in range(rounds)]
            self._write(section, "b-signed", found, goal=GOAL)
            found = [await self._reported(team[n % len(team)], len(team), n) for n in range(rounds)]
            self._write(section, "b-reported", found, goal=GOAL)
            found = [await self._signed(operator, self._policy(n), self._everybody) for n in range(min(2, rounds))]
            self._write(section, "c-policy", found)
            found = []
            for number in range(1, min(rounds + 1, shape.core)):
                found.append(await self._revocation(operator, shape.core_hosts[-number]))
            self._write(section, "d-revocation", found, goal=GOAL)

    # --- the changes ------------------------------------------------------------------------------------------------

    async def _place(self, operator: Operator) -> None:
        host = self._stand.shape.core_hosts[0]
        await add_service(operator, Instance(service=CORE_SERVICE, host=host, target="127.0.0.1:390", port=CORE_PORT))
        await trio.sleep(_SETTLED)

    async def _drain(self, operator: Operator) -> None:
        await drain_service(operator, Which(CORE_SERVICE), reason="measured")

    async def _resume(self, operator: Operator) -> None:
        await resume_service(operator, Which(CORE_SERVICE))

    def _add_in_team(self, number: int) -> Do:
        shape = self._stand.shape
        host, service = shape.hosts_of(0)[0], shape.services_in(0)[0]
        instance = Instance(service=service, host=host, target=f"127.0.0.1:{2000 + number}", port=PORT)
        return lambda operator: add_service(operator, instance)

    def _policy(self, number: int) -> Do:
        rules = self._stand.shape.policy_with(f"changed {number}")
        return lambda operator: apply_rules(operator, rules, "one rule changed")

    # --- one change -------------------------------------------------------------------------------------------------

    async def _signed(self, operator: Operator, do: Do, expected: int) -> Spread:
        self._stand.ask("watch", number=operator.state.number + 1)

        async def change() -> float:
            await do(operator)
            return self._registry.at

        return await self._one(change, expected)

    async def _reported(self, host: str, expected: int, number: int) -> Spread:
        mark = f"measured {number}"
        self._stand.ask("watch", mark=mark)

        async def change() -> float:
            at: float = self._stand.ask("fail", host=host, mark=mark)["at"]
            return at

        spread = await self._one(change, expected)
        self._stand.ask("heal", host=host)
        await trio.sleep(_QUIET)
        return spread

    async def _revocation(self, operator: Operator, host: str) -> Spread:
        self._everybody -= 1
        spread = await self._signed(operator, lambda op: revoke_host(op, host, "measured"), self._everybody)
        self._stand.ask("leave", host=host)
        return spread

    async def _one(self, change: Callable[[], Awaitable[float]], expected: int) -> Spread:
        await trio.sleep(_QUIET)
        with self._stand.supervisor_lag(_LOOK) as lags:
            before = self._stand.cpu()
            at = await change()
            seen = self._stand.ask("seen", count=expected, within=_WITHIN)
            cpu = self._stand.cpu() - before
        applied = [moment - at for moment in seen["applied"]]
        return Spread(applied, [moment - at for moment in seen["arrived"]], expected, cpu, max(lags, default=0.0))

    def _write(self, section: Section, key: str, found: Sequence[Spread], *, goal: float | None = None) -> None:
        title = TITLES[key]
        if not found:
            return
        own = [lag for spread in found for lag in spread.own]
        applied = [lag for spread in found for lag in spread.applied]
        missing = sum(max(0, spread.expected - len(spread.applied)) for spread in found)
        section.add(f"{key}/p50", f"{title}: p50", "seconds", percentile(own, 0.50))
        section.add(f"{key}/p99", f"{title}: p99", "seconds", percentile(own, 0.99), goal)
        section.add(f"{key}/max", f"{title}: last host", "seconds", percentile(own, 1.0))
        section.add(f"{key}/one-core", f"{title}: p99, hosts share a core", "seconds", percentile(applied, 0.99))
        for part in ("supervisor", "workers", "simulator"):
            spent = statistics.mean(getattr(spread.cpu, part) for spread in found)
            section.add(f"{key}/cpu-{part}", f"{title}: CPU of {_WORDS[part]}", "seconds", spent)
        section.add(f"{key}/lag", f"{title}: supervisor busy for", "seconds", max(spread.lag for spread in found))
        if missing:
            section.notes.append(f"{title}: {missing} hosts did not hear of it within {_WITHIN:.0f} s")
        section.raw[key] = [
            {
                "own": sorted(spread.own),
                "applied": sorted(spread.applied),
                "arrived": sorted(spread.arrived),
                "expected": spread.expected,
            }
            for spread in found
        ]


_WORDS = {"supervisor": "the gateway's supervisor", "workers": "its workers", "simulator": "all simulated hosts"}
