"""I/O: the runner that .ci/run gives the README to: what it takes from the page, and what it makes of failures."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from tests.support.readme_commands import main, marked_blocks, run

PAGE = """
```sh
not marked
```
<!-- ci: run -->
```sh
first=1
```
words
<!-- ci: run -->

```sh
test "$first" = 1
```
<!-- ci: run -->
```toml
not = "a shell"
```
"""


def test_only_marked_shell_blocks_are_taken() -> None:
    assert marked_blocks(PAGE) == ["first=1\n", 'test "$first" = 1\n']


def test_blocks_share_one_shell(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    assert main(str(page)) == 0


def test_a_page_without_marked_blocks_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "README.md"
    page.write_text("```sh\ntrue\n```\n")
    assert main(str(page)) == 1
    assert "no block is marked" in capsys.readouterr().err


def test_the_first_failing_command_ends_it(tmp_path: Path) -> None:
    assert run("false\ntouch reached\n", tmp_path) == 1
    assert not (tmp_path / "reached").exists()


def test_a_hanging_command_is_ended_with_its_background_processes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "held")
    reader = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("sleep 300 >held &\nwait\n", tmp_path, timeout=1.0) == 124
        poll = select.poll()
        poll.register(reader, 0)  # the hang-up of the last writer is always reported
        assert poll.poll(10_000), "the background process still holds its end"
    finally:
        os.close(reader)
