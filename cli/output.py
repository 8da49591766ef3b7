"""I/O: data on stdout, as JSON or as a table. Foreign text is made harmless here, once, whatever it holds (C44)."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

_BETWEEN = 3
"""Columns of the terminal that each one of a table takes besides its text."""
_CELL_MIN = 8
"""Of a block's texts, on whatever terminal."""


def print_json(data: object) -> None:
    """Indented, in the order given, ASCII only: what is hostile in a terminal is escaped by JSON itself."""
    click.echo(json.dumps(_plain(data), indent=2))


def print_json_line(data: object) -> None:
    click.echo(json.dumps(_plain(data), separators=(",", ":")))


def _plain(data: object) -> Any:
    import msgspec

    return msgspec.to_builtins(data)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns: drawn on a terminal, aligned text elsewhere. No rows print nothing but the header."""
    cells = [[text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(headers, cells)
        return
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    for row in [list(headers), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Mapping[str, object]) -> None:
    """`name  value` lines, without the empty ones."""
    shown = {name.replace("_", " "): text(value) for name, value in fields.items() if text(value)}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name.ljust(width)}  {value}")


def text(value: object) -> str:
    """A cell: empty for None, `k=v` pairs and lists joined, control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, 3) + 0.0:.15g}"  # + 0.0: there is no minus zero for people
    if isinstance(value, Mapping):
        return ", ".join(f"{text(k)}={text(v)}" for k, v in value.items() if text(v))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    words = str(value)
    return words if words.isprintable() else words.encode("unicode_escape").decode("ascii")


def moment(seconds: float | None) -> str:
    """A time for people, in UTC; empty for None."""
    from bridge.errors import clock

    return "" if seconds is None else clock(seconds)


def _draw(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Where no word has to be broken as a table, and else a block of lines for each row."""
    width = shutil.get_terminal_size().columns
    columns = list(zip(headers, *rows, strict=True))
    needed = [max(len(word) for cell in column for word in cell.split()) for column in columns]
    room = width - sum(needed) - _BETWEEN * len(columns)
    if room < 0:
        _draw_blocks(headers, rows, width)
        return
    widths = []
    for column, least in zip(columns, needed, strict=True):
        widths.append(min(max(map(len, column)), least + room))
        room -= widths[-1] - least
    _draw_table(headers, rows, widths)


def _draw_blocks(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> None:
    if not rows:
        click.echo("\n".join(_wrapped("  ".join(headers), width)))
    edge = max(map(len, headers)) + 2
    for number, row in enumerate(rows):
        if number:
            click.echo()
        for header, cell in zip(headers, row, strict=True):
            first, *others = _wrapped(cell, width - edge) or [""]
            if first:
                click.echo(f"{header.lower().ljust(edge)}{first}")
            for line in others:
                click.echo(" " * edge + line)


def _wrapped(words: str, width: int) -> list[str]:
    return textwrap.wrap(words, max(width, _CELL_MIN), break_on_hyphens=False)


def _draw_table(headers: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for header, width in zip(headers, widths, strict=True):
        table.add_column(header, overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=sum(widths) + _BETWEEN * len(widths), height=1).print(table)
