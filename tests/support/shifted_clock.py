"""I/O: a node whose wall clock is ahead by CLOCK_AHEAD seconds, workers and all: for certificates that end.

    CLOCK_AHEAD=259200 python -m tests.support.shifted_clock node ARG...    the command line
    python -m tests.support.shifted_clock FD PAGE                           a data worker (the supervisor starts it so)

The product has no switch for its clock; agents/clock.py is the only one there is, and another one is put in its place
before anything has taken a reference to it.
"""

from __future__ import annotations

import os
import sys
import time

from agents import clock

_AHEAD = float(os.environ.get("CLOCK_AHEAD", "0"))


def _now() -> float:
    return time.time() + _AHEAD


def main() -> None:
    clock.now = _now
    if sys.argv[1:2] == ["node"]:
        import agents.supervisor
        from cli.main import main as command

        agents.supervisor._WORKER = "tests.support.shifted_clock"
        del sys.argv[1]
        sys.exit(command())
    from agents.workers.data_worker import main as worker

    worker()


if __name__ == "__main__":
    main()
