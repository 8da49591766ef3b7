"""I/O: stdout that is full or closed is told as that; a command that prints a token does nothing without a stdout."""

from __future__ import annotations

import subprocess

from tests.support.estate import OPERATOR, Estate


def test_output_that_cannot_be_written_is_no_bug_of_ours(estate: Estate) -> None:
    estate.init()
    words = " ".join(estate.command(OPERATOR, "host", "list"))
    full = subprocess.run(["sh", "-c", f"{words} >/dev/full"], capture_output=True, text=True, check=False)
    assert (full.returncode, "stdout cannot be written: No space left on device" in full.stderr) == (69, True)
    words = " ".join(estate.command(OPERATOR, "host", "add", "vm1"))
    closed = subprocess.run(["sh", "-c", f"{words} >&-"], capture_output=True, text=True, check=False)
    assert (closed.returncode, "closed" in closed.stderr) == (69, True)
    assert "vm1" not in estate.ok(OPERATOR, "host", "list"), "nothing was recorded for a token that nobody saw"


def test_adding_a_host_again_says_what_it_changes(estate: Estate) -> None:
    estate.init()
    assert estate.cli(OPERATOR, "host", "add", "vm1", "--serve", "own", "--site", "dc1").returncode == 0
    again = estate.cli(OPERATOR, "host", "add", "VM1", "--site", "dc2")
    assert "vm1 was on record: site dc1 -> dc2\n" in again.stderr, "what is not named stays"
    replaced = estate.cli(OPERATOR, "host", "add", "VM1", "--replace")
    assert "vm1 was on record: site dc2 -> none; serves own -> none" in replaced.stderr
