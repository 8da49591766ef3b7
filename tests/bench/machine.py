"""I/O: on what it was measured: a figure without its machine says nothing."""

from __future__ import annotations

import os
import platform
import re
import resource
import ssl
from pathlib import Path

from tests.bench.cpu import machine_busy_seconds


def machine() -> dict[str, str]:
    """Processor, cores, memory, kernel, Python and its TLS library."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / 1e6:.0f} GB" if memory else "unknown",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "tls library of python": ssl.OPENSSL_VERSION,
        "descriptors per process": f"{resource.getrlimit(resource.RLIMIT_NOFILE)[1]:,}",
    }


class Neighbours:
    """How much of the machine others used while we measured: what makes figures wrong without a trace."""

    def __init__(self) -> None:
        self._began = (machine_busy_seconds(), _ours())

    def used(self) -> float:
        """Seconds of processor time that neither we nor anything that we started (and has ended) used."""
        return max(0.0, (machine_busy_seconds() - self._began[0]) - (_ours() - self._began[1]))


def _ours() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
