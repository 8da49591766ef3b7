"""I/O: requests and new connections by wrk: rate, latency, processor time for each."""

from __future__ import annotations

import contextlib
import math
import re
import socket
import subprocess
import time
from pathlib import Path

from inventory.endpoints import Endpoint
from tests.bench.loads.histogram import parse, percentile, uncorrected
from tests.bench.loads.window import RAMP, TAIL, watch
from tests.bench.place import Place
from tests.bench.systems.base import System

_SCRIPT = """\
done = function(summary, latency, requests)
    local file = io.open("{file}", "w")
    local e = summary.errors
    local failed = e.connect + e.read + e.write + e.status + e.timeout
    file:write(string.format("%d %d %d\\n", summary.duration, summary.requests, failed))
    for i = 1, #latency do
        local value, count = latency(i)
        file:write(string.format("%d %d\\n", value, count))
    end
    file:close()
end
"""


class Wrk:
    """One wrk thread with a number of connections.

    Args:
        keep_alive: whether a connection carries many requests; else each request has a connection of its own.
        status: where nginx counts its requests.
    """

    def __init__(
        self, place: Place, program: Path, *, connections: int, keep_alive: bool, seconds: float, status: Endpoint
    ) -> None:
        self.id = f"requests/{connections}" if keep_alive else "connections"
        self._program = program
        self._connections = connections
        self._keep_alive = keep_alive
        self._seconds = seconds
        self._status = status
        self._output = place.path / "wrk.histogram"
        self._script = place.path / "wrk.lua"
        self._script.write_text(_SCRIPT.format(file=self._output), encoding="utf-8")

    def measure(self, system: System) -> dict[str, float]:
        """`rate`, `cpu` (seconds for one request), `p50` and `p99` (seconds), `errors`."""
        process = self._start(system.entries["web"])
        try:
            time.sleep(RAMP)
            window = watch(lambda: served(self._status), system.cpu, self._seconds)
            said, _ = process.communicate(timeout=30.0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode != 0:
            raise RuntimeError(f"wrk ended with {process.returncode}: {said.strip()[-300:]}")
        latencies, errors = self._latencies()
        return {
            **window.values(),
            "p50": percentile(latencies, 0.50) / 1e6,
            "p99": percentile(latencies, 0.99) / 1e6,
            "errors": float(errors),
        }

    def _start(self, entry: Endpoint) -> subprocess.Popen[str]:
        duration = math.ceil(RAMP + self._seconds + TAIL)
        close = [] if self._keep_alive else ["-H", "Connection: close"]
        return subprocess.Popen(
            [
                self._program, "-t1", f"-c{self._connections}", f"-d{duration}s", "--timeout", "5s",
                "-s", self._script, *close, f"http://{entry}/",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def _latencies(self) -> tuple[dict[int, int], int]:
        run = parse(self._output.read_text(encoding="utf-8"))
        self._output.unlink()
        return uncorrected(run, self._connections), run.errors


def served(status: Endpoint) -> int:
    """Requests that nginx has answered, this one not included."""
    with socket.create_connection((status.host, status.port), 5.0) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return requests_of(answer.decode()) - _asked(status)


_asks: dict[Endpoint, int] = {}


def _asked(status: Endpoint) -> int:
    """How often this process has asked, this time included: those requests are in nginx's count as well."""
    _asks[status] = _asks.get(status, 0) + 1
    return _asks[status]


def requests_of(stub_status: str) -> int:
    """The third number of the line below `server accepts handled requests`. Raises ValueError."""
    found = re.search(r"requests\s+\d+ \d+ (\d+)", stub_status)
    if found is None:
        raise ValueError(f"not what nginx's stub_status says: {stub_status[:80]!r}")
    return int(found[1])
