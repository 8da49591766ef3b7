"""I/O: (processes, links) the program on disk: its version, whether it can be started, and what starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from agents import program
from bridge import limits
from inventory.errors import Unavailable


async def test_a_version_that_cannot_be_imported_is_refused_with_python_s_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "_PROBE", "import nothing_of_that_name")
    with pytest.raises(Unavailable, match="ModuleNotFoundError"):
        await program.probe()
    monkeypatch.setattr(program, "_PROBE", "pass")
    await program.probe()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Unavailable, match="cannot be tried: FileNotFoundError"):
        await program.probe()


async def test_a_version_whose_import_hangs_is_refused_and_holds_up_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is told to end meanwhile ends, and leaves no process behind."""
    begun = tmp_path / "begun"
    write = f"import os, time; os.symlink(str(os.getpid()), {str(begun)!r}); time.sleep(60)"
    monkeypatch.setattr(program, "_PROBE", write)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program.probe)
            while not begun.is_symlink():  # noqa: ASYNC110 - another process does it
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(int(os.readlink(begun)), 0)
    begun.unlink()
    monkeypatch.setattr(limits, "PROBE_TIMEOUT", 0.3)
    with trio.fail_after(10), pytest.raises(Unavailable, match="cannot be tried: TooSlowError"):
        await program.probe()


def test_the_version_on_disk_is_found_where_a_link_leads_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of a release have one time for all their files; the import system looks at times to see what is new."""
    for number in ("0.1.0", "0.2.0"):
        record = tmp_path / number / f"meshbridge-{number}.dist-info"
        record.mkdir(parents=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: meshbridge\nVersion: {number}\n")
        os.utime(tmp_path / number, (1_700_000_000, 1_700_000_000))
    current = tmp_path / "current"
    current.symlink_to("0.1.0")
    monkeypatch.setattr("sys.path", [str(current)])
    assert program.installed_version() == "0.1.0"
    (tmp_path / "next").symlink_to("0.2.0")
    (tmp_path / "next").rename(current)
    assert program.installed_version() == "0.2.0"
