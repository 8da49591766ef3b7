"""I/O: the one wall clock. Everything else takes `now` as a parameter; timers use trio's monotonic clock."""

from __future__ import annotations

import time


def now() -> float:
    """Unix seconds."""
    return time.time()
