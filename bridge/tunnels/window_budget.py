"""Pure: how much the windows of all streams of a process may have grown together.

A window is a promise to keep that many bytes until their reader takes them, and it cannot be taken back. What streams
have at first is bounded by their number; what they are given beyond it is bounded here.
"""

from __future__ import annotations

from bridge import limits


class WindowBudget:
    """One for a process."""

    def __init__(self, most: int = limits.WINDOWS_GROWN_MAX) -> None:
        self._most = most
        self.grown = 0
        """Bytes given to windows beyond WINDOW_INITIAL."""

    @property
    def is_short(self) -> bool:
        """Whether those that do not need theirs should give it back."""
        return 2 * self.grown > self._most

    def take(self, size: int) -> bool:
        """Let a window grow, if it asks for no more than its share of what is left: early ones never take it all, and
        the less there is the smaller the steps that are still allowed."""
        if size * limits.WINDOW_GROWTH_SHARE > self._most - self.grown:
            return False
        self.grown += size
        return True

    def give(self, size: int) -> None:
        self.grown -= size
