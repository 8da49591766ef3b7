"""I/O: flow records on a real disk: rotation, floods, full disks, torn lines, and a reader that follows."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from bridge import limits
from bridge.flow_log import FILE, OLD_FILE, FlowLog, follow, read_recent
from bridge.flows import Flow

FLOW = Flow(ts=1e9, id="f", subject="host:vm1", service="ledger", result="ok", reason="r" * 150)


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def make(home: Path, clock: Clock | None = None) -> FlowLog:
    return FlowLog(home, monotonic=clock or Clock(), now=lambda: 1e9)


def numbered(number: int) -> Flow:
    return msgspec.structs.replace(FLOW, id=f"f{number}")


def fill(log: FlowLog, clock: Clock, count: int) -> None:
    for number in range(count):
        log.append(numbered(number))
        if number % 500 == 499:
            log.flush()
            clock.at += 3600.0
    log.flush()


def test_written_and_read_back_private_to_the_owner(tmp_path: Path) -> None:
    log = make(tmp_path)
    assert read_recent(tmp_path, 10) == []
    for number in range(5):
        log.append(numbered(number))
    log.flush()
    assert [flow.id for flow in read_recent(tmp_path, 3)] == ["f2", "f3", "f4"]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_rotated_once_at_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLOW_FILE_MAX", 300_000)
    clock = Clock()
    fill(make(tmp_path, clock), clock, 5000)
    sizes = [(tmp_path / name).stat().st_size for name in (FILE, OLD_FILE)]
    assert all(0 < size <= 300_000 for size in sizes)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, OLD_FILE]
    assert [flow.id for flow in read_recent(tmp_path, 1000)] == [f"f{n}" for n in range(4000, 5000)]


def test_f50_a_flood_writes_at_most_ten_mebibytes_a_minute_and_counts_the_rest(tmp_path: Path) -> None:
    clock = Clock()
    log = make(tmp_path, clock)
    for second in range(60):
        clock.at = float(second)
        for _ in range(2000):
            log.append(FLOW)
        log.flush()
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert written <= 10 * limits.MIB
    lines = [json.loads(line) for path in tmp_path.iterdir() for line in path.read_bytes().splitlines()]
    told = sum(line.get("dropped", 0) for line in lines)
    assert told == log.dropped > 0
    assert sum("id" in line for line in lines) + log.dropped == 120_000


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond `size`: writes come up short and then fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_f26_a_full_disk_is_counted_leaves_whole_lines_and_ends(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.append(numbered(0))
    log.flush()
    size = (tmp_path / FILE).stat().st_size
    with disk_of(size + 100):
        log.append(numbered(1))
        log.flush()
        assert (tmp_path / FILE).stat().st_size == size
        assert str(tmp_path / FILE) in log.last_error and "bytes" in log.last_error
        assert log.dropped == 1
    log.append(numbered(2))
    log.flush()
    assert log.last_error == ""
    assert [flow.id for flow in read_recent(tmp_path, 10)] == ["f0", "f2"]
    assert json.loads((tmp_path / FILE).read_bytes().splitlines()[-1])["dropped"] == 1


def test_f26_a_home_that_is_gone_never_raises(tmp_path: Path) -> None:
    log = make(tmp_path / "gone")
    log.append(FLOW)
    log.flush()
    assert os.strerror(errno.ENOENT) in log.last_error
    assert log.dropped == 1


def test_a_symlink_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / FILE).symlink_to(tmp_path / "victim")
    log = make(tmp_path)
    log.append(FLOW)
    log.flush()
    assert (tmp_path / "victim").read_text() == "mine"
    assert log.dropped == 1


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"ts":1,"id":"to')
    log = make(tmp_path)
    log.append(numbered(1))
    log.flush()
    assert [flow.id for flow in read_recent(tmp_path, 10)] == ["f1"]


async def test_run_writes_what_is_left_when_cancelled(tmp_path: Path) -> None:
    log = make(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        log.append(numbered(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [flow.id for flow in read_recent(tmp_path, 10)] == ["f1"]


async def test_follow_sees_every_flow_once_across_rotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FLOW_FILE_MAX", 4000)
    log = make(tmp_path)
    log.append(numbered(0))
    log.append(numbered(1))
    log.flush()
    seen: list[str] = []
    with trio.fail_after(10):
        async with aclosing(follow(tmp_path, recent=1, interval=0.001)) as flows:
            async for flow in flows:
                seen.append(flow.id)
                log.append(numbered(len(seen) + 1))
                log.flush()
                if len(seen) == 60:
                    break
    assert seen == [f"f{n}" for n in range(1, 61)]
    assert (tmp_path / OLD_FILE).exists()
