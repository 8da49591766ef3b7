"""I/O: (a terminal that is none) tables on terminals of every width: what is a word stays one."""

from __future__ import annotations

import io
import sys

import pytest

from cli.output import print_table

HEADERS = ("NAME", "STATE", "SITE", "LABELS", "SERVES", "INSTANCES")
ROWS = [
    ("billing-database-1", "invited", "dc1", {"role": "web", "os": "aix", "team": "payments"}, ["ledger", "shop"], 0),
    ("vm1", "online", None, {}, [], 2),
]
WORDS = ["billing-database-1", "invited", "dc1", "role=web", "os=aix", "team=payments", "ledger", "shop", "vm1"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, columns: int, rows: list[tuple[object, ...]] = ROWS) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(HEADERS, rows)
    return [line.rstrip() for line in terminal.getvalue().splitlines()]


@pytest.mark.parametrize("columns", [30, 40, 60, 79, 80, 120, 200])
def test_words_stay_whole_and_lines_fit(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    lines = drawn(monkeypatch, columns)
    assert max(map(len, lines)) <= columns
    words = [word.strip(",") for line in lines for word in line.split()]
    assert set(WORDS) <= {*words}, lines


def test_on_a_narrow_terminal_each_row_is_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 40) == [
        "name       billing-database-1",
        "state      invited",
        "site       dc1",
        "labels     role=web, os=aix,",
        "           team=payments",
        "serves     ledger, shop",
        "instances  0",
        "",
        "name       vm1",
        "state      online",
        "instances  2",
    ]


def test_on_a_wide_one_each_row_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(monkeypatch, 120)
    assert any(line.split()[:3] == ["billing-database-1", "invited", "dc1"] for line in lines)
    assert any("NAME" in line and "INSTANCES" in line for line in lines)


def test_what_is_longer_than_any_terminal_is_folded_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 300
    for columns in (10, 40, 120):
        lines = drawn(monkeypatch, columns, [(long, "online", "dc1", {}, [], 1)])
        assert max(map(len, lines)) <= max(columns, 20) and sum(line.count("x") for line in lines) == 300


def test_no_rows_say_so_with_their_header_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn(monkeypatch, 40, [])
    assert {word for line in lines for word in line.split()} >= {"NAME", "INSTANCES"}
