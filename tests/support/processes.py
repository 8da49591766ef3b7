"""I/O: real processes under test: started with their output in files, awaited by what they say, ended by their own pid.

Nothing here sleeps: a thread per process reads its lines and wakes whoever waits for one of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.support.reaper import REAPER

STOP_TIMEOUT = 15.0
"""Seconds a process gets to end after SIGTERM before it is killed at teardown."""


class Output:
    """One stream of a process: copied to a file line by line, and searched by those who wait."""

    def __init__(self, pipe: IO[str], path: Path) -> None:
        self.path = path
        self._pipe = pipe
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        path.touch()
        self._thread = threading.Thread(target=self._copy, name=f"output of {path.name}", daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        with self._pipe, self.path.open("a", encoding="utf-8") as file:
            for line in self._pipe:
                file.write(line)
                file.flush()
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, text: str, timeout: float, *, after: int = 0) -> str:
        """The first line from line number `after` on that contains `text` (any case).

        Raises:
            AssertionError: it did not come within `timeout` seconds, or the stream ended without it.
        """
        wanted = text.lower()
        searched = after

        def found_or_ended() -> bool:
            nonlocal searched
            while searched < len(self._lines) and wanted not in self._lines[searched].lower():
                searched += 1
            return searched < len(self._lines) or self._ended

        with self._changed:
            in_time = self._changed.wait_for(found_or_ended, timeout)
            if searched < len(self._lines):
                return self._lines[searched].rstrip("\n")
        why = "the output ended" if in_time else f"not within {timeout:g} s"
        raise AssertionError(f"no line with {text!r} ({why}) in {self.path.name}:\n{self.tail()}")

    def join(self, timeout: float) -> None:
        """Waits until the stream has ended and everything is in the file."""
        self._thread.join(timeout)

    @property
    def count(self) -> int:
        """Lines so far: pass it as `after` to wait for something new."""
        with self._changed:
            return len(self._lines)

    def tail(self, lines: int = 60) -> str:
        with self._changed:
            return "".join(self._lines[-lines:])


class RunningProcess:
    """One process that a test started. It leads a process group of its own, so its workers can be ended with it."""

    def __init__(
        self, name: str, argv: Sequence[str], *, logs: Path, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        REAPER.watch(self._process.pid)
        self._asked = False
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdout = Output(self._process.stdout, logs / f"{name}.out")
        self.stderr = Output(self._process.stderr, logs / f"{name}.err")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def children(self) -> list[int]:
        """The pids of its direct children (a supervisor's workers), oldest first."""
        tasks = Path(f"/proc/{self.pid}/task")
        listed = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        return sorted(listed)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Its exit code (negative: the signal that ended it). Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """SIGTERM, then the exit code. Raises subprocess.TimeoutExpired when it does not end in time."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill9(self) -> None:
        """Kills this process and nothing else: its workers have to notice by themselves."""
        self.signal(signal.SIGKILL)
        self.wait(STOP_TIMEOUT)

    def ask_to_end(self) -> None:
        """SIGTERM, without waiting."""
        if self.running:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)  # a test may have stopped it
        self._asked = True

    def end(self) -> None:
        """Ends it and whatever it left in its group; never raises."""
        if not self._asked:  # a second SIGTERM means "now"
            self.ask_to_end()
        if self.running:
            try:
                self.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill9()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        REAPER.forget(self.pid)
        self.stdout.join(STOP_TIMEOUT)
        self.stderr.join(STOP_TIMEOUT)
