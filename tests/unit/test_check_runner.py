"""Pure: the checker with fake probes on trio's own clock: no sockets, no waiting."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
import trio.lowlevel
import trio.testing

from agents.checks.answers import Outcome
from agents.checks.kinds import CheckSpec
from agents.checks.runner import Checker, Watched
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
        self.began: list[float] = []
        self.running = self.most_running = 0

    async def probe(self, watched: Watched) -> Outcome:
        target = watched.target
        self.asked[target.port] += 1
        self.began.append(trio.current_time())
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

    async def probe(watched: Watched) -> Outcome:
        if watched.target.port == 1:
            raise KeyError("bug")
        return Outcome(True)

    checker = Checker(lambda i, h: reports.append((i, h)), rng=random.Random(1), probe=probe)
    checker.set_instances({str(port): Watched(SPEC, Endpoint("10.0.0.1", port)) for port in (1, 2)})
    with trio.move_on_after(10):
        await checker.run()
    assert dict(reports)["2"].state == "passing"
    assert dict(reports)["1"].reason == "the check itself failed; see the log"


async def test_the_same_target_with_the_same_check_is_probed_once(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        same, other = Watched(SPEC, TARGET), Watched(CheckSpec(interval=5.0), TARGET)
        bench.checker.set_instances({"a": same, "b": same, "c": other})
        await trio.sleep(19)
        assert bench.targets.asked[80] in range(10, 17), "ten of one and four of the other, give or take jitter"
        assert sorted(bench.reports) == [("a", "passing"), ("b", "passing"), ("c", "passing")]
        bench.targets.outcomes[80] = Outcome(False, "gone")
        await trio.sleep(20)
        assert sorted(bench.reports[3:]) == [("a", "failing"), ("b", "failing"), ("c", "failing")]
        nursery.cancel_scope.cancel()


async def test_who_joins_a_probe_hears_at_once_and_who_leaves_hears_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        same = Watched(SPEC, TARGET)
        bench.checker.set_instances({"a": same})
        await trio.sleep(5)
        bench.checker.set_instances({"a": same, "b": same})
        assert bench.reports == [("a", "passing")], "not while the set is being changed"
        await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        assert bench.reports == [("a", "passing"), ("b", "passing")]
        bench.checker.set_instances({"b": same})
        bench.targets.outcomes[80] = Outcome(False, "gone")
        await trio.sleep(10)
        assert bench.reports[2:] == [("b", "failing")]
        nursery.cancel_scope.cancel()


async def test_a_host_behind_a_gateway_has_a_budget(autojump_clock: trio.testing.MockClock) -> None:
    """One at a time and so many a second, however many services it has; others are not held up by it."""
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        wanted = {f"i{port}": Watched(SPEC, Endpoint("10.0.0.1", port), "aix1") for port in range(1, 41)}
        bench.checker.set_instances(wanted)
        await trio.sleep(60)
        gaps = [later - earlier for earlier, later in zip(bench.targets.began, bench.targets.began[1:], strict=False)]
        assert min(gaps) >= 1 / limits.CHECK_RATE_PER_HOST - 1e-6
        assert {bench.targets.asked[port] for port in range(1, 41)} <= {5, 6, 7}, "each has its turn"
        assert list(bench.checker.late()) == [] and len(bench.reports) == 40
        bench.targets.seconds = 1.0
        await trio.sleep(100)
        assert bench.targets.most_running == 1
        assert bench.checker.late()["aix1"] > limits.CHECK_TURN_LATE
        bench.checker.set_instances({**wanted, "other": Watched(SPEC, Endpoint("10.0.0.2", 99), "sun1")})
        await trio.sleep(1.5)
        assert ("other", "passing") in bench.reports
        bench.checker.set_instances({})
        assert bench.checker.late() == {}
        nursery.cancel_scope.cancel()


async def test_a_host_that_is_back_is_asked_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = Bench(nursery)
        rare = CheckSpec(interval=3000.0, rise=1)
        bench.targets.outcomes[80] = bench.targets.outcomes[81] = Outcome(False, "not connected")
        bench.targets.seconds = 0.5
        wanted = {"a": Watched(rare, TARGET, "aix1"), "b": Watched(rare, Endpoint("10.0.0.1", 81), "sun1")}
        bench.checker.set_instances(wanted)
        await trio.sleep(5)
        bench.targets.outcomes.clear()
        bench.checker.soon("aix1")
        await trio.sleep(5)
        assert bench.reports[2:] == [("a", "passing")]
        bench.checker.soon("aix1")
        await trio.sleep(0.1)
        bench.targets.outcomes[80] = Outcome(False, "gone")
        bench.checker.soon("aix1")  # while a probe runs: that one may be too early
        await trio.sleep(5)
        assert bench.targets.asked[80] == 4
        nursery.cancel_scope.cancel()
