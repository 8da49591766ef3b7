"""Pure: what a node tells its metrics. `live_metrics` keeps them; a node that serves no page has NoMetrics instead, and
never loads that module and the library behind it (1 MB in every node).

Neither ever raises for what it is told: a counter must not end a stream.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from bridge.counters import CounterDeltas, InstanceState
from bridge.delays import DelayCounts
from bridge.routing.governor import State


class Metrics(Protocol):
    """What the supervisor tells its metrics, live or not."""

    def absorb(self, deltas: CounterDeltas, *, source: str) -> None:
        """Adds a report. What is open `now` replaces what the same source (a worker's pid, say) said before."""

    def supervisor(self, lag: DelayCounts, errors: int) -> None:
        """Adds what the supervisor counted of itself since it last did."""

    def forget(self, source: str) -> None:
        """That worker has ended: nothing of it is open any more. What it counted stays."""

    def estate(self, *, services: Collection[str], number: int, as_of: float) -> None:
        """A snapshot is in force: its services, its authority number, and when it was known to be current (unix)."""

    def instances(self, counts: Mapping[tuple[str, InstanceState], int]) -> None:
        """How many instances each service has in each state; replaces what was said before."""

    def certificate_expires(self, at: float) -> None:
        """When our own certificate ends, unix seconds."""

    def outage_budget(self, ends: Mapping[str, float]) -> None:
        """When the first certificate of a node, the issuer's and the root's end, unix seconds, as far as known."""

    def flows_dropped(self, total: int) -> None:
        """Flow records lost since the start."""

    def limited(self, states: Iterable[tuple[str, State]], refused: Mapping[str, int]) -> None:
        """How each instance with a limit stands, with its service; replaces what was said before. And how many streams
        were refused since, by service."""

    def catalog(self, *, writes: int, entries: Mapping[str, int]) -> None:
        """Transactions on Consul's catalog since the last time; nodes and services of ours in it."""

    def render(self) -> bytes:
        """The page in Prometheus text format 0.0.4."""


class NoMetrics:
    """Counts nothing."""

    def absorb(self, deltas: CounterDeltas, *, source: str) -> None:
        pass

    def supervisor(self, lag: DelayCounts, errors: int) -> None:
        pass

    def forget(self, source: str) -> None:
        pass

    def estate(self, *, services: Collection[str], number: int, as_of: float) -> None:
        pass

    def instances(self, counts: Mapping[tuple[str, InstanceState], int]) -> None:
        pass

    def certificate_expires(self, at: float) -> None:
        pass

    def outage_budget(self, ends: Mapping[str, float]) -> None:
        pass

    def flows_dropped(self, total: int) -> None:
        pass

    def limited(self, states: Iterable[tuple[str, State]], refused: Mapping[str, int]) -> None:
        pass

    def catalog(self, *, writes: int, entries: Mapping[str, int]) -> None:
        pass

    def render(self) -> bytes:
        return b""
