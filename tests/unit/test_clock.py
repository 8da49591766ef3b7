"""Pure: the wall clock is the system's."""

from __future__ import annotations

import time

from agents.clock import now


def test_now_is_unix_seconds() -> None:
    assert abs(now() - time.time()) < 5
