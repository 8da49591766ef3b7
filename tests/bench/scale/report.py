"""I/O: a run of the scale benchmark as a table, as JSON, as pictures and as a marked part of docs/performance.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.metrics import Metric
from tests.bench.report import with_section
from tests.bench.scale.changes import GOAL, TITLES
from tests.bench.scale.figures import Figure, Grid, Section
from tests.bench.scale.plots import curve_plot, spread_plot

BEGIN, END = "<!-- make bench-scale writes from here -->", "<!-- to here: bench-scale -->"
PANELS = ("told", "change", "supervisor", "back_cpu")
_VERDICT = {True: "met", False: "MISSED", None: ""}


class Report:
    """Everything that is said about one run."""

    def __init__(self, sections: Sequence[Section], about: Mapping[str, str]) -> None:
        self._sections = sections
        self._about = about

    def print_table(self) -> None:
        """To standard output."""
        console = Console(width=None if Console().is_terminal else 120)
        table = Table(title="one gateway, many hosts", title_justify="left")
        table.add_column("")
        for head in ("value", "goal", ""):
            table.add_column(head, justify="right")
        for section in self._sections:
            if section.grid is not None:
                continue
            table.add_row(f"[bold]{section.title}[/]", end_section=False)
            for figure in section.figures:
                cells = _cells(figure)
                style = {"met": "green", "MISSED": "red"}.get(cells[-1])
                table.add_row(f"  {cells[0]}", *cells[1:-1], f"[{style}]{cells[-1]}[/]" if style else cells[-1])
        console.print(table)
        for section in self._sections:
            if section.grid is not None:
                console.print(_grid_table(section.title, section.grid))
        for text in self._notes():
            console.print(text, markup=False, highlight=False)

    def _notes(self) -> list[str]:
        judged = [figure.met for section in self._sections for figure in section.figures if figure.met is not None]
        notes = [note for section in self._sections for note in section.notes]
        return [
            f"Goals met: {sum(judged)} of {len(judged)}.",
            "; ".join(f"{name}: {value}" for name, value in self._about.items()) + ".",
            *notes,
        ]

    def write(self, folder: Path) -> None:
        """result.json and the pictures."""
        folder.mkdir(parents=True, exist_ok=True)
        everything = {
            "machine": dict(self._about),
            "sections": [dataclasses.asdict(section) for section in self._sections],
        }
        (folder / "result.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
        for name, picture in self._pictures().items():
            (folder / name).write_text(picture, encoding="utf-8")

    def publish(self, page: Path) -> bool:
        """Replace the marked part of a page, if it has one."""
        text = page.read_text(encoding="utf-8")
        if BEGIN not in text:
            return False
        page.write_text(with_section(text, self._markdown(), BEGIN, END), encoding="utf-8")
        for name, picture in self._pictures().items():
            (page.parent / name).write_text(picture, encoding="utf-8")
        return True

    def _markdown(self) -> str:
        lines = []
        for section in self._sections:
            lines += [f"**{section.title}**", ""]
            if section.grid is not None:
                lines += _markdown_of(["", *section.grid.heads], _grid_rows(section.grid))
            else:
                lines += _markdown_of(["", "value", "goal", ""], [_cells(figure) for figure in section.figures])
            lines.append("")
        lines += [f"- {note}" for note in self._notes()]
        lines += ["", *(f"![{name.removesuffix('.svg')}]({name})" for name in self._pictures())]
        return "\n".join(lines)

    def _pictures(self) -> dict[str, str]:
        pictures = {}
        grids = {s.title: s.grid for s in self._sections if s.grid is not None and "hosts" in s.raw}
        if grids:
            pictures["bench-scale-curve.svg"] = curve_plot([_panel(key, grids) for key in PANELS])
        times = {
            title: [moment for one in section.raw[key] for moment in one["own"]]
            for section in self._sections
            for key, title in TITLES.items()
            if key in section.raw
        }
        if any(times.values()):
            pictures["bench-scale-changes.svg"] = spread_plot(times, GOAL)
        return pictures


def _panel(key: str, grids: Mapping[str, Grid]) -> tuple[Metric, dict[str, list[tuple[int, float]]]]:
    """One figure of every curve against the number of hosts."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for title, grid in grids.items():
        metric, values = next(row for row in grid.rows if row[0].key == key)
        hosts = [int(head.split()[0].replace(",", "")) for head in grid.heads]
        lines[title] = list(zip(hosts, values, strict=True))
    return metric, lines


def _grid_rows(grid: Grid) -> list[list[str]]:
    return [[metric.title, *map(metric.shown, values)] for metric, values in grid.rows]


def _grid_table(title: str, grid: Grid) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for head in grid.heads:
        table.add_column(head, justify="right")
    for row in _grid_rows(grid):
        table.add_row(*row)
    return table


def _markdown_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _cells(figure: Figure) -> list[str]:
    metric = figure.metric
    goal = "" if figure.goal is None else f"≤ {metric.shown(figure.goal)}"
    return [figure.title, metric.shown(figure.value), goal, _VERDICT[figure.met]]
