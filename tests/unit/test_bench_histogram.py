"""What wrk writes, and the samples it invents and we take out again."""

from __future__ import annotations

import random

import pytest

from tests.bench.loads.histogram import WrkRun, parse, percentile, uncorrected


def corrected_as_wrk_does(counts: dict[int, int], interval: int) -> dict[int, int]:
    """wrk's own loop, plainly: for each slow answer one sample for each interval that was missed."""
    made = dict(counts)
    for value in range(2 * interval, max(counts) + 1):
        count = made.get(value, 0)
        missed = value - interval
        while count and missed > interval:
            made[missed] = made.get(missed, 0) + count
            missed -= interval
    return made


def test_a_run_is_read() -> None:
    assert parse("1003272 40309 2\n19 8\n21 1471\n") == WrkRun(1003272, 40309, 2, {19: 8, 21: 1471})


@pytest.mark.parametrize("text", ["", "1 2\n", "1 2 3\nx 4\n", "1 2 3\n5\n"])
def test_what_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_invented_samples_are_taken_out_exactly() -> None:
    rng = random.Random(7)
    own: dict[int, int] = {}
    for _ in range(5000):
        value = rng.choice((rng.randrange(20, 60), rng.randrange(20, 2000)))
        own[value] = own.get(value, 0) + 1
    connections, duration = 8, 100_000
    interval = duration // (5000 // connections)
    run = WrkRun(duration, 5000, 0, corrected_as_wrk_does(own, interval))
    assert sum(run.counts.values()) > 5000
    assert uncorrected(run, connections) == own


def test_a_histogram_without_invented_samples_stays_as_it_is() -> None:
    run = WrkRun(1000, 3, 0, {10: 2, 900: 1})
    assert uncorrected(run, 1) == {10: 2, 900: 1}


def test_percentiles_are_values_that_were_measured() -> None:
    counts = {10: 50, 20: 49, 1000: 1}
    assert [percentile(counts, share) for share in (0.5, 0.51, 0.99, 1.0)] == [10, 20, 20, 1000]


def test_no_answer_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no answer"):
        percentile({}, 0.5)
