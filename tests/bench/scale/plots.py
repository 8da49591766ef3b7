"""Pure: pictures of a run as SVG: how soon a change is in force at how many hosts, and what grows with the estate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tests.bench.metrics import Metric
from tests.bench.plots import document, latency_ticks, line, text

_WIDTH, _HEIGHT, _LEFT, _TOP, _STRIDE = 420, 260, 90, 46, 540
_INKS = ("#0072b2", "#e69f00", "#009e73", "#aa4499", "#56b4e9", "#444444")
_FAINT = "#6a6a6a"


def spread_plot(times: Mapping[str, Sequence[float]], goal: float) -> str:
    """For each kind of change, by its title: the share of hosts (upwards) at which it was in force after a time (to
    the right, logarithmic)."""
    known = {title: sorted(values) for title, values in times.items() if values}
    ticks = latency_ticks(min(v[0] for v in known.values()), max(goal, *(v[-1] for v in known.values())))
    low, high = math.log(ticks[0]), math.log(ticks[-1])

    def x(seconds: float) -> float:
        return _LEFT + 2 * _WIDTH * (math.log(max(seconds, ticks[0])) - low) / (high - low)

    def y(share: float) -> float:
        return _TOP + _HEIGHT * (1 - share)

    shapes = [
        text(_LEFT, _TOP - 14, "share of hosts at which a change is in force, by time since it was made", size=14)
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        shapes += [line(_LEFT, y(share), _LEFT + 2 * _WIDTH, y(share))]
        shapes.append(text(_LEFT - 8, y(share) + 4, f"{share:.0%}", fill=_FAINT, anchor="end"))
    for seconds in ticks:
        words = Metric("", "", "lower", "seconds").shown(seconds)
        shapes.append(text(x(seconds), y(0) + 18, words, fill=_FAINT, anchor="middle"))
    shapes.append(line(x(goal), y(0), x(goal), y(1), "#cc3311"))
    shapes.append(text(x(goal) + 4, y(0) - 6, "goal for 99 %", size=11, fill="#cc3311"))
    for number, (title, values) in enumerate(known.items()):
        ink = _INKS[number % len(_INKS)]
        steps = [(value, (rank + 1) / len(values)) for rank, value in enumerate(values)]
        thinned = steps[:: max(1, len(steps) // 400)] + steps[-1:]
        path = " ".join(f"{x(value):.1f},{y(share):.1f}" for value, share in thinned)
        shapes.append(f"<polyline points='{path}' fill='none' stroke='{ink}' stroke-width='2'/>")
        shapes += _legend(number, title, ink)
    return document(_LEFT + 2 * _WIDTH + 40, _TOP + _HEIGHT + 50 + 20 * math.ceil(len(known) / 2), shapes)


def curve_plot(panels: Sequence[tuple[Metric, Mapping[str, Sequence[tuple[int, float]]]]]) -> str:
    """For each metric a panel: its value against the number of hosts, both logarithmic, a line for each kind."""
    shapes: list[str] = []
    kinds = list(dict.fromkeys(kind for _, lines in panels for kind in lines))
    for number, (metric, lines) in enumerate(panels):
        shapes += _panel(_LEFT + _STRIDE * (number % 2), _TOP + (_HEIGHT + 90) * (number // 2), metric, lines)
    bottom = (_HEIGHT + 90) * math.ceil(len(panels) / 2)
    for number, kind in enumerate(kinds):
        shapes += _legend(number, kind, _INKS[number % len(_INKS)], top=bottom)
    return document(_LEFT + 2 * _STRIDE - 60, bottom + 40, shapes)


def _panel(left: float, top: float, metric: Metric, lines: Mapping[str, Sequence[tuple[int, float]]]) -> list[str]:
    points = [point for values in lines.values() for point in values]
    hosts = sorted({count for count, _ in points})
    ticks = latency_ticks(min(v for _, v in points if v > 0), max(v for _, v in points))
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    first, span = math.log(hosts[0]), max(math.log(hosts[-1]) - math.log(hosts[0]), 1e-9)
    shapes = [text(left, top - 14, metric.title, size=14)]
    for tick in ticks:
        height = top + _HEIGHT * (1 - (math.log(tick) - low) / (high - low))
        shapes.append(line(left, height, left + _WIDTH, height))
        shapes.append(text(left - 8, height + 4, metric.shown(tick), size=11, fill=_FAINT, anchor="end"))
    for count in hosts:
        place = left + _WIDTH * (math.log(count) - first) / span
        shapes.append(text(place, top + _HEIGHT + 18, f"{count:,} hosts", size=11, fill=_FAINT, anchor="middle"))
    for number, values in enumerate(lines.values()):
        ink = _INKS[number % len(_INKS)]
        places = [
            (left + _WIDTH * (math.log(count) - first) / span, max(value, ticks[0])) for count, value in sorted(values)
        ]
        dots = [(x, top + _HEIGHT * (1 - (math.log(value) - low) / (high - low))) for x, value in places]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        shapes.append(f"<polyline points='{path}' fill='none' stroke='{ink}' stroke-width='2'/>")
        shapes += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' fill='{ink}'/>" for x, y in dots]
    return shapes


def _legend(number: int, words: str, ink: str, top: float = _TOP + _HEIGHT + 30) -> list[str]:
    x, y = _LEFT + 440 * (number % 2), top + 20 * (number // 2)
    return [f"<rect x='{x}' y='{y}' width='12' height='12' fill='{ink}'/>", text(x + 18, y + 11, words)]
