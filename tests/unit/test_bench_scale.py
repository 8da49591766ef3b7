"""The parts of the scale benchmark that need no process: the shape of the estate, options, pictures, the page."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from inventory.loading.policy_file import parse_policy
from inventory.visibility import visible
from tests.bench.metrics import Metric
from tests.bench.scale.decisions import everything_known
from tests.bench.scale.figures import Grid, Section, percentile
from tests.bench.scale.model import prices, walls
from tests.bench.scale.model import section as model_section
from tests.bench.scale.options import PARTS, parse_options
from tests.bench.scale.plots import curve_plot, spread_plot
from tests.bench.scale.report import BEGIN, END, PANELS, Report
from tests.bench.scale.shape import CORE_SERVICE, Shape, policy_text

SHAPE = Shape(hosts=40, team=10, services=80, instances=400, rules=120)


def test_an_estate_has_what_was_asked_for() -> None:
    instances = [instance for host in SHAPE.all_hosts() for instance in SHAPE.instances_on(host.name)]
    per_service = Counter(instance.service for instance in instances)
    assert per_service.pop(CORE_SERVICE) == SHAPE.core
    assert len(per_service) == 40 and sum(per_service.values()) == 400, "10 instances of a host are of 10 services"
    assert len(SHAPE.policy) == 120 + 3
    assert len(SHAPE.team_hosts) == len(set(SHAPE.team_hosts)) == 40


def test_every_option_has_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    options = capsys.readouterr().out.partition("\noptions:")[2].split("\n  -")[1:]
    assert len(options) > 10
    assert not [option for option in options if "  " not in option.strip()]


def test_a_host_may_see_its_team_and_the_core_only() -> None:
    known = everything_known(SHAPE)
    seen = visible(known, SHAPE.hosts_of(2)[3])
    assert seen.hosts == {*SHAPE.hosts_of(2), *SHAPE.core_hosts}
    assert seen.services == {*SHAPE.services_in(2), CORE_SERVICE}


def test_the_policy_is_one_that_an_operator_could_have_written() -> None:
    assert parse_policy(policy_text(SHAPE.policy).encode(), file="policy.toml").rules == SHAPE.policy
    before, after = SHAPE.policy, SHAPE.policy_with("other")
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_the_default_is_the_whole_thing_and_a_part_is_not() -> None:
    whole = parse_options([])
    assert whole.is_complete and whole.only == PARTS
    assert not parse_options(["--only", "idle"]).is_complete
    assert not parse_options(["--quick"]).is_complete


@pytest.mark.parametrize("arguments", [["--only", "speed"], ["--hosts", "15"], ["--seconds", "0"], ["--sizes", "x"]])
def test_what_cannot_be_measured_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([5.0], 0.99) == 5.0
    assert percentile([], 0.5) != percentile([], 0.5), "not a number"


def test_a_goal_is_met_or_missed() -> None:
    section = Section("one")
    section.add("a/p99", "soon", "seconds", 0.2, 0.25)
    section.add("b/p99", "late", "seconds", 0.3, 0.25)
    section.add("c", "no goal", "count", 1)
    assert [figure.met for figure in section.figures] == [True, False, None]


def test_pictures_are_well_formed() -> None:
    metric = Metric("told", "CPU <of> one", "lower", "seconds")
    lines = {"same": [(10, 0.01), (1000, 0.02)], "growing": [(10, 0.0), (1000, 2.0)]}
    for picture in (spread_plot({"a & b": [0.01, 0.3], "none": []}, 0.25), curve_plot([(metric, lines)])):
        ElementTree.fromstring(picture)


def test_its_part_of_the_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    section = Section("one")
    section.add("a", "soon", "seconds", 0.2, 0.25)
    rows = [(Metric(key, key, "lower", "seconds"), [0.1]) for key in PANELS]
    curve = Section("two", grid=Grid(["10 hosts"], rows), raw={"hosts": [10]})
    page = tmp_path / "page.md"
    page.write_text("# Title\n", encoding="utf-8")
    report = Report([section], {"cores": "2"})
    assert not report.publish(page) and page.read_text(encoding="utf-8") == "# Title\n"
    page.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    assert report.publish(page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Title\n") and text.endswith(f"{END}\n\nafter\n") and "old" not in text
    assert "| soon | 200 ms | ≤ 250 ms | met |" in text
    assert "| told | 100 ms |" in Report([curve], {})._markdown()


def test_the_model_takes_its_prices_from_the_curve_and_names_the_first_wall() -> None:
    values = {"told": [0.02, 0.03], "bytes": [1e5, 2e5], "change": [0.002, 0.003], "idle": [1e-4, 1e-5]}
    values |= {"supervisor": [30e6, 230e6], "workers": [10e6, 110e6]}
    rows = [(Metric(key, key, "lower", "seconds"), found) for key, found in values.items()]
    found = prices(Grid(["", ""], rows), [100, 1100], seen_by_all=1e-4)
    assert found.memory == pytest.approx(300e3) and found.memory_empty == pytest.approx(10e6)
    reach = walls(found)
    assert [round(hosts) for _, hosts in reach] == [2000, 2500, 13300, 25000]
    assert reach[0][0].startswith("all told again")
    made = model_section(found)
    assert made.grid is not None
    table = {metric.key: figures for metric, figures in made.grid.rows}
    assert table["cores"][-1] == pytest.approx(100_000 * 4e-5)
    assert table["handshakes"][-1] == pytest.approx(100_000 / 15)
