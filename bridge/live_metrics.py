"""Pure: the metrics page. The supervisor absorbs what its processes counted (see `counters`) and knows the estate.

A node that serves the page imports this when it starts; the others have `metrics.NoMetrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from bridge.counters import CONNECT_BOUNDS, CounterDeltas, InstanceState
from bridge.delays import BOUNDS, DelayCounts
from bridge.flows import RESULTS
from bridge.metric_families import Counter, Gauge, Histogram
from bridge.routing.governor import State

_PROCESSES = ("supervisor", "worker")


class LiveMetrics:
    """Metrics with a registry of their own.

    Args:
        version: of the program, for build_info.
        now: unix seconds, for ages.
    """

    def __init__(self, *, version: str, now: Callable[[], float]) -> None:
        self._now = now
        self._services: frozenset[str] = frozenset()
        self._as_of: float | None = None
        self._open_now: dict[str, CounterDeltas] = {}
        self._declare(self._services_known)
        self._build.set(1, version)
        for process in _PROCESSES:
            self._lag_max.set(0, process)
            self._errors.add(0, process)
        self.registry = CollectorRegistry()
        for family in self._families:
            self.registry.register(family)

    def _services_known(self, name: str) -> bool:
        return name in self._services

    def _declare(self, known: Callable[[str], bool]) -> None:
        def values(*allowed: str) -> frozenset[str]:
            return frozenset(allowed)

        service = ("service",)
        self._streams = Counter(
            "streams", "Streams by how they ended.", names=service, closed={"result": values(*RESULTS)}, is_known=known
        )
        self._bytes = Counter(
            "bytes",
            "Payload bytes: in is towards the service.",
            names=service,
            closed={"direction": values("in", "out")},
            is_known=known,
        )
        self._active = Gauge("streams_active", "Streams open now.", names=service, is_known=known)
        self._instances = Gauge(
            "instances",
            "Instances by state.",
            names=service,
            closed={"state": values("passing", "failing", "unknown", "ejected", "draining")},
            is_known=known,
        )
        self._limited = Gauge(
            "limited_streams",
            "Streams to instances with a limit: open, waiting for a slot, and how many may be open now.",
            names=service,
            closed={"state": values("open", "waiting", "allowed")},
            is_known=known,
        )
        self._busy = Counter(
            "busy_refusals", "Streams refused because an instance had all that it takes.", names=service, is_known=known
        )
        self._tunnels = Gauge("tunnels", "Tunnels open now.", closed={"kind": values("direct", "gateway")})
        self._preauth = Gauge("preauth_connections", "Connections that have not proved who they are yet.")
        self._decisions = Counter(
            "policy_decisions", "Policy decisions.", closed={"action": values("allow", "deny", "observe")}
        )
        self._handshakes = Counter(
            "handshakes", "Tunnel handshakes.", closed={"result": values("ok", "failed", "refused", "timeout")}
        )
        self._clients_closed = Counter(
            "published_closed",
            "Connections to published ports that were closed before they were anybody's.",
            closed={"reason": values("unknown", "not-allowed", "certificate", "timeout", "full")},
        )
        self._connect = Histogram("connect_duration_seconds", "From request to accepted stream.", CONNECT_BOUNDS)
        self._lag = Histogram(
            "loop_lag_seconds", "How late timers were, by process.", BOUNDS, label="process", values=_PROCESSES
        )
        self._lag_max = Gauge(
            "loop_lag_max_seconds",
            "The longest loop lag since the page was last read.",
            closed={"process": values(*_PROCESSES)},
        )
        self._turns = Histogram("loop_turn_seconds", "How long turns of the workers' relay loops took.", BOUNDS)
        self._errors = Counter(
            "internal_errors",
            "Errors of our own, each of which ended one connection, stream or task.",
            closed={"process": values(*_PROCESSES)},
        )
        self._expiry = Gauge("certificate_expiry_timestamp_seconds", "When this node's certificate ends.")
        self._budget = Gauge(
            "outage_budget_seconds",
            "Until the first certificate of a node ends, and those above them.",
            closed={"certificate": values("node", "issuer", "root")},
        )
        self._age = Gauge("snapshot_age_seconds", "Since the snapshot in force was known to be current.")
        self._number = Gauge("snapshot_number", "Number of the last authority entry in force.")
        self._dropped = Counter("flow_records_dropped", "Flow records lost to a full disk or a flood.")
        self._catalog_writes = Counter("catalog_writes", "Transactions on Consul's catalog.")
        self._catalog_entries = Gauge(
            "catalog_entries", "Entries of ours in Consul's catalog.", closed={"kind": values("node", "service")}
        )
        self._build = Gauge("build_info", "Always 1.", names=("version",), is_known=lambda name: True)
        self._by_service = (self._streams, self._bytes, self._busy)
        self._families = tuple(f for f in vars(self).values() if isinstance(f, Counter | Gauge | Histogram))

    def absorb(self, deltas: CounterDeltas, *, source: str) -> None:
        for service, counts in deltas.services.items():
            for result, count in counts.results.items():
                self._streams.add(count, service, result)
            if counts.bytes_in or counts.bytes_out:
                self._bytes.add(counts.bytes_in, service, "in")
                self._bytes.add(counts.bytes_out, service, "out")
        for action, count in deltas.decisions.items():
            self._decisions.add(count, action)
        for handshake, count in deltas.handshakes.items():
            self._handshakes.add(count, handshake)
        for why, count in deltas.clients_closed.items():
            self._clients_closed.add(count, why)
        self._connect.add(deltas.connect_counts, deltas.connect_sum)
        self._turns.add(deltas.turns.counts, deltas.turns.sum)
        self._itself("worker", deltas.lag, deltas.errors)
        self._open_now[source] = deltas

    def supervisor(self, lag: DelayCounts, errors: int) -> None:
        self._itself("supervisor", lag, errors)

    def _itself(self, process: str, lag: DelayCounts, errors: int) -> None:
        self._lag.add(lag.counts, lag.sum, process)
        self._lag_max.set(max(lag.longest, self._lag_max.values[(process,)]), process)
        self._errors.add(errors, process)

    def forget(self, source: str) -> None:
        self._open_now.pop(source, None)

    def estate(self, *, services: Collection[str], number: int, as_of: float) -> None:
        self._number.set(number)
        self._as_of = as_of
        if services != self._services:
            self._services = frozenset(services)
            for family in self._by_service:
                family.forget_unknown()

    def instances(self, counts: Mapping[tuple[str, InstanceState], int]) -> None:
        self._instances.replace(counts.items())

    def certificate_expires(self, at: float) -> None:
        self._expiry.set(at)

    def outage_budget(self, ends: Mapping[str, float]) -> None:
        now = self._now()
        self._budget.replace(((kind,), max(0.0, at - now)) for kind, at in ends.items())

    def flows_dropped(self, total: int) -> None:
        self._dropped.set(total)

    def limited(self, states: Iterable[tuple[str, State]], refused: Mapping[str, int]) -> None:
        sums: dict[tuple[str, str], int] = {}
        for service, state in states:
            for word, number in (("open", state.open), ("waiting", state.waiting), ("allowed", state.now.streams)):
                if number is not None:
                    sums[service, word] = sums.get((service, word), 0) + number
        self._limited.replace(sums.items())
        for service, count in refused.items():
            self._busy.add(count, service)

    def catalog(self, *, writes: int, entries: Mapping[str, int]) -> None:
        self._catalog_writes.add(writes)
        self._catalog_entries.replace(((kind,), count) for kind, count in entries.items())

    def render(self) -> bytes:
        reports = self._open_now.values()
        active: dict[tuple[str, ...], float] = {}
        for report in reports:
            for service, counts in report.services.items():
                if counts.active:
                    active[(service,)] = active.get((service,), 0.0) + counts.active
        self._active.replace(active.items())
        for kind in ("direct", "gateway"):
            self._tunnels.set(sum(report.tunnels.get(kind, 0) for report in reports), kind)
        self._preauth.set(sum(report.preauth for report in reports))
        if self._as_of is not None:
            self._age.set(max(0.0, self._now() - self._as_of))
        page = generate_latest(self.registry)
        for process in _PROCESSES:
            self._lag_max.set(0.0, process)
        return page
