"""I/O: everything that runs during one measurement: a real gateway, the simulator, and perhaps real agents."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import trio

from tests.bench.cpu import TICK, pss_of, ticks_of
from tests.bench.place import Helper, Place
from tests.bench.scale.make_estate import populate
from tests.bench.scale.shape import Shape
from tests.support.estate import OPERATOR, Estate
from tests.support.processes import RunningProcess

READY_TIMEOUT = 120.0
TOLD_TIMEOUT = 400.0


@dataclass(frozen=True)
class Cpu:
    """Seconds of processor time of each part; what was used between two readings is their difference."""

    supervisor: float
    workers: float
    simulator: float

    def __sub__(self, before: Cpu) -> Cpu:
        return Cpu(
            self.supervisor - before.supervisor, self.workers - before.workers, self.simulator - before.simulator
        )

    @property
    def gateway(self) -> float:
        return self.supervisor + self.workers


class Stand:
    """One estate with its gateway and its simulated hosts. Leaving the `with` block ends every process.

    Args:
        prepare: called with the estate while its gateway runs and before the simulated hosts are on record: real hosts
            enrol here.
    """

    def __init__(
        self, place: Place, name: str, shape: Shape, *, prepare: Callable[[Estate], None] | None = None
    ) -> None:
        self.shape = shape
        self._place = place
        self._folder = place.path / name
        self._folder.mkdir()
        self.estate = Estate(self._folder)
        self.metrics = f"127.0.0.1:{place.free_port()}"
        self.made_in = self.started_in = 0.0
        self._prepare = prepare
        self._helper: Helper | None = None

    @property
    def home(self) -> Path:
        return self.estate.home(OPERATOR)

    @property
    def gateway(self) -> RunningProcess:
        return self.estate.nodes[OPERATOR]

    def start(self) -> None:
        """Make the estate, then start the gateway on it and the simulator beside it."""
        self.estate.init()
        if self._prepare is not None:
            self.estate.start_gateway()
            self._prepare(self.estate)
            self.estate.terminate(OPERATOR)
        began = time.monotonic()
        trio.run(partial(populate, self.home, self.shape, self._folder / "simulated"))
        self.made_in = time.monotonic() - began
        self.start_gateway()
        shape = msgspec.json.encode(self.shape).decode()
        self._helper = Helper(self._place, "tests.bench.scale.simulator", str(self._folder / "simulated"), shape)
        self._helper.hear()

    def start_gateway(self) -> None:
        began = time.monotonic()
        self.estate.start_gateway("--metrics", self.metrics, ready=False)
        self.estate.wait_ready(OPERATOR, READY_TIMEOUT)
        self.started_in = time.monotonic() - began

    def connect(self) -> dict[str, Any]:
        """Every simulated host links up and is told what it may see. Raises AssertionError when some do not."""
        hosts = self.shape.hosts + self.shape.core
        answer = self.ask("connect", within=TOLD_TIMEOUT)
        assert len(answer["told"]) == answer["hosts"], f"{len(answer['told'])} of {hosts} hosts were told: {answer}"
        return answer

    def ask(self, command: str, **words: Any) -> dict[str, Any]:
        """Have the simulator do something."""
        assert self._helper is not None
        answer: dict[str, Any] = json.loads(self._helper.ask(command, json.dumps(words)))
        return answer

    # --- what it costs ----------------------------------------------------------------------------------------------

    def cpu(self) -> Cpu:
        return Cpu(
            supervisor=_cpu_of(self.gateway.pid),
            workers=sum(map(_cpu_of, self.gateway.children())),
            simulator=self.simulator_cpu(),
        )

    def simulator_cpu(self) -> float:
        """Also while there is no gateway."""
        assert self._helper is not None
        return _cpu_of(self._helper.pid)

    def memory(self) -> tuple[int, int]:
        """Bytes of the supervisor and of its workers (proportional: a shared page counts half in each)."""
        return _memory_of(self.gateway.pid), sum(map(_memory_of, self.gateway.children()))

    def loop_lag(self) -> dict[str, float]:
        """The longest loop lag of the supervisor and of the workers since this was asked last, seconds."""
        found = re.findall(
            r'^meshbridge_loop_lag_max_seconds\{process="(\w+)"\} (\S+)', self._get("/metrics"), re.MULTILINE
        )
        return {process: float(seconds) for process, seconds in found}

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=READY_TIMEOUT) as answer:
            text: bytes = answer.read()
        return text.decode()

    @contextlib.contextmanager
    def supervisor_lag(self, every: float = 0.1) -> Iterator[list[float]]:
        """How long the supervisor took to answer the simplest question, asked again and again inside the block."""
        found: list[float] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.wait(every):
                began = time.monotonic()
                with contextlib.suppress(OSError):
                    self._get("/livez")
                found.append(time.monotonic() - began)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join(READY_TIMEOUT)

    def __enter__(self) -> Stand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._helper is not None:
            self._helper.close()
        self.estate.__exit__(kind, error, trace)


def _cpu_of(pid: int) -> float:
    """User and system time of one process, without its children."""
    with contextlib.suppress(OSError):
        user, system, _, _ = ticks_of(Path(f"/proc/{pid}/stat").read_text())
        return (user + system) * TICK
    return 0.0


def _memory_of(pid: int) -> int:
    return pss_of(Path(f"/proc/{pid}/smaps_rollup").read_text())
