"""I/O: every command line and environment that a process of some network namespaces has had, kept as it was seen.

    python -m tests.support.process_watch OUT SPACE...     until it is told to end

It looks at processes again for a while after they began, for one that becomes another program. Beside the processes it
has the disk below OUT written out again and again, so that what was in a file for a moment is there to be found.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
_LOOK_AGAIN = 1.0
_PAUSE = 0.002
_WRITE_OUT = 0.5
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessWatch:
    """While the block lasts. `seen` is what was there to be read."""

    def __init__(self, place: Path, spaces: Iterable[str]) -> None:
        self._out = place / "processes"
        self._out.touch(0o600)
        self._spaces = list(spaces)

    def __enter__(self) -> ProcessWatch:
        argv = [sys.executable, "-m", "tests.support.process_watch", str(self._out), *self._spaces]
        self._process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"watching\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate(timeout=20)

    @property
    def seen(self) -> Path:
        return self._out


def _watch(out: Path, spaces: set[int]) -> None:
    seen: set[bytes] = set()
    begun: dict[str, float] = {}
    disk = os.open(out.parent, os.O_RDONLY | os.O_DIRECTORY)
    written_out = time.monotonic()
    with out.open("ab", buffering=0) as file:
        while True:
            now = time.monotonic()
            there = [name for name in os.listdir("/proc") if name.isdigit()]
            for pid in there:
                if now - begun.setdefault(pid, now) > _LOOK_AGAIN:
                    continue
                for what in _read(pid, spaces):
                    if what not in seen:
                        seen.add(what)
                        file.write(what + b"\n")
            for pid in begun.keys() - set(there):
                del begun[pid]
            if now - written_out > _WRITE_OUT:
                _libc.syncfs(disk)
                written_out = now
            time.sleep(_PAUSE)


def _read(pid: str, spaces: set[int]) -> list[bytes]:
    try:
        if os.stat(f"/proc/{pid}/ns/net").st_ino not in spaces:
            return []
        return [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    except OSError:
        return []


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    out, *names = sys.argv[1:]
    spaces = {os.stat(f"/run/netns/{name}").st_ino for name in names}
    print("watching", flush=True)
    _watch(Path(out), spaces)


if __name__ == "__main__":
    main()
