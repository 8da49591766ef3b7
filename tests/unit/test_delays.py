"""Pure: what is counted of late timers and long turns, and what is said of the last minute."""

from __future__ import annotations

import pytest

from bridge import limits
from bridge.delays import BOUNDS, DelayCounts, Delays, LastMinute, percentile


def test_what_is_taken_is_counted_once() -> None:
    delays = Delays()
    for seconds in (0.0, 0.0002, 0.02, 99.0):
        delays.add(seconds)
    taken = delays.take()
    assert (taken.counts[0], taken.counts[BOUNDS.index(0.02)], taken.counts[-1]) == (2, 1, 1)
    assert taken.longest == 99.0 and taken.sum == pytest.approx(99.0202)
    assert delays.take() == DelayCounts(counts=(0,) * (len(BOUNDS) + 1))


def test_f31_a_stall_counts_as_all_the_timers_that_it_left_out() -> None:
    """One long stall is one late timer: among 600 that were not, it would be no more than 0.2 %."""
    delays = Delays()
    for _ in range(590):
        delays.add_late(0.0001, 0.1)
    delays.add_late(0.95, 0.1)
    counts = delays.take().counts
    assert sum(counts) == 600
    assert percentile(counts, 0.99) == 0.5
    assert percentile(counts, 0.5) == BOUNDS[0]


def test_a_timer_that_comes_early_is_not_late() -> None:
    delays = Delays()
    delays.add_late(-0.001, 0.1)
    assert delays.take() == DelayCounts(counts=(1, *(0,) * len(BOUNDS)))


def test_the_last_minute_is_forgotten_after_it() -> None:
    recent, delays = LastMinute(), Delays()
    assert (recent.p99(0.0), recent.longest(0.0)) == (0.0, 0.0)
    delays.add(3.0)
    recent.add(delays.take(), 10.0)
    delays.add(0.0001)
    recent.add(delays.take(), 40.0)
    assert recent.longest(41.0) == 3.0
    assert recent.p99(41.0) == 3.0, "no bucket's bound says more than the longest"
    assert recent.longest(10.0 + limits.LAG_WINDOW) == 0.0001
    assert recent.longest(1000.0) == 0.0


@pytest.mark.parametrize(("share", "bound"), [(0.0, BOUNDS[0]), (0.5, BOUNDS[1]), (1.0, float("inf"))])
def test_a_percentile_is_the_bound_of_its_bucket(share: float, bound: float) -> None:
    counts = [1, 4, *(0,) * (len(BOUNDS) - 2), 1]
    counts = counts if share else [1]
    assert percentile(counts, share) == bound


def test_a_percentile_of_nothing_is_nothing() -> None:
    assert percentile([0] * 5, 0.99) == 0.0
    assert percentile([], 0.99) == 0.0
