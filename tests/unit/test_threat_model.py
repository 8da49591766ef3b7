"""I/O: docs/threat-model.md names tests that exist, for every line, and lists the catalogue as it is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.test_catalogue import CLAIMED, FUNCTIONS, lines_of

PAGE = (Path(__file__).parents[2] / "docs" / "threat-model.md").read_text(encoding="utf-8")
LINE = re.compile(r"^### (\d+)\. .+?\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`tests/([\w/]+\.py)::(\w+)`")
REASON = re.compile(r"^(?:Not yet|No test): \S", re.MULTILINE)
ROW = re.compile(r"^\| ([CFH]\d\d) \| .+ \|$", re.MULTILINE)


def test_there_are_25_lines() -> None:
    assert [int(number) for number, _ in LINE.findall(PAGE)] == list(range(1, 26))


def test_every_line_names_a_test_or_says_why_there_is_none() -> None:
    bare = [number for number, text in LINE.findall(PAGE) if not TEST.search(text) and not REASON.search(text)]
    assert not bare, f"lines without a test and without a reason: {bare}"


def test_every_test_that_is_named_exists() -> None:
    missing = [f"{path}::{name}" for path, name in TEST.findall(PAGE) if (path, name) not in FUNCTIONS]
    assert TEST.search(PAGE)
    assert not missing, f"docs/threat-model.md names tests that do not exist: {missing}"


def test_nothing_looks_like_a_test_and_is_not_checked() -> None:
    assert len(re.findall(r"::test_", PAGE)) == len(TEST.findall(PAGE))


def test_the_catalogue_lists_every_claimed_line_and_none_without_a_test() -> None:
    rows = ROW.findall(PAGE)
    backed = {line for _, name in FUNCTIONS for line in lines_of(name)}
    assert len(rows) == len(set(rows))
    assert sorted(CLAIMED - set(rows)) == []
    assert sorted(set(rows) - backed) == []
