"""I/O: one benchmark's own place on this machine: a temporary directory, ports nobody uses, processes ended by pid."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.support.processes import RunningProcess

ROOT = Path(__file__).parents[2]


class Place:
    """Everything that a benchmark makes outside its own memory. Leaving the `with` block removes it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="meshbridge-bench-"))
        self.logs = self.path / "logs"
        self.logs.mkdir()
        self.cleanup = contextlib.ExitStack()
        self._ports: set[int] = set()
        self._running: list[RunningProcess] = []
        self._started = 0

    def free_port(self) -> int:
        """A port free on 127.0.0.1 now, below the ephemeral range: no outgoing connection of a load takes it."""
        for port in random.sample(range(10240, 32768), 200):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in self._ports:
                self._ports.add(port)
                return port
        raise RuntimeError("no free port on 127.0.0.1")

    def start(self, name: str, argv: Sequence[str]) -> RunningProcess:
        """Starts a process that ends with this place, at the latest."""
        self._started += 1
        process = RunningProcess(f"{self._started:03}-{name}", argv, logs=self.logs, cwd=self.path, env=environment())
        self._running.append(process)
        return process

    def end(self, process: RunningProcess) -> None:
        """Ends it now; its pid is never used again."""
        self._running.remove(process)
        process.end()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cleanup.close()
        for process in self._running:
            process.end()
        shutil.rmtree(self.path, ignore_errors=True)


class Helper:
    """A process of ours that makes or takes load, told what to do line by line: one line in, one line back."""

    def __init__(self, place: Place, module: str, *args: str) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        place.cleanup.callback(self.close)

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self) -> str:
        """The next line it says. Raises RuntimeError when it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with {self._process.wait()}")
        return line.rstrip("\n")

    def ask(self, *words: object) -> str:
        assert self._process.stdin is not None
        print(*words, file=self._process.stdin, flush=True)
        return self.hear()

    def close(self) -> None:
        """It ends when its standard input does."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def environment() -> dict[str, str]:
    """Ours, without what could lead a command to another home."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MESHBRIDGE_", "XDG_"))}
