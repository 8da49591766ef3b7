"""Pure: what the metrics page says."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from bridge.counters import Tally
from bridge.delays import Delays
from bridge.live_metrics import LiveMetrics
from bridge.metrics import Metrics, NoMetrics


def live() -> LiveMetrics:
    metrics = LiveMetrics(version="1.2", now=lambda: 1000.0)
    metrics.estate(services={"web"}, number=7, as_of=990.0)
    return metrics


def samples(metrics: Metrics) -> dict[str, float]:
    page = metrics.render().decode()
    return {
        s.name + "".join(f",{v}" for _, v in sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
    }


def test_reports_of_two_workers_add_up_and_an_ended_one_holds_nothing_open() -> None:
    metrics, one, two = live(), Tally(), Tally()
    for tally in (one, two):
        tally.stream_opened("web", 0.01)
    metrics.absorb(one.take(direct_tunnels=1), source="1")
    metrics.absorb(two.take(direct_tunnels=2, gateway_tunnels=1), source="2")
    found = samples(metrics)
    assert found["meshbridge_streams_active,web"] == 2
    assert found["meshbridge_tunnels,direct"] == 3
    metrics.forget("2")
    one.stream_closed("web", "cut")
    metrics.absorb(one.take(direct_tunnels=1), source="1")
    found = samples(metrics)
    assert "meshbridge_streams_active,web" not in found
    assert found["meshbridge_tunnels,direct"] == 1
    assert found["meshbridge_streams_total,cut,web"] == 1
    assert found["meshbridge_connect_duration_seconds_count"] == 2


def test_the_estate_and_the_node() -> None:
    metrics = live()
    metrics.certificate_expires(5000.0)
    metrics.instances({("web", "passing"): 2, ("web", "failing"): 1})
    metrics.flows_dropped(3)
    found = samples(metrics)
    assert found["meshbridge_snapshot_number"] == 7
    assert found["meshbridge_snapshot_age_seconds"] == 10
    assert found["meshbridge_certificate_expiry_timestamp_seconds"] == 5000
    assert found["meshbridge_instances,web,passing"] == 2
    assert found["meshbridge_instances,web,failing"] == 1
    assert found["meshbridge_flow_records_dropped_total"] == 3
    assert found["meshbridge_build_info,1.2"] == 1


def test_there_are_no_created_series_and_every_name_has_the_prefix() -> None:
    metrics = live()
    metrics.absorb(Tally().take(), source="1")
    found = samples(metrics)
    assert all(name.startswith("meshbridge_") for name in found)
    assert not any("_created" in name for name in found)


def test_c43_names_that_peers_make_up_add_one_series() -> None:
    metrics, tally = live(), Tally()
    before = len(samples(metrics))
    for number in range(5000):
        tally.stream_not_opened(f"evil{number}", "refused")
        if number % 500 == 0:
            metrics.absorb(tally.take(), source="1")
    assert len(samples(metrics)) <= before + 4
    assert samples(metrics)["meshbridge_streams_total,refused,other"] > 0


def test_the_longest_lag_is_told_once() -> None:
    metrics, tally = live(), Tally()
    tally.lag.add(0.7)
    metrics.absorb(tally.take(), source="1")
    assert samples(metrics)["meshbridge_loop_lag_max_seconds,worker"] == 0.7
    assert samples(metrics)["meshbridge_loop_lag_max_seconds,worker"] == 0


def test_the_processes_of_a_node_are_told_apart() -> None:
    metrics, tally, turns, own = live(), Tally(), Delays(), Delays()
    tally.lag.add(0.015)
    tally.errors = 2
    turns.add(0.003)
    own.add(0.3)
    metrics.absorb(tally.take(turns=turns), source="1")
    metrics.supervisor(own.take(), 1)
    found = samples(metrics)
    assert found["meshbridge_loop_lag_seconds_sum,worker"] == 0.015
    assert found["meshbridge_loop_lag_seconds_bucket,0.02,worker"] == 1
    assert found["meshbridge_loop_lag_seconds_bucket,0.2,supervisor"] == 0
    assert found["meshbridge_loop_lag_seconds_bucket,0.5,supervisor"] == 1
    assert found["meshbridge_loop_turn_seconds_sum"] == 0.003
    assert found["meshbridge_internal_errors_total,worker"] == 2
    assert found["meshbridge_internal_errors_total,supervisor"] == 1


def test_two_metrics_share_nothing() -> None:
    one, two = live(), live()
    one.certificate_expires(1.0)
    assert "meshbridge_certificate_expiry_timestamp_seconds" not in samples(two)


def test_no_metrics_takes_everything_and_says_nothing() -> None:
    metrics: Metrics = NoMetrics()
    metrics.absorb(Tally().take(), source="1")
    metrics.forget("1")
    metrics.supervisor(Delays().take(), 0)
    metrics.estate(services=[], number=1, as_of=1.0)
    metrics.instances({})
    metrics.certificate_expires(1.0)
    metrics.flows_dropped(1)
    assert metrics.render() == b""
