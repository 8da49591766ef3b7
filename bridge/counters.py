"""Pure: what a process counts of its own work, as plain numbers, and the report in which it hands them on.

A worker keeps a Tally and sends what it takes from it; its supervisor adds the reports up (see `metrics`). Nothing
here knows Prometheus, so that workers need not load it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import msgspec

from bridge import limits
from bridge.delays import Buckets, DelayCounts, Delays, Seconds
from bridge.flows import Count, Result

Action = Literal["allow", "deny", "observe"]
Handshake = Literal["ok", "failed", "refused", "timeout"]
Direction = Literal["in", "out"]
InstanceState = Literal["passing", "failing", "unknown", "ejected", "draining"]

Closed = Literal["unknown", "not-allowed", "certificate", "timeout", "full"]
"""Why a connection to a published port was closed before it was anybody's."""

OTHER = "other"
"""The name under which names beyond a bound are counted."""
CONNECT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ServiceCounts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One service in one report: what happened since the last one, and how many streams are open now."""

    results: dict[Result, Count] = {}
    bytes_in: Count = 0
    bytes_out: Count = 0
    active: Count = 0


class CounterDeltas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker sends: differences since its last report, except where it says `now`.

    Args:
        services: by service name; a service with open streams is named in every report.
        tunnels: open now, by `direct` or `gateway`.
        preauth: connections that have not proved who they are, now.
        connect_counts, connect_sum: times from request to ACCEPT, counted in CONNECT_BOUNDS.
        lag: how late the worker's timers were.
        turns: how long the turns of its relay loop took.
        clients_closed: connections to published ports that were closed before they were anybody's, by reason.
        errors: exceptions that ended one connection, stream or task, and should not have happened.
    """

    services: dict[str, ServiceCounts] = {}
    tunnels: dict[Literal["direct", "gateway"], Count] = {}
    preauth: Count = 0
    decisions: dict[Action, Count] = {}
    handshakes: dict[Handshake, Count] = {}
    connect_counts: Buckets = ()
    connect_sum: Seconds = 0.0
    lag: DelayCounts = DelayCounts()
    turns: DelayCounts = DelayCounts()
    clients_closed: dict[Closed, Count] = {}
    errors: Count = 0


class Tally:
    """A worker's own counting: plain additions, cheap enough for the fast path. Not thread-safe."""

    def __init__(self) -> None:
        self.lag = Delays()
        self.errors = 0
        self._active: dict[str, int] = {}
        self._clear()

    def _clear(self) -> None:
        self._results: dict[str, dict[Result, int]] = {}
        self._bytes: dict[str, list[int]] = {}
        self._decisions: dict[Action, int] = {}
        self._handshakes: dict[Handshake, int] = {}
        self._clients_closed: dict[Closed, int] = {}
        self._connect = [0] * (len(CONNECT_BOUNDS) + 1)
        self._connect_sum = 0.0
        self.errors = 0

    def stream_opened(self, service: str, connect_seconds: float) -> None:
        self._active[service] = self._active.get(service, 0) + 1
        self._connect[bucket_of(CONNECT_BOUNDS, connect_seconds)] += 1
        self._connect_sum += max(connect_seconds, 0.0)

    def stream_closed(self, service: str, result: Result) -> None:
        """Ends one that `stream_opened` began."""
        self._active[service] = self._active.get(service, 0) - 1
        self.stream_not_opened(service, result)

    def stream_not_opened(self, service: str, result: Result) -> None:
        """Counts the end of a stream that never opened: refused or failed."""
        if service not in self._results and len(self._results) >= limits.METRIC_SERIES_MAX:
            service = OTHER  # a peer may ask for names without end
        results = self._results.setdefault(service, {})
        results[result] = results.get(result, 0) + 1

    def moved(self, service: str, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Bytes towards the service and from it."""
        totals = self._bytes.setdefault(service, [0, 0])
        totals[0] += bytes_in
        totals[1] += bytes_out

    def decision(self, action: Action) -> None:
        self._decisions[action] = self._decisions.get(action, 0) + 1

    def handshake(self, result: Handshake) -> None:
        self._handshakes[result] = self._handshakes.get(result, 0) + 1

    def client_closed(self, why: Closed) -> None:
        self._clients_closed[why] = self._clients_closed.get(why, 0) + 1

    @property
    def has_news(self) -> bool:
        """Whether there is something to report that cannot wait for the next report there is anyway."""
        late = self.lag.longest > limits.LAG_WARNED
        counted = self._active or self._results or self._decisions or self._handshakes or self._clients_closed
        return bool(counted or self.errors or late)

    def take(
        self, *, direct_tunnels: int = 0, gateway_tunnels: int = 0, preauth: int = 0, turns: Delays | None = None
    ) -> CounterDeltas:
        """Everything since the last take, with what is open now; `turns` are those of the relay loop."""
        self._active = {service: count for service, count in self._active.items() if count > 0}
        services = {
            service: ServiceCounts(
                results=self._results.get(service, {}),
                bytes_in=self._bytes.get(service, (0, 0))[0],
                bytes_out=self._bytes.get(service, (0, 0))[1],
                active=self._active.get(service, 0),
            )
            for service in {*self._results, *self._bytes, *self._active}
        }
        taken = CounterDeltas(
            services=services,
            tunnels={"direct": direct_tunnels, "gateway": gateway_tunnels},
            preauth=preauth,
            decisions=self._decisions,
            handshakes=self._handshakes,
            connect_counts=tuple(self._connect),
            connect_sum=self._connect_sum,
            clients_closed=self._clients_closed,
            lag=self.lag.take(),
            turns=turns.take() if turns is not None else DelayCounts(),
            errors=self.errors,
        )
        self._clear()
        return taken


def bucket_of(bounds: Sequence[float], value: float) -> int:
    """The index of the bucket whose upper bound is the first not below `value`; the last one has no bound."""
    return bisect_left(bounds, value)
