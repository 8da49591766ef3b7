"""I/O: F21: bulk fills a link of 64 kbit/s: heartbeats, a new policy and a keystroke on the same tunnel pass it.

gw 10.78.0.1 ─┐
vm1 10.78.0.2 ┼─ each with a cable of 64 kbit/s; vm1 takes tunnels and serves, vm2 calls
vm2 10.78.0.3 ┘

The bulk goes to vm2, over the cable over which the gateway reaches it too: vm1's end of the tunnel and the gateway's
end of the control tunnel are the senders that must not hide what is urgent behind what is large.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.tunnels.frames import Open, encode_open
from tests.support.estate import OPERATOR, Estate, allow
from tests.support.network import TUNNEL_PORT, Network, paths, start_estate
from tests.support.pair import locate, status
from tests.support.rough_link import Roughness
from tests.support.traffic import Backend, eventually
from tests.support.tunnel_client import Stream, TunnelClient, root_of

pytestmark = pytest.mark.root
RATE = 64_000
LINK = Roughness(delay=0.02, rate=RATE, queue=4096)
"""Its queue is half a second long: what lies there nobody can overtake."""
SETTLE = 20.0
"""Seconds of bulk before anything is measured: how slow a link is, its sender has to find out."""
SAMPLES = 20
HEARTBEAT_P50 = 2.0
HEARTBEAT_P99 = 5.0
"""2 s is the goal and what is seen mostly; a packet that TCP has to send twice in a row costs what follows it more."""
POLICY_SOON = 6.0
KEYSTROKE_P50 = 3.0


def bulk_or_echo(sock: socket.socket, name: str) -> None:
    """The first byte says what is wanted: `B`, bytes without end; anything else comes back."""
    wanted = sock.recv(1)
    if wanted == b"B":
        while True:
            sock.sendall(bytes(16384))
    while wanted:
        sock.sendall(wanted)
        wanted = sock.recv(4096)


class Download:
    """Takes bulk until the block is left; `got` counts."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.got = 0
        self.broke = ""
        self._closing = False
        self._sock = socket.create_connection(place, 10)
        self._sock.settimeout(None)
        self._sock.sendall(b"B")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while data := self._sock.recv(65536):
                self.got += len(data)
        except OSError as exc:
            self.broke = str(exc)
        else:
            self.broke = "" if self._closing else "it ended"

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._sock.close()


def keystrokes(sock: socket.socket, count: int) -> list[float]:
    """One byte there and back, so many times, sorted."""
    trips = []
    for _ in range(count):
        began = time.monotonic()
        sock.sendall(b"k")
        assert sock.recv(1) == b"k"
        trips.append(time.monotonic() - began)
        time.sleep(0.05)
    return sorted(trips)


def shown(name: str, trips: list[float]) -> str:
    return f"{name}: p50 {p(trips, 50):.2f} s, p99 {p(trips, 99):.2f} s, longest {trips[-1]:.2f} s of {len(trips)}"


def p(trips: list[float], percent: int) -> float:
    return trips[min(len(trips) - 1, len(trips) * percent // 100)]


class Taken(Stream):
    """Bytes that are taken as they come, and forgotten."""

    def __init__(self, tunnel: TunnelClient) -> None:
        super().__init__()
        self._session = tunnel.session
        self.got = 0

    def on_data(self, data: memoryview) -> None:
        self.got += len(data)
        self._session.consumed(self.inner, len(data))


def ping(tunnel: TunnelClient) -> float:
    """Seconds from a PING to its PONG."""
    heard = tunnel.session.pongs
    began = time.monotonic()
    tunnel.session.ping()
    tunnel.wait(lambda: tunnel.session.pongs > heard, timeout=60)
    return time.monotonic() - began


@dataclass
class Thin:
    estate: Estate
    network: Network
    target: str


@pytest.fixture
def thin(network: Network, estate: Estate, seed: int) -> Iterator[Thin]:
    addresses = {"gw": "10.78.0.1", "vm1": "10.78.0.2", "vm2": "10.78.0.3"}
    for host in addresses:
        network.host(host)
    network.rough(LINK, seed, **{host: f"{address}/24" for host, address in addresses.items()})
    with network.inside("vm1"):
        server = Backend("one", bulk_or_echo)
    with server:
        targets = {"on-vm1": server.target}
        start_estate(estate, network, gateway=addresses["gw"], targets=targets, listen={"vm1": addresses["vm1"]})
        print(f"congestion control: {Path('/proc/sys/net/ipv4/tcp_congestion_control').read_text().strip()}")
        yield Thin(estate, network, server.target)


def test_f21_a_keystroke_and_a_policy_pass_a_bulk_stream(thin: Thin) -> None:
    estate, network = thin.estate, thin.network
    place = locate(estate, "vm2", "on-vm1")
    with network.inside("vm2"), socket.create_connection(place, 10) as terminal:
        terminal.settimeout(60)
        alone = keystrokes(terminal, SAMPLES)
        print(shown("keystroke alone", alone))
        with Download(place) as bulk:
            time.sleep(SETTLE)
            began, before = time.monotonic(), bulk.got
            beside = keystrokes(terminal, SAMPLES)
            print(shown("keystroke beside bulk", beside))
            estate.apply_policy(allow("host:vm2", "on-vm1") + allow("host:vm1", "on-vm1", name="one more"))
            number = status(estate, OPERATOR)["policy_number"]
            applied = time.monotonic()
            eventually(lambda: (status(estate, "vm2")["policy_number"] or 0) >= number, timeout=60, what="the policy")
            policy = time.monotonic() - applied
            rate = (bulk.got - before) / (time.monotonic() - began)
            print(f"a new policy in force after {policy:.1f} s; bulk beside {rate:.0f} B/s of {RATE // 8}")
            assert not bulk.broke
        assert paths(estate, "vm2", "vm1") == {"direct"}
    assert p(beside, 50) < KEYSTROKE_P50
    assert policy < POLICY_SOON
    assert rate > RATE / 8 / 2


def test_f21_heartbeats_pass_a_bulk_stream(thin: Thin) -> None:
    estate, network = thin.estate, thin.network
    home = estate.home("vm2")
    with network.inside("vm2"):
        client = TunnelClient(f"10.78.0.2:{TUNNEL_PORT}", identity=home / "identity.pem", root=root_of(home))
    with client as tunnel:
        assert tunnel.wait_up()
        bulk = Taken(tunnel)
        bulk.inner = tunnel.session.open(bulk, encode_open(Open(service="on-vm1", target=thin.target)))
        tunnel.wait(lambda: bulk.accepted)
        tunnel.session.data(bulk.inner, b"B")
        until = time.monotonic() + SETTLE
        tunnel.wait(lambda: time.monotonic() > until)
        trips = sorted(ping(tunnel) for _ in range(SAMPLES))
        print(shown("heartbeat beside bulk", trips))
        assert tunnel.closed is None and bulk.reset is None
    assert p(trips, 50) < HEARTBEAT_P50
    assert p(trips, 99) < HEARTBEAT_P99
