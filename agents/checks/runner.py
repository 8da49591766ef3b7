"""I/O: checks a set of instances, each at its own interval, and reports only what changes. The set may be swapped.

Nothing a target does ends the checker, and no more than CHECKS_AT_ONCE probes run at a time. A probe's result never
comes after its instance was taken out of the set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import NoReturn

import trio

from agents.checks.probes import Outcome, run_probe
from agents.checks.spec import CheckSpec
from agents.checks.state import Verdict
from agents.guards import must_pass
from bridge import limits
from bridge.bugs import tell_bug
from inventory.endpoints import Endpoint
from inventory.model import Health


@dataclass(frozen=True, slots=True)
class Watched:
    """One instance to check."""

    spec: CheckSpec
    target: Endpoint


Report = Callable[[str, Health], None]
RunProbe = Callable[[CheckSpec, Endpoint], Awaitable[Outcome]]


class Checker:
    """Checks instances until cancelled.

    Args:
        report: told the instance's id and its health each time that changes; must not wait. The first result of an
            instance is always a change.
        rng: for the jitter of intervals.
        probe: asks a target once; tests give their own.
    """

    def __init__(self, report: Report, *, rng: Random, probe: RunProbe = run_probe) -> None:
        self._report = report
        self._rng = rng
        self._probe = probe
        self._wanted: dict[str, Watched] = {}
        self._running: dict[str, tuple[Watched, trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None
        self._free = trio.CapacityLimiter(limits.CHECKS_AT_ONCE)

    def set_instances(self, instances: Mapping[str, Watched]) -> None:
        """Replaces the set, by instance id. One whose check and target stayed the same keeps its history."""
        self._wanted = dict(instances)
        if self._nursery is not None:
            self._apply(self._nursery)

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
        for instance_id, (watched, scope) in list(self._running.items()):
            if self._wanted.get(instance_id) != watched:
                scope.cancel()
                del self._running[instance_id]
        for instance_id, watched in self._wanted.items():
            if instance_id not in self._running:
                scope = trio.CancelScope()
                self._running[instance_id] = (watched, scope)
                nursery.start_soon(self._watch, instance_id, watched, scope)

    async def _watch(self, instance_id: str, watched: Watched, scope: trio.CancelScope) -> None:
        verdict = Verdict(rise=watched.spec.rise, fall=watched.spec.fall)
        with scope:
            while True:
                async with self._free:
                    outcome = await self._ask(instance_id, watched)
                if scope.cancel_called:
                    return
                stalled = outcome.timed_out and outcome.seconds > watched.spec.timeout + limits.CHECK_LATE
                changed = None if stalled else verdict.result(outcome.passed, outcome.reason)
                if changed is not None:
                    self._report(instance_id, changed)
                spread = limits.CHECK_JITTER * watched.spec.interval
                await trio.sleep(watched.spec.interval + self._rng.uniform(-spread, spread))

    async def _ask(self, instance_id: str, watched: Watched) -> Outcome:
        try:
            return await self._probe(watched.spec, watched.target)
        except BaseException as exc:  # a bug in one probe must not take the health of all instances with it
            if must_pass(exc):
                raise
            tell_bug("check failed by our own bug", exc, instance=instance_id)
            return Outcome(False, "the check itself failed; see the log")
