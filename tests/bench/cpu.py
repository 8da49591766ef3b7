"""I/O: the processor time and memory of whole systems: a process and all that it started (proc(5)). Linux only."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

TICK = 1.0 / os.sysconf("SC_CLK_TCK")
"""Seconds in one unit of /proc/PID/stat."""


def family(roots: Iterable[int]) -> list[int]:
    """`roots` and everything that descends from them and is alive."""
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time used so far by `roots` and their descendants, those that have ended and were waited for
    included. Two readings' difference is what an interval cost, in steps of 10 ms."""
    total = 0
    for pid in family(roots):
        with contextlib.suppress(OSError):
            total += sum(ticks_of(Path(f"/proc/{pid}/stat").read_text()))
    return total * TICK


def ticks_of(stat: str) -> tuple[int, int, int, int]:
    """utime, stime, cutime and cstime out of the text of /proc/PID/stat. The name in it may hold any character."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]), int(fields[12]), int(fields[13]), int(fields[14])


def memory_bytes(roots: Iterable[int]) -> int:
    """Proportional resident memory (Pss): a page shared by two processes counts half in each. The kernel's own memory
    for sockets is in no process and not counted."""
    total = 0
    for pid in family(roots):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            total += pss_of(Path(f"/proc/{pid}/smaps_rollup").read_text())
    return total


def pss_of(smaps_rollup: str) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB", smaps_rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def machine_busy_seconds() -> float:
    """Processor time used by everything on this machine since it started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, *_steal = fields
    return (user + nice + system + irq + softirq) * TICK
