"""I/O: guests that say nothing, or stop half way, hold a slot for one deadline in all, and delay nobody."""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from agents.control import messages as m
from bridge import limits
from bridge.identity.contexts import bootstrap_client
from tests.support.estate import OPERATOR
from tests.support.gateway_port import HonestTraffic, Port, client_hello, p99, port_under_attack
from tests.support.lag import SHARED_P99, LagWatch
from tests.support.pair import worker_pids
from tests.support.proc import resident_bytes
from tests.support.traffic import eventually
from tests.support.tunnel_client import Stream, TunnelClient

MUTE = 2000
TOTAL_DEADLINE = limits.PREAUTH_TIMEOUT
ROOM = 5.0
"""Seconds that a loaded machine may be late."""
HONEST_P99 = 1.0
MEMORY_TOLERANCE = 16 * limits.MIB


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with port_under_attack(tmp_path_factory.mktemp("port")) as port:
        yield port


# --- stalls (C24) -------------------------------------------------------------------------------------------------

Stall = Callable[[Port], "socket.socket | TunnelClient"]


def sent(data: bytes) -> Stall:
    def stall(port: Port) -> socket.socket:
        sock = port.connect()
        sock.sendall(data)
        return sock

    return stall


def sent_late(*, after: float, data: bytes) -> Stall:
    """Bytes that a new deadline of a later stage would reward."""

    def stall(port: Port) -> socket.socket:
        sock = port.connect()
        time.sleep(after)
        sock.sendall(data)
        return sock

    return stall


def byte_by_byte(data: bytes) -> Stall:
    """One byte twice a second, for as long as the gateway listens (F40)."""

    def stall(port: Port) -> socket.socket:
        sock = port.connect()
        sock.settimeout(0.5)
        with contextlib.suppress(ConnectionError):
            for byte in data:
                sock.sendall(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(4096):
                        break
        return sock

    return stall


def after_tls(port: Port) -> TunnelClient:
    return port.tunnel()


def after_hello(port: Port) -> TunnelClient:
    tunnel = port.tunnel()
    tunnel.flush()
    return tunnel


def after_enrolment_tls(port: Port) -> socket.socket:
    raw = port.connect()
    raw.sendall(b"MBE1\n")
    return bootstrap_client().wrap_socket(raw)


STALLS: dict[str, Stall] = {
    "no byte": sent(b""),
    "half a preface": sent(b"MBE"),
    "preface of an enrolment": sent(b"MBE1\n"),
    "half a ClientHello": sent(client_hello()[:100]),
    "half a ClientHello of an enrolment": sent(b"MBE1\n" + client_hello()[:100]),
    "whole ClientHello": sent(client_hello()),
    "TLS, no HELLO": after_tls,
    "HELLO, no ACCEPT": after_hello,
    "TLS of an enrolment, no question": after_enrolment_tls,
    "slow ClientHello": byte_by_byte(client_hello()),
    "slow preface": byte_by_byte(b"MBR1 " + b"A" * 100),
    "a late preface": sent_late(after=7.0, data=b"MBE1\n"),
    "a late first byte": sent_late(after=7.0, data=b"M"),
}


def seconds_until_closed(held: socket.socket | TunnelClient, began: float) -> float:
    with contextlib.ExitStack() as stack:
        if isinstance(held, TunnelClient):
            stack.enter_context(held)
            sock: socket.socket = held.tls
        else:
            sock = stack.enter_context(held)
        sock.settimeout(45.0)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while sock.recv(4096):
                pass
        return time.monotonic() - began


@pytest.mark.slow
def test_c24_one_deadline_covers_every_stage(port: Port) -> None:
    def stalled(stall: Stall) -> float:
        began = time.monotonic()
        return seconds_until_closed(stall(port), began)

    with HonestTraffic(port) as honest, ThreadPoolExecutor(len(STALLS)) as pool:
        took = dict(zip(STALLS, pool.map(stalled, STALLS.values()), strict=True))
    for stage, seconds in took.items():
        print(f"{stage}: closed after {seconds:.1f} s")
    assert not honest.failures
    late = {stage: seconds for stage, seconds in took.items() if seconds > TOTAL_DEADLINE + ROOM}
    assert not late
    assert p99(honest.handshakes) < HONEST_P99


def control_of(tunnel: TunnelClient) -> Stream:
    """A control stream of an honest host, which has been welcomed."""
    assert tunnel.wait_up(), (tunnel.refused, tunnel.closed)
    control = tunnel.ask("@control")
    assert control.accepted
    tunnel.say(control, msgspec.json.encode(m.Hello(version="1", epoch=time.time_ns(), number=0)))
    welcome = tunnel.hear(control)
    assert welcome is not None and welcome["type"] == "welcome", welcome
    return control


def ticket_for(tunnel: TunnelClient, control: Stream, peer: str) -> str:
    tunnel.say(control, msgspec.json.encode(m.PathWanted(id=1, peer=peer)))
    while (message := tunnel.hear(control)) is not None:
        assert message["type"] != "path-refused", message
        if message["type"] == "path-offered":
            return str(message["ticket"])
    raise AssertionError(f"the control stream ended: {tunnel.closed}")


@pytest.mark.slow
def test_c24_a_ticket_that_is_never_joined_ends_with_its_life(port: Port) -> None:
    with port.tunnel("peer") as tunnel, port.tunnel("other") as other:
        control_of(other)  # it is told to dial back, and does not
        ticket = ticket_for(tunnel, control_of(tunnel), "other")
    began = time.monotonic()
    took = seconds_until_closed(sent(f"MBR1 {ticket}\n".encode())(port), began)
    print(f"closed after {took:.1f} s")
    assert took < limits.TICKET_LIFETIME * 1.25 + ROOM


# --- two thousand that say nothing (C23) --------------------------------------------------------------------------


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], max(before[0], count)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def hold_mute(port: Port) -> list[float]:
    """MUTE connections that say nothing; how long each was kept, in seconds."""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for _ in range(MUTE):
            sock = stack.enter_context(port.connect())
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ, time.monotonic())
        kept: list[float] = []
        until = time.monotonic() + 3 * TOTAL_DEADLINE
        while len(kept) < MUTE and time.monotonic() < until:
            for key, _ in selector.select(1.0):
                kept.append(time.monotonic() - key.data)
                selector.unregister(key.fileobj)
        return kept


