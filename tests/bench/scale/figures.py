"""Pure: what a run of the scale benchmark found, with the goal where there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.metrics import Metric, Unit


@dataclass(frozen=True)
class Figure:
    """One line of the table. Everything measured here is better when it is lower."""

    key: str
    title: str
    unit: Unit
    value: float
    goal: float | None = None

    @property
    def metric(self) -> Metric:
        return Metric(self.key, self.title, "lower", self.unit)

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal


@dataclass(frozen=True)
class Grid:
    """Figures that are compared with each other, as a table of its own: a row is a figure, a column an estate."""

    heads: list[str]
    rows: list[tuple[Metric, list[float]]]


@dataclass
class Section:
    """One part of the benchmark. With a `grid` that is shown in place of the figures."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    grid: Grid | None = None

    def add(self, key: str, title: str, unit: Unit, value: float, goal: float | None = None) -> None:
        self.figures.append(Figure(key, title, unit, value, goal))

    def value(self, key: str) -> float | None:
        return next((figure.value for figure in self.figures if figure.key == key), None)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed; nan of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
