"""Pure: waits between tries."""

from __future__ import annotations

import random

import pytest

from agents.backoff import Backoff
from bridge import limits


class Top(random.Random):
    """Jitter that always takes the whole wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_bound_doubles_up_to_the_most_and_a_success_resets_it() -> None:
    backoff = Backoff(rng=Top(), first=1, maximum=10)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.failures == 6
    backoff.reset()
    assert backoff.next() == 1


def test_f35_waits_are_spread_from_zero_to_the_bound() -> None:
    rng = random.Random(1)
    waits = []
    for _ in range(1000):
        backoff = Backoff(rng=rng)
        backoff.failures = 50
        waits.append(backoff.next())
    assert 0 <= min(waits) < 0.5 and limits.BACKOFF_MAX - 0.5 < max(waits) <= limits.BACKOFF_MAX
    assert 0.45 < sum(wait < limits.BACKOFF_MAX / 2 for wait in waits) / 1000 < 0.55


def test_a_very_long_outage_does_not_overflow() -> None:
    backoff = Backoff(rng=Top())
    backoff.failures = 10**9
    assert backoff.next() == limits.BACKOFF_MAX


@pytest.mark.parametrize(("first", "maximum"), [(0, 1), (-1, 1), (2, 1), (float("nan"), 1)])
def test_impossible_bounds_are_refused(first: float, maximum: float) -> None:
    with pytest.raises(ValueError):
        Backoff(rng=random.Random(1), first=first, maximum=maximum)
