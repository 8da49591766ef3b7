"""I/O: checks a set of instances, each at its own interval, and reports only what changes. The set may be swapped.

Nothing a target does ends the checker, and no more than CHECKS_AT_ONCE probes run at a time. Instances with the same
target and the same check are one probe. A probe's result never comes after its instance was taken out of the set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import NoReturn

import trio

from agents.checks.answers import Outcome
from agents.checks.conversation import Connect, connect_directly, with_header
from agents.checks.kinds import CheckSpec
from agents.checks.probes import run_probe
from agents.checks.state import Verdict
from agents.checks.turns import Turns
from agents.guards import must_pass
from bridge import limits
from bridge.bugs import tell_bug
from inventory.endpoints import Endpoint
from inventory.model import Health


@dataclass(frozen=True, slots=True)
class Watched:
    """What is checked of an instance.

    Args:
        host: the host on which the target is, when that is another one than ours: its probes have a budget.
    """

    spec: CheckSpec
    target: Endpoint
    host: str = ""
    proxied: bool = False
    """Whether the target expects to be told who calls."""

    def way(self, connect: Connect) -> Connect:
        """How a probe connects, where streams would do it with `connect`."""
        return with_header(connect) if self.proxied else connect


Report = Callable[[str, Health], None]
RunProbe = Callable[[Watched], Awaitable[Outcome]]


async def probe_directly(watched: Watched) -> Outcome:
    return await run_probe(watched.spec, watched.target, watched.way(connect_directly))


@dataclass(eq=False, slots=True)
class _Running:
    """One probe that is made again and again, and the instances that it speaks for."""

    verdict: Verdict
    instances: set[str]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    soon: trio.Event = field(default_factory=trio.Event)
    """Something has happened for which the next probe does not wait."""


class Checker:
    """Checks instances until cancelled.

    Args:
        report: told the instance's id and its health each time that changes; must not wait. The first result of an
            instance is always a change.
        rng: for the jitter of intervals.
        probe: asks a target once; a gateway gives one that goes the way of streams, and tests give their own.
    """

    def __init__(self, report: Report, *, rng: Random, probe: RunProbe = probe_directly) -> None:
        self._report = report
        self._rng = rng
        self._probe = probe
        self._wanted: dict[str, Watched] = {}
        self._running: dict[Watched, _Running] = {}
        self._nursery: trio.Nursery | None = None
        self._free = trio.CapacityLimiter(limits.CHECKS_AT_ONCE)
        self._turns = Turns()

    def set_instances(self, instances: Mapping[str, Watched]) -> None:
        """Replaces the set, by instance id. One whose check and target stayed the same keeps its history."""
        self._wanted = dict(instances)
        if self._nursery is not None:
            self._apply(self._nursery)

    def soon(self, host: str) -> None:
        """Ask this host now, as far as its budget allows: it is there again, and no interval has to pass to say so."""
        for watched, running in self._running.items():
            if watched.host == host:
                running.soon.set()

    def late(self) -> dict[str, float]:
        """Hosts that have more checks than their budget allows, and by how many seconds the last one was late."""
        return self._turns.late()

    async def run(self) -> NoReturn:
        """Runs until cancelled; call it once."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self._apply(nursery)
                await trio.sleep_forever()
            finally:
                self._nursery = None
        raise AssertionError("sleep_forever ended")

    def _apply(self, nursery: trio.Nursery) -> None:
        wanted: dict[Watched, set[str]] = {}
        for instance_id, watched in self._wanted.items():
            wanted.setdefault(watched, set()).add(instance_id)
        for watched in self._running.keys() - wanted.keys():
            self._running.pop(watched).scope.cancel()
        for watched, instances in wanted.items():
            running = self._running.get(watched)
            if running is None:
                verdict = Verdict(rise=watched.spec.rise, fall=watched.spec.fall)
                running = self._running[watched] = _Running(verdict, instances)
                nursery.start_soon(self._watch, watched, running)
                continue
            joined, running.instances = instances - running.instances, instances
            if joined and running.verdict.health.state != "unknown":
                nursery.start_soon(self._tell, watched, running, joined)
        self._turns.keep({watched.host for watched in wanted})

    async def _tell(self, watched: Watched, running: _Running, instances: set[str]) -> None:
        """Those that came to a probe which has its verdict already. Not at once: whoever sets instances is not done."""
        await trio.lowlevel.checkpoint()
        if self._running.get(watched) is running:
            for instance_id in sorted(instances & running.instances):
                self._report(instance_id, running.verdict.health)

    async def _watch(self, watched: Watched, running: _Running) -> None:
        with running.scope:
            while True:
                running.soon = trio.Event()
                async with self._turn(watched.host), self._free:
                    outcome = await self._ask(watched, running)
                if running.scope.cancel_called:
                    return
                stalled = outcome.timed_out and outcome.seconds > watched.spec.timeout + limits.CHECK_LATE
                changed = None if stalled else running.verdict.result(outcome.passed, outcome.reason)
                if changed is not None:
                    for instance_id in sorted(running.instances):
                        self._report(instance_id, changed)
                spread = limits.CHECK_JITTER * watched.spec.interval
                with trio.move_on_after(watched.spec.interval + self._rng.uniform(-spread, spread)):
                    await running.soon.wait()

    def _turn(self, host: str) -> AbstractAsyncContextManager[None]:
        return self._turns.of(host) if host else nullcontext()

    async def _ask(self, watched: Watched, running: _Running) -> Outcome:
        try:
            return await self._probe(watched)
        except BaseException as exc:  # a bug in one probe must not take the health of all instances with it
            if must_pass(exc):
                raise
            tell_bug("check failed by our own bug", exc, instance=min(running.instances))
            return Outcome(False, "the check itself failed; see the log")
