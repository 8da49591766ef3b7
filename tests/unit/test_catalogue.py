"""Pure: every line of the test catalogue that the project answers has a test named after it.

A test backs line C09 when `c09` is a word of its name: `test_c09_delimiters_are_refused`. docs/threat-model.md quotes
these names, so a claim there can be looked up and run. This file holds the list of lines; it runs none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
TEST = re.compile(r"^ *(?:async )?def (test_\w+)", re.MULTILINE)
"""By its line: parsing every test takes longer than everything else here."""
LINE = re.compile(r"(?<![a-z0-9])([chf]\d\d)(?![a-z0-9])")


def numbered(letter: str, *spans: tuple[int, int]) -> set[str]:
    return {f"{letter}{number:02}" for first, last in spans for number in range(first, last + 1)}


HOSTILE_INPUTS = numbered("H", (1, 14), (16, 16), (18, 35))
LESSONS = numbered("C", (1, 29), (31, 31), (33, 47))
FAULTS = numbered("F", (1, 32), (34, 48), (50, 52))
KNOWN = HOSTILE_INPUTS | LESSONS | FAULTS

CLAIMED = (
    numbered("H", (1, 11), (14, 14), (16, 16), (19, 19), (22, 22), (24, 24), (26, 26), (28, 28), (33, 34))
    | numbered("C", (1, 29), (31, 31), (33, 41), (43, 44), (46, 46))
    | numbered("F", (1, 1), (3, 5), (14, 14), (20, 21), (23, 24), (29, 31), (41, 43), (50, 50))
)

NOT_CLAIMED: dict[str, str] = {
    "C42": "answered by the JSON lines H14 and H16; no compression on the wire",
    "C45": "Ansible: there is no collection here",
    "C47": "privileges of an installed service: nothing here installs one",
}
"""Lessons that do not apply to what the project does, each with the reason."""


def named_tests() -> Iterator[tuple[str, str]]:
    """File and name of every test function below tests/."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in TEST.findall(path.read_text(encoding="utf-8")):
            yield path.relative_to(TESTS).as_posix(), name


def lines_of(name: str) -> set[str]:
    """The catalogue lines in a test's name: `test_h04_c18_expired` backs H04 and C18."""
    return {found.upper() for found in LINE.findall(name.replace("_", " "))}


FUNCTIONS = list(named_tests())


def test_every_claimed_line_has_a_test_named_after_it() -> None:
    backed = {line for _, name in FUNCTIONS for line in lines_of(name)}
    missing = sorted(CLAIMED - backed)
    assert not missing, f"{len(missing)} lines of the catalogue without a test named after them: {' '.join(missing)}"


def test_no_test_names_a_line_that_does_not_exist() -> None:
    unknown = [f"{path}::{name}" for path, name in FUNCTIONS if lines_of(name) - KNOWN]
    assert not unknown, f"named after lines that the catalogue does not have: {unknown}"


def test_every_lesson_is_claimed_or_has_a_reason() -> None:
    lessons = {line for line in CLAIMED if line in LESSONS}
    assert not lessons & NOT_CLAIMED.keys()
    assert lessons | NOT_CLAIMED.keys() == LESSONS
    assert all(NOT_CLAIMED.values())


def test_names_are_read_word_by_word() -> None:
    assert lines_of("test_h04_c18_expired_list") == {"H04", "C18"}
    assert lines_of("test_sha256_of_c0910_and_mc09") == set()
