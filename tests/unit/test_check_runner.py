"""Pure: the checker with fake probes on trio's own clock: no sockets, no waiting."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
import trio.testing

from agents.checks.probes import Outcome
from agents.checks.runner import Checker, Watched
from agents.checks.spec import CheckSpec
from bridge import limits
from inventory.endpoints import Endpoint
from inventory.model import Health

TARGET = Endpoint("10.0.0.1", 80)
SPEC = CheckSpec(interval=2.0, timeout=2.0, rise=1, fall=2)


class FakeTargets:
    """Answers by port: the outcome to give, after how many seconds."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.seconds = 0.0
        self.asked: Counter[int] = Counter()
        self.running = self.most_running = 0

    async def probe(self, spec: CheckSpec, target: Endpoint) -> Outcome:
        self.asked[target.port] += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.running -= 1
        return self.outcomes.get(target.port, Outcome(True))


class Bench:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.targets = FakeTargets()
        self.reports: list[tuple[str, str]] = []
        self.checker = Checker(self._report, rng=random.Random(1), probe=self.targets.probe)
        nursery.start_soon(self.checker.run)

    def _report(self, instance_id: str, health: Health) -> None:
        self.reports.append((instance_id, health.state))

    def watch(self, *ports: int) -> None:
        self.checker.set_instances({f"i{port}": Watched(SPEC, Endpoint("10.0.0.1", port)) for port in ports})


async def test_only_changes_are_reported(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.watch(1)
        await trio.sleep(20)
        assert bench.reports == [("i1", "passing")]
        assert 8 <= bench.targets.asked[1] <= 12
        bench.targets.outcomes[1] = Outcome(False, "connection refused")
        await trio.sleep(20)
        bench.targets.outcomes[1] = Outcome(True)
        await trio.sleep(20)
        assert bench.reports == [("i1", "passing"), ("i1", "failing"), ("i1", "passing")]
        nursery.cancel_scope.cancel()


async def test_the_set_is_swapped_while_it_runs(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.watch(1, 2)
        await trio.sleep(10)
        asked = bench.targets.asked[1]
        bench.watch(2, 3)
        await trio.sleep(10)
        assert bench.targets.asked[1] == asked
        assert sorted(bench.reports) == [("i1", "passing"), ("i2", "passing"), ("i3", "passing")]
        bench.watch(1, 2)
        await trio.sleep(10)
        assert bench.reports[3:] == [("i1", "passing")]
        nursery.cancel_scope.cancel()


async def test_a_changed_check_starts_anew(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.watch(1)
        await trio.sleep(5)
        bench.checker.set_instances({"i1": Watched(CheckSpec(interval=1.0), Endpoint("10.0.0.1", 9))})
        await trio.sleep(5)
        assert bench.reports == [("i1", "passing")] * 2
        assert bench.targets.asked[9] >= 4
        nursery.cancel_scope.cancel()


async def test_a_result_after_removal_is_not_reported(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.targets.seconds = 1.0
        bench.watch(1)
        await trio.sleep(0.5)
        bench.watch()
        await trio.sleep(10)
        assert bench.reports == []
        nursery.cancel_scope.cancel()


async def test_probes_at_once_are_bounded_and_all_get_their_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.targets.seconds = 0.1
        bench.watch(*range(1, 201))
        await trio.sleep(2)
        assert bench.targets.most_running == limits.CHECKS_AT_ONCE
        assert len(bench.reports) == 200
        nursery.cancel_scope.cancel()


async def test_f31_a_stalled_machine_fails_no_instance(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.watch(1)
        await trio.sleep(5)
        late = SPEC.timeout + limits.CHECK_LATE + 0.1
        bench.targets.outcomes[1] = Outcome(False, "no answer", seconds=late, timed_out=True)
        await trio.sleep(30)
        assert bench.reports == [("i1", "passing")]
        bench.targets.outcomes[1] = Outcome(False, "no answer", seconds=SPEC.timeout, timed_out=True)
        await trio.sleep(30)
        assert bench.reports[1:] == [("i1", "failing")]
        nursery.cancel_scope.cancel()


async def test_a_bug_in_a_probe_fails_its_instance_only(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[tuple[str, Health]] = []

    async def probe(spec: CheckSpec, target: Endpoint) -> Outcome:
        if target.port == 1:
            raise KeyError("bug")
        return Outcome(True)

    checker = Checker(lambda i, h: reports.append((i, h)), rng=random.Random(1), probe=probe)
    checker.set_instances({str(port): Watched(SPEC, Endpoint("10.0.0.1", port)) for port in (1, 2)})
    with trio.move_on_after(10):
        await checker.run()
    assert dict(reports)["2"].state == "passing"
    assert dict(reports)["1"].reason == "the check itself failed; see the log"
