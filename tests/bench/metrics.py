"""Pure: what the benchmark's figures are called, which way is better, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]
Unit = Literal["per second", "count", "seconds", "GB/s", "bytes", "share"]

_KB = 1e3


@dataclass(frozen=True)
class Metric:
    """One row: `key` is LOAD/VALUE as the loads name them."""

    key: str
    title: str
    better: Better
    unit: Unit

    def shown(self, value: float) -> str:
        match self.unit:
            case "per second" | "count":
                return f"{value:,.0f}"
            case "seconds":
                return duration(value)
            case "GB/s":
                return f"{value:.2f} GB/s"
            case "bytes":
                return size(value)
            case "share":
                return f"{value:.2f}"

    def is_better(self, a: float, b: float) -> bool:
        return a > b if self.better == "higher" else a < b


def duration(seconds: float) -> str:
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs" if seconds < 99.5e-6 else f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.2f} s"


def size(value: float) -> str:
    if abs(value) < _KB:
        return f"{value:.0f} B"
    if abs(value) < _KB**2:
        return f"{value / _KB:.3g} kB"
    return f"{value / _KB**2:.3g} MB"


def request_metrics(connections: int) -> list[Metric]:
    load, many = f"requests/{connections}", "1 connection" if connections == 1 else f"{connections} connections"
    return [
        Metric(f"{load}/rate", f"requests/s, {many}", "higher", "per second"),
        Metric(f"{load}/p50", f"latency p50, {many}", "lower", "seconds"),
        Metric(f"{load}/p99", f"latency p99, {many}", "lower", "seconds"),
        Metric(f"{load}/cpu", f"CPU per request, {many}", "lower", "seconds"),
    ]


def bulk_metrics(direction: str, streams: int) -> list[Metric]:
    load = f"bulk/{direction}/{streams}"
    what = f"{'to' if direction == 'up' else 'from'} the service, {streams} stream{'s' if streams > 1 else ''}"
    return [
        Metric(f"{load}/rate", f"bulk {what}", "higher", "GB/s"),
        Metric(f"{load}/cpu", f"CPU per GB {what}", "lower", "seconds"),
    ]


def idle_metrics(connections: int) -> list[Metric]:
    load, many = f"idle/{connections}", f"{connections:,}"
    return [
        Metric(f"{load}/bytes", f"memory per idle connection, {many}", "lower", "bytes"),
        Metric(f"{load}/node", f"memory of the larger node with {many} idle", "lower", "bytes"),
    ]


CONNECTION_METRICS = [
    Metric("connections/rate", "new connections/s", "higher", "per second"),
    Metric("connections/cpu", "CPU per new connection", "lower", "seconds"),
    Metric("connections/p50", "latency p50 of connect + request", "lower", "seconds"),
    Metric("connections/p99", "latency p99 of connect + request", "lower", "seconds"),
]
START_METRICS = [Metric("start/seconds", "from start to the first answer", "lower", "seconds")]


def share_metric(load: str, title: str) -> Metric:
    """The gateway's processor time against that of one agent (mean of near and far)."""
    return Metric(f"{load}/share", f"gateway's CPU / an agent's, {title}", "lower", "share")
