"""I/O: processes that get a tenth of a core: by a quota of the kernel where one can be set, else by stopping them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PERIOD = 0.1
_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def starved(pids: Sequence[int], *, share: float = 0.1) -> Iterator[str]:
    """All of `pids` together get `share` of a core; yields how."""
    group = _quota_group(share)
    if group is None:
        with _stopped_in_turns(pids, share):
            yield "stopped and continued"
        return
    home, procs = group
    try:
        for pid in pids:
            procs.write_text(str(pid))
        yield f"quota in {home.parent}"
    finally:
        for pid in procs.read_text().split():
            with contextlib.suppress(OSError):
                (home.parent / procs.name).write_text(pid)
        with contextlib.suppress(OSError):
            home.rmdir()


def _quota_group(share: float) -> tuple[Path, Path] | None:
    """A new control group with a quota, and its file of processes; None where that is not ours to make."""
    period = int(PERIOD * 1e6)
    name = f"meshbridge-test-{os.getpid()}-{time.monotonic_ns()}"
    for root, settings in (
        (_V1, {"cpu.cfs_period_us": f"{period}", "cpu.cfs_quota_us": f"{int(period * share)}"}),
        (_V2, {"cpu.max": f"{int(period * share)} {period}"}),
    ):
        home = root / name
        try:
            home.mkdir()
        except OSError:
            continue
        try:
            for file, value in settings.items():
                if not (home / file).exists():
                    raise FileNotFoundError(file)
                (home / file).write_text(value)
            return home, home / "cgroup.procs"
        except OSError:
            home.rmdir()
    return None


@contextlib.contextmanager
def _stopped_in_turns(pids: Sequence[int], share: float) -> Iterator[None]:
    over = threading.Event()

    def signal_all(number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def run() -> None:
        while not over.is_set():
            signal_all(signal.SIGSTOP)
            over.wait(PERIOD * (1 - share))
            signal_all(signal.SIGCONT)
            over.wait(PERIOD * share)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal_all(signal.SIGCONT)
