"""Pure: how long to wait before trying again: full jitter, so that a thousand agents do not return in step (F35).

The n-th wait is uniform between 0 and min(maximum, first * 2**n): M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015.
"""

from __future__ import annotations

from random import Random

from bridge import limits

_DOUBLINGS_MAX = 64


class Backoff:
    """Waits of one thing that is tried again and again.

    Args:
        rng: the source of jitter.
        first: bound of the first wait, seconds.
        maximum: bound of every wait, seconds.

    Raises:
        ValueError: not 0 < first <= maximum.
    """

    def __init__(
        self, *, rng: Random, first: float = limits.BACKOFF_FIRST, maximum: float = limits.BACKOFF_MAX
    ) -> None:
        if not 0 < first <= maximum:
            raise ValueError(f"backoff needs 0 < first <= maximum, not {first} and {maximum}")
        self._rng = rng
        self._first = first
        self._maximum = maximum
        self.failures = 0
        """Waits handed out since the last success."""

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        bound = min(self._maximum, self._first * 2.0 ** min(self.failures, _DOUBLINGS_MAX))
        self.failures += 1
        return self._rng.uniform(0.0, bound)

    def reset(self) -> None:
        """It worked: the next wait is a short one again."""
        self.failures = 0
