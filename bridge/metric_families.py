"""Pure: metrics whose number of series is bounded, whatever the world calls itself (C43).

A label is either closed (a fixed set of values) or a name of the signed estate. A value that is neither, or that comes
after METRIC_SERIES_MAX label sets, is counted as `other`. Values are plain dictionaries behind a prometheus-client
collector: counters of other processes can be added in, and nothing is registered globally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from bridge import limits
from bridge.counters import OTHER

PREFIX = "meshbridge_"

Closed = Mapping[str, frozenset[str]]
IsKnown = Callable[[str], bool]


class Family:
    """One metric with its label sets.

    Args:
        name: without the prefix, and for counters without `_total`.
        help: one sentence for the person who reads the page.
        closed: labels with their only values.
        names: labels whose values are names of the estate; they come before the closed ones in a label set.
        is_known: whether the estate has such a name.
    """

    def __init__(
        self,
        name: str,
        help: str,
        *,
        closed: Closed | None = None,
        names: Sequence[str] = (),
        is_known: IsKnown = lambda name: False,
    ) -> None:
        self.name = PREFIX + name
        self.help = help
        self._closed = dict(closed or {})
        self._names = tuple(names)
        self._is_known = is_known
        self.labels = (*self._names, *self._closed)
        self.values: dict[tuple[str, ...], float] = {}

    def series(self, values: Sequence[str]) -> tuple[str, ...]:
        """The label set under which `values` is counted."""
        split = len(self._names)
        closed = tuple(
            value if value in allowed else OTHER
            for value, allowed in zip(values[split:], self._closed.values(), strict=True)
        )
        found = (*(value if self._is_known(value) else OTHER for value in values[:split]), *closed)
        if found in self.values or len(self.values) < limits.METRIC_SERIES_MAX:
            return found
        return (*(OTHER for _ in self._names), *closed)

    def add(self, amount: float, *values: str) -> None:
        found = self.series(values)
        self.values[found] = self.values.get(found, 0.0) + amount

    def set(self, amount: float, *values: str) -> None:
        self.values[self.series(values)] = amount

    def forget_unknown(self) -> None:
        """Drops the series of names that left the estate, so that they do not use up the bound."""
        split = len(self._names)
        self.values = {
            labels: value
            for labels, value in self.values.items()
            if all(name == OTHER or self._is_known(name) for name in labels[:split])
        }


class Counter(Family):
    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in sorted(self.values.items()):
            family.add_metric(labels, value)
        yield family


class Gauge(Family):
    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in sorted(self.values.items()):
            family.add_metric(labels, value)
        yield family

    def replace(self, amounts: Iterable[tuple[tuple[str, ...], float]]) -> None:
        """Sets the whole gauge; series not named are gone, amounts of names beyond the bound are summed."""
        self.values = {}
        for labels, amount in amounts:
            self.add(amount, *labels)


class Histogram:
    """Durations in fixed buckets, without labels or with one whose values are all known."""

    def __init__(
        self, name: str, help: str, bounds: Sequence[float], *, label: str | None = None, values: Sequence[str] = ()
    ) -> None:
        self.name = PREFIX + name
        self.help = help
        self.bounds = tuple(bounds)
        self._labels = (label,) if label is not None else ()
        sets: list[tuple[str, ...]] = [(value,) for value in values] if label is not None else [()]
        self._series = {labels: _Series(len(self.bounds) + 1) for labels in sets}

    def add(self, counts: Sequence[int], total: float, *value: str) -> None:
        """Adds what another process counted in the same buckets (`counters.bucket_of`)."""
        series = self._series[value]
        for index, count in enumerate(counts[: len(series.counts)]):
            series.counts[index] += count
        series.sum += total

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self.name, self.help, labels=self._labels)
        for value, series in self._series.items():
            running = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, self.bounds), "+Inf"), series.counts, strict=True):
                running += count
                buckets.append((bound, float(running)))
            family.add_metric(value, buckets, series.sum)
        yield family


class _Series:
    """One label set of a histogram."""

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
