"""Medians, spreads, ratios and verdicts of a benchmark run."""

from __future__ import annotations

import pytest

from tests.bench.goals import goal_of, judge
from tests.bench.metrics import CONNECTION_METRICS, Metric, bulk_metrics, idle_metrics, request_metrics, share_metric
from tests.bench.results import Results, Sample, spread

RATE, _P50, _P99, CPU = request_metrics(32)
PEERS = ("envoy", "nginx")


def results(**values: dict[str, list[float]]) -> Results:
    """By system (`_` for `-`) and `LOAD/VALUE` with `_` for `/`."""
    made = Results()
    for system, by_key in values.items():
        for key, numbers in by_key.items():
            load, _, name = key.rpartition("/")
            for number, value in enumerate(numbers):
                made.samples.append(Sample(number, load, system.replace("_", "-"), {name: value}))
    return made


def test_the_median_and_the_spread_of_rounds() -> None:
    found = spread([90.0, 100.0, 120.0])
    assert found is not None
    assert (found.median, found.low, found.high, found.relative) == (100.0, 90.0, 120.0, 0.15)
    assert spread([]) is None


def test_a_rate_is_compared_with_the_fastest_peer() -> None:
    run = results(envoy={RATE.key: [10]}, nginx={RATE.key: [20]}, bridge={RATE.key: [29, 30, 31]})
    verdict = judge(run, RATE, PEERS)
    assert (verdict.peer, verdict.ratio, verdict.met) == ("nginx", 1.5, True)


def test_a_cost_is_compared_with_the_cheapest_peer() -> None:
    run = results(envoy={CPU.key: [40e-6]}, nginx={CPU.key: [30e-6]}, bridge={CPU.key: [20e-6]})
    verdict = judge(run, CPU, PEERS)
    assert verdict.peer == "nginx"
    assert verdict.ratio == pytest.approx(2 / 3)
    assert verdict.met is False


def test_one_connection_is_compared_with_envoy_in_whatever_set_up_is_best() -> None:
    p50 = request_metrics(1)[1]
    run = results(nginx={p50.key: [1]}, bridge={p50.key: [3]})
    run.samples += [Sample(1, "requests/1", "envoy:1", {"p50": 4}), Sample(1, "requests/1", "envoy:2", {"p50": 3.5})]
    verdict = judge(run, p50, ("envoy:1", "envoy:2", "nginx"))
    assert (verdict.peer, verdict.ratio, verdict.met) == ("nginx", 3.0, True)


def test_without_a_peer_there_is_no_verdict() -> None:
    verdict = judge(results(bridge={RATE.key: [5]}), RATE, PEERS)
    assert (verdict.peer, verdict.ratio, verdict.met) == (None, None, None)


def test_an_absolute_goal_needs_no_peer() -> None:
    node = idle_metrics(10000)[1]
    assert judge(results(bridge={node.key: [149e6]}), node, ()).met is True
    assert judge(results(bridge={node.key: [151e6]}), node, ()).met is False


def test_the_gateways_share_is_its_time_against_one_agents() -> None:
    metric = share_metric("requests/32", "32 connections")
    run = Results([Sample(1, "requests/32", "bridge-gateway", {"cpu_near": 3.0, "cpu_far": 1.0, "cpu_gateway": 0.5})])
    assert run.values(metric.key, "bridge-gateway") == [0.25]
    verdict = judge(run, metric, PEERS)
    assert (verdict.met, verdict.ratio) == (True, None)


def test_every_figure_of_the_design_has_a_goal() -> None:
    wanted = [RATE, CPU, request_metrics(256)[0], request_metrics(1)[1], *CONNECTION_METRICS[:2]]
    wanted += [*bulk_metrics("up", 1), *bulk_metrics("down", 4), *idle_metrics(10000), idle_metrics(2000)[0]]
    wanted += [share_metric("requests/32", ""), share_metric("bulk/down/1", "")]
    assert [metric.key for metric in wanted if goal_of(metric.key) is None] == []
    assert goal_of("start/seconds") is None


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        ("seconds", 31.4e-6, "31.4 µs"),
        ("seconds", 236.4e-6, "236 µs"),
        ("seconds", 1.25e-3, "1.25 ms"),
        ("seconds", 1.9, "1.90 s"),
        ("bytes", 512, "512 B"),
        ("bytes", 55_123, "55.1 kB"),
        ("bytes", 149e6, "149 MB"),
        ("per second", 27_123.4, "27,123"),
        ("GB/s", 0.756, "0.76 GB/s"),
    ],
)
def test_values_are_written_with_their_unit(unit: str, value: float, shown: str) -> None:
    assert Metric("x/y", "x", "lower", unit).shown(value) == shown  # type: ignore[arg-type]


def test_failed_requests_are_counted_by_system() -> None:
    run = Results(
        [Sample(1, "requests/1", "nginx", {"errors": 2.0}), Sample(2, "requests/1", "nginx", {"errors": 1.0})]
    )
    assert run.errors() == {"nginx": 3}
