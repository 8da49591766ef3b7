"""I/O: how long a system takes from its start to the first answered request."""

from __future__ import annotations

import time

from tests.bench.systems.base import System


class StartTime:
    """`seconds` from the execution of the near and the far side, together, to the first answer through both."""

    id = "start"

    def measure(self, system: System) -> dict[str, float]:
        system.stop()
        began = time.monotonic()
        system.start()
        system.wait_ready()
        return {"seconds": time.monotonic() - began}
