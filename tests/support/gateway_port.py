"""I/O: a gateway's port as strangers see it, and honest hosts that use it meanwhile.

A gateway, two hosts with traffic between them through it, and `peer` and `other`: enrolled, with no agent running, so
that a test uses their identities itself.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bridge.identity.contexts import bootstrap_client
from inventory.endpoints import parse_endpoint
from tests.support.estate import OPERATOR, Estate
from tests.support.lag import OPTIONS
from tests.support.pair import Pair, start_pair
from tests.support.traffic import Backend, echo, eventually
from tests.support.tunnel_client import TunnelClient, root_of

PEERS = ("peer", "other")
_RULES = """
[[allow]]
name = "all"
from = ["host:vm2", "host:peer"]
to = ["echo"]
[[allow]]
name = "peer may look for other"
from = ["host:peer"]
to = ["mute"]
"""


@dataclass
class Port:
    """The gateway under attack, and an honest way to use it."""

    estate: Estate
    pair: Pair

    @property
    def place(self) -> tuple[str, int]:
        endpoint = parse_endpoint(self.estate.gateway_address)
        return endpoint.host, endpoint.port

    def connect(self) -> socket.socket:
        return socket.create_connection(self.place, 10.0)

    def tunnel(self, name: str = "peer", address: str | None = None, key_log: Path | None = None) -> TunnelClient:
        home = self.estate.home(name)
        identity, root = home / "identity.pem", root_of(home)
        return TunnelClient(address or self.estate.gateway_address, identity=identity, root=root, key_log=key_log)

    def handshake(self) -> float:
        """Seconds that a new tunnel of an honest host takes, from connect to both ACCEPTs."""
        began = time.monotonic()
        with self.tunnel() as tunnel:
            assert tunnel.wait_up(), (tunnel.refused, tunnel.closed)
            return time.monotonic() - began

    def heard(self, words: str, send: Callable[[], object]) -> str:
        """What the gateway logs about `send`; sent again when its line was one of too many."""
        stderr = self.estate.nodes[OPERATOR].stderr

        def said() -> str:
            before = stderr.count
            send()
            return stderr.wait_for(words, 2.0, after=before)

        return eventually(said, what=f"the gateway to say {words!r}")


@contextlib.contextmanager
def port_under_attack(path: Path) -> Iterator[Port]:
    with Estate(path) as estate, Backend("echo", echo) as backend:
        estate.options[OPERATOR] = OPTIONS
        pair = start_pair(estate, {"echo": backend.target}, workers=1)  # no other one to get out of the way to
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(estate.add_host, PEERS))
        estate.ok(OPERATOR, "service", "add", "mute", "--host", "other", "--target", "127.0.0.1:9", "--port", "9")
        estate.apply_policy(_RULES)
        yield Port(estate, pair)


class HonestTraffic:
    """A stream between two hosts through the gateway, and new tunnels, one after the other; how long each took."""

    def __init__(self, port: Port, *, pause: float = 0.05) -> None:
        self.handshakes: list[float] = []
        self.round_trips: list[float] = []
        self.failures: list[str] = []
        self._port = port
        self._pause = pause
        self._stop = threading.Event()
        self._sock = port.pair.connect("echo")
        self._threads = [threading.Thread(target=self._run, args=[do]) for do in (self._handshake, self._round_trip)]

    def _run(self, do: Callable[[], None]) -> None:
        while not self._stop.wait(self._pause):
            try:
                do()
            except Exception as exc:
                self.failures.append(repr(exc))

    def _handshake(self) -> None:
        self.handshakes.append(self._port.handshake())

    def _round_trip(self) -> None:
        began = time.monotonic()
        self._sock.sendall(b"honest")
        got = 0
        while got < 6:
            got += len(self._sock.recv(64))
        self.round_trips.append(time.monotonic() - began)

    def __enter__(self) -> HonestTraffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        self._sock.close()


def p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def client_hello() -> bytes:
    tls = bootstrap_client().wrap_bio(ssl.MemoryBIO(), outgoing := ssl.MemoryBIO())
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
