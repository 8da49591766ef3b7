"""Pure: the bound on the number of series."""

from __future__ import annotations

import pytest

from bridge import limits
from bridge.metric_families import Counter, Gauge, Histogram


def counter() -> Counter:
    return Counter(
        "streams",
        "Streams.",
        names=("service",),
        closed={"result": frozenset({"ok", "cut"})},
        is_known=lambda name: name.startswith("known"),
    )


def test_c43_100_000_distinct_names_leave_the_number_of_series_bounded() -> None:
    family = counter()
    for number in range(100_000):
        family.add(1, f"known{number}", "ok")
    assert len(family.values) <= limits.METRIC_SERIES_MAX + 1
    assert sum(family.values.values()) == 100_000
    family.add(1, "known1", "cut")
    assert family.values[("other", "cut")] == 1


def test_c43_names_outside_the_estate_take_no_series() -> None:
    family = counter()
    for number in range(100_000):
        family.add(1, f"evil{number}", f"result{number}")
    assert family.values == {("other", "other"): 100_000}


def test_names_that_left_make_room() -> None:
    known = {f"s{number}" for number in range(limits.METRIC_SERIES_MAX)}
    family = Counter("x", "X.", names=("service",), is_known=lambda name: name in known)
    for name in sorted(known):
        family.add(1, name)
    known.clear()
    known.add("new")
    family.forget_unknown()
    family.add(1, "new")
    assert family.values == {("new",): 1}


def test_a_replaced_gauge_sums_what_is_beyond_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "METRIC_SERIES_MAX", 2)
    gauge = Gauge("x", "X.", names=("service",), is_known=lambda name: True)
    gauge.set(5, "gone")
    gauge.replace([(("a",), 1), (("b",), 2), (("c",), 3), (("d",), 4)])
    assert gauge.values == {("a",): 1, ("b",): 2, ("other",): 7}


def test_a_wrong_number_of_labels_is_our_bug() -> None:
    with pytest.raises(ValueError):
        counter().add(1, "known")


def test_a_histogram_adds_up_and_ignores_buckets_it_does_not_have() -> None:
    histogram = Histogram("x", "X.", (1.0, 2.0))
    histogram.add([1, 2, 3, 99], 7.5)
    histogram.add([], 0.5)
    (family,) = histogram.collect()
    found = {sample.name + str(sample.labels.get("le", "")): sample.value for sample in family.samples}
    assert found == {
        "meshbridge_x_bucket1.0": 1,
        "meshbridge_x_bucket2.0": 3,
        "meshbridge_x_bucket+Inf": 6,
        "meshbridge_x_count": 6,
        "meshbridge_x_sum": 8.0,
    }
