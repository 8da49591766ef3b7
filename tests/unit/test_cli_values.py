"""Pure: durations, times and labels as people write them; cells as people see them."""

from __future__ import annotations

import click
import pytest

from cli.output import text
from cli.values import LABEL, TARGET, duration, grammar, labels_of, moment, option_value
from inventory.errors import InputError


@pytest.mark.parametrize(
    ("written", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("2d", 172800), ("1h30m", 5400)]
)
def test_durations(written: str, seconds: float) -> None:
    assert duration(written) == seconds


@pytest.mark.parametrize("written", ["", "1", "h", "1 h", "-1h", "1h ", "1w", "1h1", "٣h", "1.5h", "9" * 30 + "s"])
def test_what_is_no_duration(written: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(written)


def test_times_without_an_offset_are_utc() -> None:
    assert moment("1970-01-01T01:00") == 3600
    assert moment("1970-01-01T01:00+01:00") == 0
    for wrong in ("noon", "", "1970-13-01", "1970-01-01T25:00"):
        with pytest.raises(click.BadParameter):
            moment(wrong)


def test_labels() -> None:
    assert labels_of([LABEL("Role=Web"), LABEL("tier=db")]) == {"role": "web", "tier": "db"}
    with pytest.raises(InputError, match="twice"):
        labels_of([LABEL("a=1"), LABEL("A=2")])


def test_what_the_grammar_refuses_is_a_mistake_of_use_and_says_what_to_write() -> None:
    with pytest.raises(click.BadParameter, match="'9000' is not ADDR:PORT; write it like"):
        TARGET("9000")
    assert grammar("inventory.names:parse_host", keeps_text=True)("VM1") == "VM1"
    with pytest.raises(click.BadParameter, match="bad") as caught, option_value("--check"):
        raise InputError("bad")
    assert "'--check'" in caught.value.format_message()


def test_c44_cells_never_carry_control_characters() -> None:
    assert text("a\x1b[31m\nb\u202e") == "a\\x1b[31m\\nb\\u202e"
    assert text({"a": "x\n", "b": None}) == "a=x\\n"
    assert [text(value) for value in (None, True, False, ("a", "b"), -0.0001, 1.5, 1795408610.25)] == [
        *("", "yes", "no", "a, b", "0", "1.5", "1795408610.25")
    ]
