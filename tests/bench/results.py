"""Pure: everything that was measured, and medians, spreads and ratios of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One measurement: `values` by name, for example rate and cpu."""

    round: int
    load: str
    system: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """A measurement that gave no figure, with the reason; `final` when trying again would be no use."""

    load: str
    system: str
    reason: str
    final: bool = False


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float

    @property
    def relative(self) -> float:
        """Half the distance between the extremes, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


@dataclass
class Results:
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def values(self, key: str, system: str) -> list[float]:
        """All measurements of `LOAD/VALUE` for a system, in the order of the rounds."""
        load, _, name = key.rpartition("/")
        return [
            value
            for sample in self.samples
            if sample.load == load
            and sample.system == system
            and (value := with_share(sample.values).get(name)) is not None
        ]

    def spread(self, key: str, system: str) -> Spread | None:
        return spread(self.values(key, system))

    def median(self, key: str, system: str) -> float | None:
        found = self.spread(key, system)
        return found.median if found is not None else None

    def errors(self) -> dict[str, int]:
        """Failed requests by system, where there were any."""
        counts: dict[str, int] = {}
        for sample in self.samples:
            failed = int(sample.values.get("errors", 0))
            if failed:
                counts[sample.system] = counts.get(sample.system, 0) + failed
        return counts


def spread(values: Sequence[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def with_share(values: Mapping[str, float]) -> Mapping[str, float]:
    """Adds `share`: the gateway's processor time against the mean of the two agents', where all three are known."""
    agents = values.get("cpu_near", 0.0) + values.get("cpu_far", 0.0)
    if "cpu_gateway" not in values or not agents:
        return values
    return {**values, "share": values["cpu_gateway"] / (agents / 2)}
