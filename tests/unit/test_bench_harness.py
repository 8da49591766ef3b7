"""The parts of the benchmark that need no process: options, readings of /proc, the page, the pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tests.bench.cpu import pss_of, ticks_of
from tests.bench.loads.window import Window
from tests.bench.loads.wrk import requests_of
from tests.bench.metrics import request_metrics
from tests.bench.options import LOADS, SYSTEMS, parse_options
from tests.bench.plots import Point, bar_plot, latency_plot, latency_ticks, nice_step
from tests.bench.report import BEGIN, END, with_section
from tests.bench.run import metrics_of

STAT = "42 (a ) (b) S 1 42 42 0 -1 4194304 100 0 0 0 700 300 50 25 20 0 3 0 12345 1000000 250\n"


def test_the_whole_thing_is_the_default() -> None:
    options = parse_options([])
    assert options.is_complete and options.docs
    assert (options.only, options.systems) == (LOADS, SYSTEMS)


def test_a_part_of_it_does_not_count_as_a_complete_run() -> None:
    assert not parse_options(["--only", "requests,bulk"]).is_complete
    assert not parse_options(["--systems", "none,bridge"]).is_complete
    assert not parse_options(["--connections", "32"]).is_complete


def test_a_peer_may_be_given_workers() -> None:
    assert parse_options(["--systems", "envoy:1,envoy:2,bridge"]).systems == ("envoy:1", "envoy:2", "bridge")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "speed"],
        ["--systems", "apache"],
        ["--systems", "bridge:2"],
        ["--connections", "0"],
        ["--rounds", "0"],
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_rows_follow_what_was_asked_for() -> None:
    keys = [metric.key for metric in metrics_of(parse_options(["--only", "requests", "--connections", "1"]))]
    assert keys == ["requests/1/rate", "requests/1/p50", "requests/1/p99", "requests/1/cpu"]


def test_processor_time_is_read_past_any_process_name() -> None:
    assert ticks_of(STAT) == (700, 300, 50, 25)


def test_proportional_memory_is_read() -> None:
    assert pss_of("Rss:  900 kB\nPss:                 120 kB\nPss_Anon:  1 kB\n") == 120 * 1024


def test_nginx_says_how_many_requests_it_answered() -> None:
    said = "Active connections: 2 \nserver accepts handled requests\n 31 31 4711 \nReading: 0 Writing: 1 Waiting: 1 \n"
    assert requests_of(said) == 4711
    with pytest.raises(ValueError, match="stub_status"):
        requests_of("<html>404</html>")


def test_a_window_gives_rates_and_costs_for_each_unit() -> None:
    window = Window(seconds=2.0, count=1000, cpu={"near": 0.1, "far": 0.3})
    assert window.values() == {"rate": 500.0, "cpu": 0.0004, "cpu_near": 0.0001, "cpu_far": 0.0003}
    assert Window(seconds=2.0, count=0, cpu={"near": 0.1}).values() == {"rate": 0.0}


def test_the_marked_part_of_a_page_is_replaced_and_nothing_else() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    assert with_section(page, "new") == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert with_section(with_section(page, "new"), "newer") == with_section(page, "newer")
    with pytest.raises(ValueError):
        with_section("# Title\n", "new")


def test_pictures_are_well_formed_and_hold_every_system() -> None:
    points = {"envoy": [Point(1, 5000, 150e-6), Point(32, 24000, 1.2e-3)], "bridge": [Point(1, 9000, 1e-4)]}
    titles = {"envoy": "Envoy <1.40>", "bridge": "meshbridge"}
    drawn = latency_plot({"p50": points, "p99": points}, titles)
    bars = bar_plot([(metric, {"envoy": 2.0, "bridge": 1.0}) for metric in request_metrics(32)[:3]])
    for picture in (drawn, bars):
        ElementTree.fromstring(picture)
        assert "envoy" in picture.lower() and "bridge" in picture


@pytest.mark.parametrize(("rough", "step"), [(7200, 10000), (4000, 5000), (1.2, 2), (1, 1)])
def test_axes_have_round_numbers(rough: float, step: float) -> None:
    assert nice_step(rough) == step


def test_latency_axes_hold_every_value() -> None:
    assert latency_ticks(110e-6, 4e-3) == pytest.approx([1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3])
    assert latency_ticks(1e-3, 1e-3) == pytest.approx([1e-3, 2e-3])
