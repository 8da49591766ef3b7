"""Pure: how many second tries a process may make, so that a broken service is not buried under repeats (F39).

In any RETRY_WINDOW: at most RETRY_BUDGET of the first tries, or RETRY_FLOOR if that is more. The window slides in
slots of a tenth, so memory and time do not grow with the rate. Times are monotonic seconds.
"""

from __future__ import annotations

from bridge import limits

_SLOTS = 10
SLOT = limits.RETRY_WINDOW / _SLOTS


class RetryBudget:
    """Not thread-safe; one per loop and, where the caller wants them apart, per service."""

    def __init__(self) -> None:
        self._slot = 0
        self._first = [0] * _SLOTS
        self._again = [0] * _SLOTS

    def count_first(self, now: float) -> None:
        """A stream was asked for and its first instance is tried."""
        self._turn_to(now)
        self._first[self._slot % _SLOTS] += 1

    def allow_again(self, now: float) -> bool:
        """Whether one more instance may be tried; counts it when the answer is yes."""
        self._turn_to(now)
        if sum(self._again) + 1 > max(limits.RETRY_FLOOR, limits.RETRY_BUDGET * sum(self._first)):
            return False
        self._again[self._slot % _SLOTS] += 1
        return True

    def _turn_to(self, now: float) -> None:
        slot = int(now // SLOT)
        if slot == self._slot:
            return
        for passed in range(max(self._slot + 1, slot - _SLOTS + 1), slot + 1):
            self._first[passed % _SLOTS] = self._again[passed % _SLOTS] = 0
        self._slot = max(self._slot, slot)
