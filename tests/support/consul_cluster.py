"""I/O: three real Consul servers, each in a network namespace of its own, with ACLs and TLS as one would run them.

    consul1 10.77.0.11 ─┐                     10.79.0.11 ─┐
    consul2 10.77.0.12 ─┼─ lan: clients ask   10.79.0.12 ─┼─ raft: the servers among themselves
    consul3 10.77.0.13 ─┘                     10.79.0.13 ─┘

So a server can lose the others while clients still reach it, and the other way round.
"""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.consul_server import START_TIMEOUT, Administrator, Authority, ConsulServer, Seat
from tests.support.network import Network
from tests.support.traffic import eventually

LAN, RAFT = "lan", "raft"
NAMES = ("consul1", "consul2", "consul3")
_PORTS = [8501, 8301, 8300]
_ASK_TIMEOUT = 5.0


class ConsulCluster(Administrator):
    """Leaving the `with` block ends all of them."""

    def __init__(self, directory: Path, network: Network) -> None:
        super().__init__()
        self.directory = directory
        directory.mkdir()
        authority = Authority(directory)
        self.ca_file = authority.file
        self.network = network
        at = {name: (f"10.77.0.1{number}", f"10.79.0.1{number}") for number, name in enumerate(NAMES, 1)}
        self.servers: dict[str, ConsulServer] = {}
        for name, (http, raft) in at.items():
            network.host(name, **{LAN: f"{http}/24", RAFT: f"{raft}/24"})
            seat = Seat(
                name=name,
                http=http,
                raft=raft,
                peers=tuple(address for _, address in at.values()),
                prefix=network.prefix(name),
                inside=partial(network.inside, name),
            )
            self.servers[name] = ConsulServer(directory / name, _PORTS, authority=authority, seat=seat)

    @property
    def address(self) -> str:
        """The first one's; a test that breaks it names the others as well."""
        return self.servers[NAMES[0]].address

    def __enter__(self) -> ConsulCluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*NAMES)

    # --- its life ---------------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Those named, or all; returns when each of them takes writes."""
        began = [self.servers[name] for name in names or NAMES]
        for server in began:
            server.launch()
        for server in began:
            server.token = self.token
            server.wait()
            self.token = server.token

    def stop(self, *names: str, kill: bool = False) -> None:
        for name in names:
            server = self.servers[name]
            if server.process is not None and not kill:
                server.process.ask_to_end()
        for name in names:
            self.servers[name].stop(kill=kill)

    def running(self) -> list[str]:
        return [name for name, server in self.servers.items() if server.process is not None]

    # --- asking -----------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, data: bytes | dict[str, Any] | None = None, *, token: str = "") -> Any:
        """As `ConsulServer.ask`, of the first one that answers."""
        last: OSError = ConnectionRefusedError("none of them runs")
        for name in self.running():
            try:
                return self.servers[name].ask(method, path, data, token=token, timeout=_ASK_TIMEOUT)
            except urllib.error.HTTPError as exc:
                if exc.code < 500:
                    raise
                last = exc
            except OSError as exc:
                last = exc
        raise last

    def leader(self, among: Iterable[str] = NAMES) -> str:
        """The one that these agree on, as soon as they do. Followers that heard of none yet do not agree."""
        asked = [name for name in among if name in self.running()]

        def found() -> str | None:
            try:
                said = {self.servers[name].ask("GET", "/v1/status/leader", timeout=_ASK_TIMEOUT) for name in asked}
            except OSError as exc:
                raise AssertionError(str(exc)) from None
            seats = {f"{server.seat.raft}:{_PORTS[2]}": name for name, server in self.servers.items()}
            name = seats.get(said.pop()) if len(said) == 1 else None
            return name if name in asked else None

        leader = eventually(found, timeout=START_TIMEOUT, what="a leader that all agree on")
        assert leader is not None
        return leader

    def followers(self) -> list[str]:
        leader = self.leader()
        return [name for name in NAMES if name != leader]

    def wait_writable(self, via: str) -> float:
        """Seconds until a write through this server is taken."""
        began = time.monotonic()

        def taken() -> bool:
            try:
                value = json.dumps(time.time()).encode()
                return bool(self.servers[via].ask("PUT", "/v1/kv/written", value, timeout=_ASK_TIMEOUT))
            except OSError:
                return False

        eventually(taken, timeout=START_TIMEOUT, what=f"a write through {via}")
        return time.monotonic() - began

    def isolate(self, name: str) -> None:
        """It loses the other servers; clients still reach it."""
        self.network.cut(name, RAFT)

    def rejoin(self, name: str) -> None:
        self.network.join(name, RAFT)
