"""Pure: hostile text in a line."""

from __future__ import annotations

import json

import pytest

from bridge import limits
from bridge.lines import json_line, plain

HOSTILE = {
    "newline": "a\nfake line",
    "escape": "\x1b[2J\x1b]0;title\x07",
    "bidi": "user\u202egnp.exe",
    "nul": "a\x00b",
    "lone surrogate": "\udc80",
    "64 KiB": "x" * 65536,
    "64 KiB of quotes": '"' * 65536,
    "64 KiB of emoji": "\U0001f600" * 16384,
    "line separator": "a\u2028b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_c44_one_valid_json_line_of_a_kibibyte(text: str) -> None:
    line = json_line({"event": text, "peer": text, "name": text, text: text})
    assert len(line) <= limits.LOG_LINE_MAX
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert line[:-1].isascii() and line[:-1].decode().isprintable()
    assert all(str(value).isprintable() and str(value).isascii() for value in json.loads(line).values())


def test_too_many_fields_say_that_they_were_cut() -> None:
    line = json_line({f"field{n}": "x" * 100 for n in range(1000)})
    decoded = json.loads(line)
    assert decoded["cut"] is True
    assert "field0" in decoded
    assert len(line) <= limits.LOG_LINE_MAX


def test_plain_text_stays_as_it_is() -> None:
    assert plain("ledger on vm1") == "ledger on vm1"
    assert plain("x" * 300, 20) == "x" * 17 + "..."
    assert plain("é") == "\\xe9"


def test_values_that_cannot_be_shown_do_not_raise() -> None:
    class Awkward:
        def __str__(self) -> str:
            raise RuntimeError("no")

    decoded = json.loads(json_line({"a": Awkward(), "b": 10**5000, "c": b"\xff", "d": float("nan"), "e": 1.5}))
    assert decoded == {
        "a": "unprintable Awkward",
        "b": "a number of more than 63 bits",
        "c": "b'\\xff'",
        "d": None,
        "e": 1.5,
    }
