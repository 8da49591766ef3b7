"""I/O: the relay alone, to compare one change with another: two processes over loopback TLS, nothing else of ours.

    python -m tests.bench.relay_micro [--seconds 3] [--connections 32] [--body 256]

    client process ── TCP ── A (tunnel, opener) ══ TLS ══ B (tunnel) ── TCP ── echo process

Prints requests/s with 1, CONNECTIONS and eight times as many connections, new connections/s, and GB/s in one direction,
each with the CPU of A and B together per unit, and the memory per idle stream. Client and echo cost little but not
nothing: on a machine with few cores, compare runs with each other and not with figures from elsewhere.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import select
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bridge.relay.listener import Listener
from bridge.relay.local import LocalSocket
from bridge.relay.loop import Loop
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Open, encode_open
from bridge.tunnels.records import TlsPipe
from bridge.tunnels.session import Stream
from tests.support.relay_pair import Contexts, Side, make_contexts

_TICKS = os.sysconf("SC_CLK_TCK")
_WISH = encode_open(Open(service="echo", target="127.0.0.1:1"))


class _Quiet(Side):
    """A side that remembers nothing."""

    def local_accepted(self, local: LocalSocket) -> None: ...
    def local_ended(self, local: LocalSocket, result: str, reason: str) -> None: ...


def relay(name: str, contexts: Contexts, tunnel_sock: socket.socket, other: socket.socket | tuple[str, int]) -> None:
    """Process A (`other` is where programs connect) or B (`other` is the echo's address)."""
    loop = Loop()
    side = _Quiet(name, loop)
    pipe = _shake(tunnel_sock, contexts, server=name == "b")
    peer = contexts.peers[0 if name == "a" else 1]
    tunnel = side.tunnel = Tunnel(loop, tunnel_sock, pipe, peer=peer, opener=name == "a", via=None, owner=side)
    if not isinstance(other, socket.socket):
        side.serve = lambda stream, wish: _connect(side, stream, other)
    tunnel.accept()
    tunnel.start()
    while not side.ups:
        loop.turn(wait=True)
    if isinstance(other, socket.socket):
        Listener(loop, other, lambda sock, _: _opened(side, sock), lambda: True)
    while tunnel.closed is None:
        loop.turn(wait=True)


def _opened(side: Side, sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    LocalSocket(side.loop, sock, side, None).open(side.tunnel, _WISH)


def _connect(side: Side, stream: Stream, address: tuple[str, int]) -> None:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    LocalSocket(side.loop, sock, side, None).connect(side.tunnel, stream, address)


def _shake(sock: socket.socket, contexts: Contexts, *, server: bool) -> TlsPipe:
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = (contexts.server if server else contexts.client).wrap_bio(incoming, outgoing, server_side=server)
    sock.setblocking(True)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(1 << 16))
    sock.sendall(outgoing.read())
    sock.setblocking(False)
    return TlsPipe(tls, incoming, outgoing)


def echo(door: socket.socket) -> None:
    """Sends back what comes; a first byte of 0xff means: only count, and answer with one byte at the end."""
    poller = select.epoll()
    door.setblocking(False)
    poller.register(door.fileno(), select.EPOLLIN)
    open_ones: dict[int, socket.socket] = {}
    sinks: set[int] = set()
    buffer = bytearray(1 << 18)
    view = memoryview(buffer)
    while True:
        for fd, _ in poller.poll():
            if fd == door.fileno():
                for _ in range(64):
                    try:
                        sock, _ = door.accept()
                    except BlockingIOError:
                        break
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    open_ones[sock.fileno()] = sock
                    poller.register(sock.fileno(), select.EPOLLIN)
                continue
            sock = open_ones[fd]
            try:
                size = sock.recv_into(buffer)
            except OSError:
                size = 0
            if size and buffer[0] == 0xFF:
                sinks.add(fd)
            if size and fd not in sinks:
                sock.send(view[:size])
            elif not size:
                if fd in sinks:
                    sinks.discard(fd)
                    sock.send(b"!")
                poller.unregister(fd)
                open_ones.pop(fd).close()


# --- Measuring ----------------------------------------------------------------------------------------------------


def cpu_of(processes: list[multiprocessing.process.BaseProcess]) -> float:
    total = 0.0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def memory_of(process: multiprocessing.process.BaseProcess) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def requests(address: tuple[str, int], connections: int, body: int, seconds: float) -> tuple[int, float, list[float]]:
    """(answers, seconds, latencies) with every connection asking again as soon as it is answered."""
    poller = select.epoll()
    socks = {}
    question = b"q" * body
    sent: dict[int, float] = {}
    for _ in range(connections):
        sock = socket.create_connection(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        socks[sock.fileno()] = sock
        poller.register(sock.fileno(), select.EPOLLIN)
    for fd, sock in socks.items():
        sent[fd] = time.perf_counter()
        sock.send(question)
    answers, latencies = 0, []
    began = time.perf_counter()
    end = began + seconds
    now = began
    while now < end:
        for fd, _ in poller.poll():
            sock = socks[fd]
            sock.recv(65536)
            now = time.perf_counter()
            latencies.append(now - sent[fd])
            sent[fd] = now
            sock.send(question)
            answers += 1
    for sock in socks.values():
        sock.close()
    return answers, now - began, latencies


def connections_made(address: tuple[str, int], at_once: int, body: int, seconds: float) -> tuple[int, float]:
    """(connections, seconds): connect, ask, be answered, close, `at_once` of them at any time."""
    poller = select.epoll()
    socks: dict[int, socket.socket] = {}
    question = b"q" * body

    def begin() -> None:
        sock = socket.socket()
        sock.connect(address)
        sock.send(question)
        socks[sock.fileno()] = sock
        poller.register(sock.fileno(), select.EPOLLIN)

    for _ in range(at_once):
        begin()
    made = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for fd, _ in poller.poll():
            sock = socks.pop(fd)
            sock.recv(65536)
            poller.unregister(fd)
            sock.close()
            made += 1
            begin()
    took = time.perf_counter() - began
    for sock in socks.values():
        sock.close()
    return made, took


def bulk(address: tuple[str, int], seconds: float) -> tuple[int, float]:
    """(bytes, seconds) of one connection in one direction, until the far end says that it has everything."""
    sock = socket.create_connection(address)
    sock.sendall(b"\xff")
    time_out = time.perf_counter() + seconds
    chunk = bytes(1 << 18)
    total = 1
    began = time.perf_counter()
    while time.perf_counter() < time_out:
        sock.sendall(chunk)
        total += len(chunk)
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b"!"
    took = time.perf_counter() - began
    sock.close()
    return total, took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--body", type=int, default=256)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        contexts = make_contexts(Path(folder), time.time())
        programs = socket.create_server(("127.0.0.1", 0), backlog=4096)
        service = socket.create_server(("127.0.0.1", 0), backlog=4096)
        with socket.create_server(("127.0.0.1", 0)) as door:
            left = socket.create_connection(door.getsockname())
            right, _ = door.accept()
        fork = multiprocessing.get_context("fork")
        relays: list[multiprocessing.process.BaseProcess] = [
            fork.Process(target=relay, args=("a", contexts, left, programs), daemon=True),
            fork.Process(target=relay, args=("b", contexts, right, service.getsockname()), daemon=True),
        ]
        echoing = fork.Process(target=echo, args=(service,), daemon=True)
        for process in (*relays, echoing):
            process.start()
        measure(programs.getsockname(), relays, chosen)
        for process in (*relays, echoing):
            process.terminate()


def measure(
    address: tuple[str, int], relays: list[multiprocessing.process.BaseProcess], chosen: argparse.Namespace
) -> None:
    requests(address, 4, chosen.body, 0.3)

    def with_cpu(run: Callable[[], tuple[int, float]]) -> tuple[float, float]:
        """(per second, CPU seconds of both relays per unit)"""
        before = cpu_of(relays)
        count, took = run()
        return count / took, (cpu_of(relays) - before) / count

    for connections in (1, chosen.connections, 8 * chosen.connections):
        latencies: list[float] = []

        def asked(connections: int = connections, latencies: list[float] = latencies) -> tuple[int, float]:
            answers, took, all_latencies = requests(address, connections, chosen.body, chosen.seconds)
            latencies += sorted(all_latencies)
            return answers, took

        rate, cpu = with_cpu(asked)
        p50 = latencies[len(latencies) // 2] * 1e6
        p99 = latencies[len(latencies) * 99 // 100] * 1e6
        print(
            f"requests, {connections:4} connections   {rate:9,.0f} /s   {cpu * 1e6:7.1f} µs CPU each"
            f"   p50 {p50:7,.0f} µs   p99 {p99:7,.0f} µs"
        )
    rate, cpu = with_cpu(lambda: connections_made(address, chosen.connections, chosen.body, chosen.seconds))
    print(f"new connections                 {rate:9,.0f} /s   {cpu * 1e6:7.1f} µs CPU each")
    rate, cpu = with_cpu(lambda: bulk(address, chosen.seconds))
    print(f"bulk                            {rate / 1e9:9.2f} GB/s {cpu * 1e9:7.2f} s CPU per GB")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(5000, soft - 100)
    before = [memory_of(process) for process in relays]
    idle = [socket.create_connection(address) for _ in range(count)]
    requests(address, 1, chosen.body, 0.3)
    after = [memory_of(process) for process in relays]
    per = ", ".join(f"{(b - a) / count:,.0f}" for a, b in zip(before, after, strict=True))
    print(f"idle streams, {count}            {per} bytes resident each at A and B")
    for sock in idle:
        sock.close()


if __name__ == "__main__":
    main()
