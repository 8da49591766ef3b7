"""I/O: C26: a host that floods its tunnel with records that carry nothing loses that tunnel; nobody else waits for it.

OpenSSL would not send them, so they are forged below it (tests/support/forged_records.py). How long the gateway's loop
is held up is measured on a stream of two other hosts that the same worker carries.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.estate import OPERATOR
from tests.support.forged_records import Forger
from tests.support.gateway_port import HonestTraffic, Port, p99, port_under_attack
from tests.support.pair import worker_pids
from tests.support.proc import cpu_seconds
from tests.support.traffic import eventually
from tests.support.tunnel_client import TunnelClient

RECORDS = 10_000
ATTACKERS = 4
LAG = 0.2
"""Seconds that one flood may hold up the loop: 50 ms on a machine of one's own, more where the tests share theirs."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with port_under_attack(tmp_path_factory.mktemp("port")) as port:
        yield port


def empty(forger: Forger) -> bytes:
    return forger.data(b"")


def silent_update(forger: Forger) -> bytes:
    return forger.key_update(answer=False)


def update_with_answer(forger: Forger) -> bytes:
    return forger.key_update(answer=True)


def armed(port: Port, path: Path, record: Callable[[Forger], bytes]) -> tuple[TunnelClient, bytes]:
    """A tunnel that is up, and the flood for it. The real client's records are forged too: they are numbered."""
    path.touch()
    tunnel = port.tunnel(key_log=path)
    forger = Forger(path, tunnel.tls)
    tunnel.session.accept_tunnel()
    raw_send(tunnel, forger.data(b"".join(tunnel.session.urgent)))
    tunnel.session.urgent.clear()
    tunnel.wait(lambda: tunnel.session.is_up)
    assert tunnel.session.is_up, tunnel.closed
    return tunnel, b"".join(record(forger) for _ in range(RECORDS))


def raw_send(tunnel: TunnelClient, records: bytes) -> None:
    """Below TLS, until the far end has had enough."""
    with socket.socket(fileno=socket.dup(tunnel.tls.fileno())) as sock:
        sock.settimeout(10.0)
        try:
            sock.sendall(records)
        except ConnectionError:
            pass


@pytest.mark.parametrize("record", [empty, silent_update, update_with_answer])
def test_c26_a_flood_ends_its_own_tunnel_and_delays_nobody(
    port: Port, tmp_path: Path, record: Callable[[Forger], bytes]
) -> None:
    (pid,) = worker_pids(port.estate, OPERATOR)
    with HonestTraffic(port, pause=0.002) as before:
        eventually(lambda: len(before.round_trips) >= 300, timeout=30)
    floods = [armed(port, tmp_path / f"keys-{number}", record) for number in range(ATTACKERS)]
    used = cpu_seconds(pid)
    with HonestTraffic(port, pause=0.002) as beside:
        eventually(lambda: len(beside.round_trips) >= 20, timeout=30)
        beside.round_trips.clear()  # opening the stream is not what is measured
        began = time.monotonic()
        for tunnel, flood in floods:
            raw_send(tunnel, flood)
            tunnel.wait(lambda: False, timeout=10.0)  # to its end
            assert tunnel.closed is not None
            tunnel.close()
        took = time.monotonic() - began
        eventually(lambda: len(beside.round_trips) >= 100, timeout=30)
    used = cpu_seconds(pid) - used
    print(f"{ATTACKERS} floods of {RECORDS} records ended within {took:.2f} s, {used:.2f} s of the gateway's time")
    for name, traffic in (("before", before), ("beside", beside)):
        trips = traffic.round_trips
        print(f"{name}: round trip p99 {p99(trips) * 1e3:.1f} ms, longest {max(trips) * 1e3:.1f} ms of {len(trips)}")
    assert not beside.failures
    assert max(beside.round_trips) < 2 * max(before.round_trips) + LAG
    assert worker_pids(port.estate, OPERATOR) == [pid]
