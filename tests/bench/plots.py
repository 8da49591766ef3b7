"""Pure: pictures of a run as SVG text: latency against load, and bars. Plain shapes, no script, no font of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tests.bench.metrics import Metric, duration

COLOURS = {
    "bridge": "#0072b2",
    "bridge-gateway": "#56b4e9",
    "envoy": "#aa4499",
    "haproxy": "#e69f00",
    "nginx": "#009e73",
    "none": "#9a9a9a",
}
_INK, _FAINT, _GRID = "#222222", "#6a6a6a", "#e4e4e4"
_FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True)
class Point:
    """One system under one number of connections."""

    connections: int
    rate: float
    seconds: float


def colour(system: str) -> str:
    return COLOURS.get(system.partition(":")[0], "#444444")


def document(width: float, height: float, shapes: Sequence[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}'>"
    return "\n".join([head, f"<rect width='{width:.0f}' height='{height:.0f}' fill='#ffffff'/>", *shapes, "</svg>\n"])


def text(x: float, y: float, words: str, *, size: int = 12, fill: str = _INK, anchor: str = "start") -> str:
    where = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{fill}' text-anchor='{anchor}'"
    return f"<text {where} {_FONT}>{escape(words)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = _GRID) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{stroke}'/>"


# --- Latency against load --------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _STRIDE = 400, 320, 490


@dataclass(frozen=True)
class _Panel:
    """A plotting area: requests/s to the right, latency upwards on a logarithmic scale."""

    left: float
    top: float
    rate_max: float
    ticks: Sequence[float]

    def x(self, rate: float) -> float:
        return self.left + _WIDTH * rate / self.rate_max

    def y(self, seconds: float) -> float:
        low, high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        return self.top + _HEIGHT * (1 - (math.log(seconds) - low) / (high - low))

    def frame(self, title: str) -> list[str]:
        right, bottom = self.left + _WIDTH, self.top + _HEIGHT
        shapes = [text(self.left, self.top - 14, title, size=14)]
        for seconds in self.ticks:
            shapes.append(line(self.left, self.y(seconds), right, self.y(seconds)))
            shapes.append(text(self.left - 6, self.y(seconds) + 4, duration(seconds), fill=_FAINT, anchor="end"))
        step = nice_step(self.rate_max / 5)
        for number in range(int(self.rate_max / step) + 1):
            x = self.x(number * step)
            shapes.append(line(x, bottom, x, bottom + 4, _FAINT))
            shapes.append(text(x, bottom + 18, f"{number * step:,.0f}", fill=_FAINT, anchor="middle"))
        shapes.append(line(self.left, bottom, right, bottom, _FAINT))
        shapes.append(text(right, bottom + 36, "requests/s", fill=_FAINT, anchor="end"))
        return shapes

    def curve(self, points: Sequence[Point], stroke: str, kinds: Sequence[int]) -> list[str]:
        places = [(self.x(point.rate), self.y(point.seconds)) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        shapes = [f"<polyline points='{path}' fill='none' stroke='{stroke}' stroke-width='2'/>"]
        for point, (x, y) in zip(points, places, strict=True):
            shapes.append(marker(kinds.index(point.connections), x, y, stroke))
        return shapes


def marker(kind: int, x: float, y: float, fill: str) -> str:
    """A circle, a square, a triangle, a diamond, and so on again: one for each number of connections."""
    corners = (
        (),
        ((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
        ((0, -6), (5.5, 4.5), (-5.5, 4.5)),
        ((0, -6), (6, 0), (0, 6), (-6, 0)),
    )[kind % 4]
    if not corners:
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' fill='{fill}'/>"
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f"<polygon points='{path}' fill='{fill}'/>"


def latency_plot(curves: Mapping[str, Mapping[str, Sequence[Point]]], titles: Mapping[str, str]) -> str:
    """One panel for each of `curves` (by its title), in it one line for each system: its points are numbers of
    connections."""
    everything = [point for systems in curves.values() for points in systems.values() for point in points]
    kinds = sorted({point.connections for point in everything})
    ticks = latency_ticks(min(p.seconds for p in everything), max(p.seconds for p in everything))
    rate_max = 1.06 * max(point.rate for point in everything)
    shapes: list[str] = []
    for number, (title, systems) in enumerate(curves.items()):
        panel = _Panel(80 + _STRIDE * number, 46, rate_max, ticks)
        shapes += panel.frame(title)
        for system, points in systems.items():
            shapes += panel.curve(points, colour(system), kinds)
    width = 80 + _STRIDE * len(curves)
    names = sorted({system for systems in curves.values() for system in systems}, key=list(titles).index)
    for number, name in enumerate(names):
        x, y = 80 + 290 * (number % 3), 424 + 20 * (number // 3)
        shapes.append(f"<rect x='{x}' y='{y}' width='12' height='12' fill='{colour(name)}'/>")
        shapes.append(text(x + 18, y + 11, titles[name]))
    y = 440 + 20 * math.ceil(len(names) / 3)
    for number, connections in enumerate(kinds):
        shapes.append(marker(number, 86 + 130 * number, y - 4, _FAINT))
        words = f"{connections} connection{'s' if connections > 1 else ''}"
        shapes.append(text(98 + 130 * number, y, words, fill=_FAINT))
    words = "further down and to the right is better"
    shapes.append(text(98 + 130 * len(kinds), y, words, fill=_FAINT))
    return document(width, y + 16, shapes)


def latency_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last one not above `low` to the first one not below `high`."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    steps = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    first = max(index for index, step in enumerate(steps) if step <= low * 1.0001)
    last = min(index for index, step in enumerate(steps) if step >= high * 0.9999)
    return steps[first : max(last, first + 1) + 1]


def nice_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


# --- Bars ------------------------------------------------------------------------------------------------------------

_COLUMN, _ROW, _LABEL = 460, 20, 110


def bar_plot(rows: Sequence[tuple[Metric, Mapping[str, float]]]) -> str:
    """A small chart for each metric, two in a line: one bar for each system, with its value."""
    shapes: list[str] = []
    tallest = max(len(values) for _, values in rows)
    height = 40 + _ROW * tallest
    for number, (metric, values) in enumerate(rows):
        left, top = 16 + _COLUMN * (number % 2), 16 + height * (number // 2)
        shapes.append(text(left, top + 12, f"{metric.title} ({metric.better} is better)", size=13))
        largest = max(values.values())
        for index, (system, value) in enumerate(values.items()):
            y = top + 24 + _ROW * index
            width = (_COLUMN - _LABEL - 110) * value / largest if largest > 0 else 0
            shapes.append(text(left + _LABEL - 8, y + 11, system, size=11, fill=_FAINT, anchor="end"))
            bar = f"x='{left + _LABEL}' y='{y}' width='{max(width, 1):.1f}' height='{_ROW - 6}'"
            shapes.append(f"<rect {bar} fill='{colour(system)}'/>")
            shapes.append(text(left + _LABEL + max(width, 1) + 6, y + 11, metric.shown(value), size=11))
    return document(16 + 2 * _COLUMN, 16 + height * math.ceil(len(rows) / 2), shapes)
