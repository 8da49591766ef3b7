"""I/O: ends what a test run started when the run itself is killed and cannot: a small process that outlives it.

The run tells it on a pipe which process groups it started and which of them it has ended itself. When the pipe closes,
however the run ended, it kills the groups that are left.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXIT_TIMEOUT = 10.0


class Reaper:
    """The run's end of the pipe. The process is started with the first group that there is to watch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        self._tell(f"- {group}\n")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                argv = [sys.executable, "-m", "tests.support.reaper"]
                # A session of its own: Ctrl-C in the terminal is for the run.
                self._process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)
                atexit.register(self._close)
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # the run ends what it started even so
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()

    def _close(self) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(EXIT_TIMEOUT)


REAPER = Reaper()


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        sign, group = line.split()
        (groups.add if sign == "+" else groups.discard)(int(group))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
