"""Pure: instances that callers found broken are left alone for a growing time. Times are monotonic seconds.

A failed connect ejects for EJECT_FIRST; each further ejection without a success in between doubles it, up to
EJECT_MAX. A success ends it at once. How many may be ejected is asked per service, because only the asker knows the
service's instances: never more than EJECT_SHARE of them (F37), so a service with one instance never loses it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bridge import limits

_SWEEP_FIRST = 256


@dataclass(slots=True)
class _Ejection:
    until: float
    length: float


class Ejections:
    """What the callers of one process saw. Not thread-safe; one per loop."""

    def __init__(self) -> None:
        self._ejections: dict[str, _Ejection] = {}
        self._sweep_at = _SWEEP_FIRST

    def report_failure(self, instance_id: str, now: float) -> None:
        """A connect to it failed. Failures during an ejection change nothing: they began before it."""
        known = self._ejections.get(instance_id)
        if known is None:
            self._sweep(now)
            self._ejections[instance_id] = _Ejection(now + limits.EJECT_FIRST, limits.EJECT_FIRST)
        elif known.until <= now:
            known.length = min(2 * known.length, limits.EJECT_MAX)
            known.until = now + known.length

    def report_success(self, instance_id: str, now: float) -> None:
        """It answered: no longer ejected, and its next ejection is a short one again."""
        self._ejections.pop(instance_id, None)

    def is_ejected(self, instance_id: str, now: float) -> bool:
        """Whether it would be left alone, were it not for the share; to choose by, ask `ejected`."""
        known = self._ejections.get(instance_id)
        return known is not None and now < known.until

    def ejected(self, instance_ids: Collection[str], now: float) -> frozenset[str]:
        """Those of one service's instances that are left alone now: at most EJECT_SHARE of them, the worst first."""
        if not self._ejections:
            return frozenset()
        found = [i for i in instance_ids if self.is_ejected(i, now)]
        allowed = int(limits.EJECT_SHARE * len(instance_ids))
        if len(found) > allowed:
            found.sort(key=lambda i: (-self._ejections[i].length, -self._ejections[i].until, i))
        return frozenset(found[:allowed])

    def next_change(self, now: float) -> float | None:
        """When the next ejection ends by itself; None when none is running."""
        return min((e.until for e in self._ejections.values() if e.until > now), default=None)

    def _sweep(self, now: float) -> None:
        """Forgets what ended long ago, so that instances which came and went do not pile up; costs O(1) on average."""
        if len(self._ejections) < self._sweep_at:
            return
        self._ejections = {i: e for i, e in self._ejections.items() if now - e.until < limits.EJECT_MAX}
        self._sweep_at = max(_SWEEP_FIRST, 2 * len(self._ejections))
