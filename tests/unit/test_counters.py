"""Pure: a worker's tally and the report it becomes."""

from __future__ import annotations

import msgspec
import pytest

from bridge import limits
from bridge.counters import CONNECT_BOUNDS, OTHER, CounterDeltas, Tally, bucket_of


def test_a_report_holds_what_happened_since_the_last_and_what_is_open() -> None:
    tally = Tally()
    tally.stream_opened("web", 0.003)
    tally.stream_opened("web", 20.0)
    tally.stream_closed("web", "ok")
    tally.stream_not_opened("db", "refused")
    tally.moved("web", bytes_in=10, bytes_out=20)
    tally.decision("allow")
    tally.handshake("ok")
    tally.lag.add(0.2)
    first = tally.take(direct_tunnels=1, gateway_tunnels=2, preauth=3)
    assert first.services["web"].results == {"ok": 1}
    assert first.services["web"].active == 1
    assert (first.services["web"].bytes_in, first.services["web"].bytes_out) == (10, 20)
    assert first.services["db"].results == {"refused": 1}
    assert first.tunnels == {"direct": 1, "gateway": 2}
    assert (first.preauth, first.decisions, first.handshakes, first.lag.longest) == (3, {"allow": 1}, {"ok": 1}, 0.2)
    assert sum(first.connect_counts) == 2 and first.connect_counts[-1] == 1
    second = tally.take()
    assert second.services["web"].active == 1
    assert second.services["web"].results == {}
    assert "db" not in second.services


def test_a_report_survives_the_socketpair() -> None:
    tally = Tally()
    tally.stream_opened("web", 0.003)
    report = tally.take()
    assert msgspec.json.decode(msgspec.json.encode(report), type=CounterDeltas) == report


@pytest.mark.parametrize(
    "text", ['{"preauth":-1}', '{"services":{"a":{"active":-1}}}', '{"decisions":{"maybe":1}}', '{"lag":{"sum":-1}}']
)
def test_a_report_with_impossible_numbers_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=CounterDeltas)


def test_c43_names_without_end_do_not_grow_a_report() -> None:
    tally = Tally()
    for number in range(100_000):
        tally.stream_not_opened(f"name{number}", "refused")
    services = tally.take().services
    assert len(services) <= limits.METRIC_SERIES_MAX + 1
    assert sum(counts.results["refused"] for counts in services.values()) == 100_000
    assert OTHER in services


def test_buckets_include_their_upper_bound() -> None:
    assert bucket_of(CONNECT_BOUNDS, 0.0) == 0
    assert bucket_of(CONNECT_BOUNDS, CONNECT_BOUNDS[0]) == 0
    assert bucket_of(CONNECT_BOUNDS, CONNECT_BOUNDS[0] + 1e-9) == 1
    assert bucket_of(CONNECT_BOUNDS, 1e9) == len(CONNECT_BOUNDS)
