"""I/O: a run as a table, as JSON, as pictures and as the generated part of docs/performance.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.goals import Verdict, judge
from tests.bench.metrics import Metric
from tests.bench.plots import Point, bar_plot, latency_plot
from tests.bench.run import Run

BEGIN, END = "<!-- make bench writes from here -->", "<!-- to here -->"
_BARS = (
    "requests/32/rate", "requests/32/cpu", "connections/rate", "connections/cpu", "bulk/down/1/rate",
    "bulk/down/1/cpu", "bulk/up/4/rate", "bulk/up/4/cpu", "idle/2000/bytes", "start/seconds",
)  # fmt: skip


class Report:
    """Everything that is said about one run."""

    def __init__(self, run: Run, metrics: Sequence[Metric]) -> None:
        self._run = run
        self._metrics = [m for m in metrics if any(run.results.values(m.key, system) for system in run.titles)]
        self.verdicts = {metric.key: judge(run.results, metric, run.peers) for metric in self._metrics}

    # --- the table ------------------------------------------------------------------------------------------------

    def print_table(self) -> None:
        """To standard output; wide enough for every column when that is no terminal."""
        console = Console(width=None if Console().is_terminal else 200)
        table = Table(title="meshbridge side by side", title_justify="left")
        for number, head in enumerate(self._head()):
            table.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
        for cells in self._rows():
            style = {"met": "green", "MISSED": "red"}.get(cells[-1])
            table.add_row(*cells[:-1], f"[{style}]{cells[-1]}[/]" if style else cells[-1])
        console.print(table)
        for text in self._notes():
            console.print(text, markup=False, highlight=False)

    def _head(self) -> list[str]:
        return ["", *self._run.titles, "bridge : best peer", "goal", ""]

    def _rows(self) -> list[list[str]]:
        return [self._row(metric, self.verdicts[metric.key]) for metric in self._metrics]

    def _row(self, metric: Metric, verdict: Verdict) -> list[str]:
        cells = [metric.title]
        for system in self._run.titles:
            found = self._run.results.spread(metric.key, system)
            cells.append("-" if found is None else f"{metric.shown(found.median)} ±{found.relative:.0%}")
        cells.append(f"{verdict.ratio:.2f} × {verdict.peer}" if verdict.ratio is not None else "-")
        cells.append(verdict.goal.shown(metric) if verdict.goal is not None else "")
        cells.append({True: "met", False: "MISSED", None: "" if verdict.goal is None else "-"}[verdict.met])
        return cells

    def _notes(self) -> list[str]:
        run = self._run
        titles = "; ".join(f"{name}: {title}" for name, title in run.titles.items())
        judged = [verdict.met for verdict in self.verdicts.values() if verdict.met is not None]
        return [
            f"Goals met: {sum(judged)} of {len(judged)}.",
            f"Medians; ± is half the distance between the best and the worst round. {titles}.",
            "; ".join(f"{name}: {value}" for name, value in run.about.items()) + ".",
            *run.left_out,
            *(f"no figure for {f.load} of {f.system}: {f.reason.splitlines()[0]}" for f in run.results.failures),
            *(f"{system}: {count} requests failed" for system, count in run.results.errors().items()),
        ]

    # --- files ----------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """result.json and the pictures."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.json").write_text(self._json(), encoding="utf-8")
        for name, picture in self._pictures().items():
            (folder / name).write_text(picture, encoding="utf-8")

    def publish(self, page: Path) -> None:
        """Replace the marked part of a page; the pictures go beside it. Raises ValueError without the marks."""
        page.write_text(with_section(page.read_text(encoding="utf-8"), self._markdown()), encoding="utf-8")
        for name, picture in self._pictures().items():
            (page.parent / name).write_text(picture, encoding="utf-8")

    def _json(self) -> str:
        run = self._run
        medians = {
            metric.key: {
                system: dataclasses.asdict(found)
                for system in run.titles
                if (found := run.results.spread(metric.key, system)) is not None
            }
            for metric in self._metrics
        }
        everything = {
            "machine": run.about,
            "systems": run.titles,
            "left_out": run.left_out,
            "medians": medians,
            "verdicts": {
                metric.key: {
                    "best_peer": verdict.peer,
                    "ratio": verdict.ratio,
                    "goal": verdict.goal.shown(metric) if verdict.goal else None,
                    "met": verdict.met,
                }
                for metric in self._metrics
                for verdict in (self.verdicts[metric.key],)
            },
            "failures": [dataclasses.asdict(failure) for failure in run.results.failures],
            "rounds": [dataclasses.asdict(sample) for sample in run.results.samples],
        }
        return json.dumps(everything, indent=1, ensure_ascii=False) + "\n"

    def _markdown(self) -> str:
        def cell(words: str) -> str:
            return words.replace("|", "\\|")

        lines = ["| " + " | ".join(map(cell, self._head())) + " |", "|---" * len(self._head()) + "|"]
        lines += ["| " + " | ".join(map(cell, row)) + " |" for row in self._rows()]
        lines += ["", *(f"- {note}" for note in self._notes()), ""]
        lines += [f"![{name.removesuffix('.svg')}]({name})" for name in self._pictures()]
        return "\n".join(lines)

    # --- pictures -------------------------------------------------------------------------------------------------

    def _pictures(self) -> dict[str, str]:
        pictures = {}
        curves = {
            "p50 against load": self._curves("p50"),
            "p99 against load": self._curves("p99"),
        }
        if all(curves.values()):
            pictures["bench-latency.svg"] = latency_plot(curves, self._run.titles)
        bars = self._bars()
        if bars:
            pictures["bench-bars.svg"] = bar_plot(bars)
        return pictures

    def _curves(self, value: str) -> dict[str, list[Point]]:
        numbers = sorted(
            int(m.key.split("/")[1]) for m in self._metrics if m.key.endswith(f"/{value}") and m.key[0] == "r"
        )
        curves: dict[str, list[Point]] = {}
        for system in (name for name in self._run.titles if name != "none"):
            for number in numbers:
                rate = self._run.results.median(f"requests/{number}/rate", system)
                seconds = self._run.results.median(f"requests/{number}/{value}", system)
                if rate is not None and seconds is not None:
                    curves.setdefault(system, []).append(Point(number, rate, seconds))
        return curves

    def _bars(self) -> list[tuple[Metric, dict[str, float]]]:
        rows = []
        for metric in self._metrics:
            if metric.key in _BARS:
                values = {s: self._run.results.median(metric.key, s) for s in self._run.titles if s != "none"}
                known = {system: value for system, value in values.items() if value is not None}
                if known:
                    rows.append((metric, known))
        return rows


def with_section(page: str, section: str, first: str = BEGIN, last: str = END) -> str:
    """The page with what stands between the two marks replaced. Raises ValueError when they are not there."""
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"no {first} ... {last}")
    return f"{before}{first}\n\n{section}\n\n{last}{after}"