@pytest.mark.slow
def test_c23_two_thousand_mute_clients_delay_nobody(port: Port) -> None:
    (pid,) = worker_pids(port.estate, OPERATOR)
    supervisor = port.estate.nodes[OPERATOR].pid
    with HonestTraffic(port) as before:
        eventually(lambda: len(before.handshakes) >= 20 and len(before.round_trips) >= 20, timeout=60)
    base = [resident_bytes(one) for one in (pid, supervisor)]
    watch = LagWatch(port.estate, OPERATOR)
    with descriptors(MUTE + 500), HonestTraffic(port) as honest:
        kept = hold_mute(port)
    lags = watch.report()
    assert [pid] == worker_pids(port.estate, OPERATOR), "the worker lived"
    after = [resident_bytes(one) for one in (pid, supervisor)]
    print(f"mute: {len(kept)} of {MUTE} closed, after at most {max(kept):.1f} s")
    for name, traffic in (("before", before), ("meanwhile", honest)):
        shakes, trips = traffic.handshakes, traffic.round_trips
        print(
            f"{name}: {len(shakes)} handshakes p99 {p99(shakes) * 1e3:.0f} ms; round trip p99 {p99(trips) * 1e3:.1f} ms"
        )
    for name, was, now in zip(("worker", "supervisor"), base, after, strict=True):
        print(f"{name}: {was / 1e6:.1f} MB before, {now / 1e6:.1f} MB after")
        assert now < was + MEMORY_TOLERANCE
    assert len(kept) == MUTE
    assert max(kept) < TOTAL_DEADLINE + ROOM
    assert not honest.failures
    assert p99(honest.handshakes) < HONEST_P99
    assert all(lag.p99 <= SHARED_P99 for lag in lags.values())
