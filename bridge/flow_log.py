"""I/O: flow records on disk: `flows.jsonl` in the home, rotated once, so that two files bound the space it takes.

Recording never waits for the disk and never fails its caller: what cannot be written (disk full, too many per second,
a disk that stalls) is counted, and the count is written as a line of its own as soon as something can be (F26, F50).
A line is whole or absent: a torn one is cut off at once, or skipped by the reader if the machine died in between.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import trio

from bridge import limits
from bridge.flows import Flow, decode_flow, encode_flow
from bridge.lines import json_line
from inventory.errors import InputError

FILE = "flows.jsonl"
OLD_FILE = "flows.jsonl.1"
_READ_CHUNK = 64 * limits.KIB


@dataclass(frozen=True, slots=True)
class _Batch:
    lines: list[bytes]
    records: int
    told: int
    """How many dropped records its last line tells of; 0 means that it has no such line."""


class FlowLog:
    """The writing side, one per node (its supervisor).

    Args:
        home: the node's home directory.
        monotonic: seconds, for the rate limit.
        now: unix seconds, for the lines that tell what was dropped.
    """

    def __init__(self, home: Path, *, monotonic: Callable[[], float], now: Callable[[], float]) -> None:
        self._path = home / FILE
        self._old_path = home / OLD_FILE
        self._monotonic = monotonic
        self._now = now
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._allowance = float(limits.FLOW_BURST)
        self._allowance_at = monotonic()
        self._last_size = 0
        self._untold = 0
        self.dropped = 0
        """Records lost since the start."""
        self.last_error = ""
        """Why the last write failed; empty when it did not. For `status` and `doctor`."""

    def append(self, flow: Flow) -> None:
        """Takes a record; `run` writes it. Never blocks, never raises."""
        self._refill()
        if self._allowance < self._last_size:  # too many per second: not worth encoding one more to find that out
            self._count_dropped(1)
            return
        line = encode_flow(flow)
        self._last_size = size = len(line)
        if self._pending_bytes + size > limits.FLOW_PENDING_MAX or size > self._allowance:
            self._count_dropped(1)
            return
        self._allowance -= size
        self._pending.append(line)
        self._pending_bytes += size

    async def run(self) -> NoReturn:
        """Writes what was appended, in a thread, every FLOW_WRITE_INTERVAL; cancelled, it writes what is left."""
        try:
            while True:
                await trio.sleep(limits.FLOW_WRITE_INTERVAL)
                # A thread cannot be interrupted, but a batch could be lost on its way in: hence the shield.
                with trio.move_on_after(limits.FLOW_WRITE_TIMEOUT, shield=True):
                    if batch := self._take():
                        self._settle(batch, await trio.to_thread.run_sync(self._write, batch.lines))
        finally:
            self.flush()

    def flush(self) -> None:
        """Writes everything now, in this thread; for the end of a process."""
        if batch := self._take():
            self._settle(batch, self._write(batch.lines))

    def _refill(self) -> None:
        """A token bucket over bytes (F50)."""
        at = self._monotonic()
        self._allowance += max(0.0, at - self._allowance_at) * limits.FLOW_BYTES_PER_SECOND
        self._allowance = min(self._allowance, float(limits.FLOW_BURST))
        self._allowance_at = at

    def _count_dropped(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    def _take(self) -> _Batch | None:
        if not self._pending and not self._untold:
            return None
        lines, self._pending, self._pending_bytes = self._pending, [], 0
        records, told, self._untold = len(lines), self._untold, 0
        if told:
            lines.append(json_line({"ts": self._now(), "dropped": told}))
        return _Batch(lines, records, told)

    def _settle(self, batch: _Batch, error: str) -> None:
        """Back on the loop's own thread: the counters are changed nowhere else."""
        self.last_error = error
        if error:
            self._count_dropped(batch.records)
            self._untold += batch.told

    def _write(self, lines: list[bytes]) -> str:
        """All lines or none, in one write. Returns why not, or an empty string."""
        data = b"".join(lines)
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            return f"cannot open {self._path}: {exc.strerror}"
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                data = b"\n" + data  # the machine died in the middle of a line
            if size + len(data) > limits.FLOW_FILE_MAX and size:
                self._path.replace(self._old_path)
                return self._write(lines)
            written = os.write(fd, data)
            if written < len(data):
                os.ftruncate(fd, size)
                return f"cannot write {len(data)} bytes to {self._path}: the disk is full"
        except OSError as exc:
            return f"cannot write {len(data)} bytes to {self._path}: {exc.strerror}"
        finally:
            os.close(fd)
        return ""


def read_recent(home: Path, count: int) -> list[Flow]:
    """The last `count` flows (at most FLOWS_KEPT), oldest first. No file yet is no flows.

    Raises:
        OSError: the files cannot be read.
    """
    return _Tail(home).recent(count)


async def follow(
    home: Path, *, recent: int = 0, interval: float = limits.FLOW_WRITE_INTERVAL
) -> AsyncGenerator[Flow, None]:
    """The last `recent` flows, then every one as it is written, across rotations. Wrap it in contextlib.aclosing.

    Raises:
        OSError: the file cannot be read.
    """
    tail = _Tail(home)
    for flow in tail.recent(recent):
        yield flow
    while True:
        for flow in tail.read():
            yield flow
        await trio.sleep(interval)


class _Tail:
    """Reads on where it stopped; when the file was rotated, finishes the old one first."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._old_path = home / OLD_FILE
        self._inode = self._inode_of(self._path)
        self._offset = 0

    def recent(self, count: int) -> list[Flow]:
        """The last ones of both files; `read` goes on after them."""
        flows: deque[Flow] = deque(maxlen=min(max(count, 0), limits.FLOWS_KEPT))
        with suppress(FileNotFoundError), self._old_path.open("rb") as old:
            flows.extend(_flows(old))
        flows.extend(self.read())
        return list(flows)

    def read(self) -> Iterator[Flow]:
        if self._inode and self._inode_of(self._old_path) == self._inode:
            yield from self._read_from(self._old_path)
            self._inode = 0
        inode = self._inode_of(self._path)
        if inode != self._inode:
            self._inode, self._offset = inode, 0
        if inode:
            yield from self._read_from(self._path)

    @staticmethod
    def _inode_of(path: Path) -> int:
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return 0

    def _read_from(self, path: Path) -> Iterator[Flow]:
        try:
            file = path.open("rb")
        except FileNotFoundError:  # rotated away since we looked; the next turn finds it
            return
        with file:
            file.seek(self._offset)
            while chunk := file.read(_READ_CHUNK):
                whole = chunk[: chunk.rfind(b"\n") + 1]
                if not whole and len(chunk) < _READ_CHUNK:
                    return  # the rest of this line is still to come
                self._offset += len(whole or chunk)
                file.seek(self._offset)
                yield from _flows(whole.split(b"\n"))


def _flows(lines: Iterable[bytes]) -> Iterator[Flow]:
    """Flows out of lines; counts of dropped records and torn lines are passed over."""
    for line in lines:
        if len(line) <= limits.LOG_LINE_MAX:
            try:
                yield decode_flow(line)
            except InputError:
                continue
