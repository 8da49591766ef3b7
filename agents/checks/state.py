"""Pure: from single results to a verdict. It takes some in a row to change it, so that one lost packet does not."""

from __future__ import annotations

from bridge import limits
from inventory.model import Health


class Verdict:
    """One instance's health. Starts unknown; the very first result decides at once.

    Args:
        rise: successes in a row that make it pass again.
        fall: failures in a row that make it fail.
    """

    def __init__(self, *, rise: int, fall: int) -> None:
        self._rise = rise
        self._fall = fall
        self._in_a_row = 0
        self._new_words = ""
        self._words_in_a_row = 0
        self.health = Health()

    def result(self, passed: bool, reason: str) -> Health | None:
        """Takes one result in; the new health if that changed its state, or for good its reason, otherwise None.

        Args:
            reason: why it did not pass, or what is worth saying of it all the same.
        """
        wanted = "passing" if passed else "failing"
        if self.health.state == wanted:
            self._in_a_row = 0
            return self._reworded(reason)
        self._in_a_row += 1
        needed = 1 if self.health.state == "unknown" else self._rise if passed else self._fall
        if self._in_a_row < needed:
            return None
        self._in_a_row = 0
        self.health = Health(state="passing" if passed else "failing", reason=reason)
        return self.health

    def _reworded(self, reason: str) -> Health | None:
        self._words_in_a_row = self._words_in_a_row + 1 if reason == self._new_words else 1
        self._new_words = reason
        if reason == self.health.reason or self._words_in_a_row < limits.CHECK_WORDS_STEADY:
            return None
        self.health = Health(state=self.health.state, reason=reason)
        return self.health
