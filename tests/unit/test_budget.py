"""Pure: second tries within their budget."""

from __future__ import annotations

from bridge import limits
from bridge.routing.budget import RetryBudget


def test_a_quiet_process_may_use_the_floor() -> None:
    budget = RetryBudget()
    assert [budget.allow_again(5.0) for _ in range(limits.RETRY_FLOOR + 1)] == [True] * limits.RETRY_FLOOR + [False]


def test_f39_with_everything_failing_attempts_stay_within_a_fifth() -> None:
    budget, attempts = RetryBudget(), 0
    for number in range(10_000):
        now = number / 1000
        budget.count_first(now)
        attempts += 1 + sum(budget.allow_again(now) for _ in range(limits.CONNECT_TRIES - 1))
    assert attempts <= 10_000 * 1.2 + limits.RETRY_FLOOR


def test_the_window_slides() -> None:
    budget = RetryBudget()
    while budget.allow_again(0.5):
        pass
    assert not budget.allow_again(9.9)
    assert budget.allow_again(10.0)


def test_a_clock_that_stands_still_or_steps_back_harms_nothing() -> None:
    budget = RetryBudget()
    budget.count_first(100.0)
    budget.count_first(50.0)
    assert budget.allow_again(100.0)
