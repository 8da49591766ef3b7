"""I/O: a neighbour as a process: small messages to an echo, one after the other, each one's time kept.

    python -m tests.support.pinger ADDRESS PORT [CPU]

Prints `going` when the first came back; on SIGUSR1 one JSON line, the seconds of each since the last line. In a process
of its own, so that what the test does meanwhile is not what the neighbour waits for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

from tests.support.estate import Estate
from tests.support.processes import RunningProcess

PAUSE = 0.003
"""Seconds between two: a keystroke, not a load of its own."""
_TIMEOUT = 60.0


class Pinger:
    """One stream that is used all the time, as a test sees it."""

    def __init__(self, estate: Estate, place: tuple[str, int], *, cpu: int | None = None) -> None:
        argv = [sys.executable, "-m", "tests.support.pinger", place[0], str(place[1])]
        self._process: RunningProcess = estate.start("pinger", argv + ([str(cpu)] if cpu is not None else []))
        self._process.stdout.wait_for("going", 30.0)

    @property
    def lives(self) -> bool:
        """Whether its stream still stands."""
        return self._process.running

    def took(self) -> list[float]:
        """Seconds of each round trip since the last call, sorted."""
        before = self._process.stdout.count
        self._process.signal(signal.SIGUSR1)
        took: list[float] = json.loads(self._process.stdout.wait_for("[", _TIMEOUT, after=before))
        return sorted(took)

    def during(self, seconds: float) -> list[float]:
        """What it measures from now on for so long."""
        self.took()
        time.sleep(seconds)
        return self.took()


def p99(took: list[float]) -> float:
    return took[len(took) * 99 // 100]


def shown(took: list[float]) -> str:
    return (
        f"p50 {took[len(took) // 2] * 1e3:.2f} ms, p99 {p99(took) * 1e3:.2f} ms, "
        f"longest {took[-1] * 1e3:.0f} ms of {len(took)}"
    )


def main() -> None:
    address, port, *cpu = sys.argv[1:]
    if cpu:
        os.sched_setaffinity(0, {int(cpu[0])})
    asked = False
    took: list[float] = []

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGUSR1, ask)
    with socket.create_connection((address, int(port)), _TIMEOUT) as sock:
        sock.settimeout(_TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        first = True
        while True:
            began = time.perf_counter()
            sock.sendall(b"neighbour")
            got = 0
            while got < 9:
                data = sock.recv(64)
                if not data:
                    raise SystemExit("the stream ended")
                got += len(data)
            took.append(time.perf_counter() - began)
            if first:
                print("going", flush=True)
                first = False
            if asked:
                asked = False
                print(json.dumps(took), flush=True)
                took.clear()
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
