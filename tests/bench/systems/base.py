"""I/O: what every system under test has in common: it takes connections for each service and carries them to a target.

A system has a near side (where clients connect) and a far side (next to the services), mutually authenticated TLS 1.3
between them, and perhaps a gateway. Loads know nothing else of it.
"""

from __future__ import annotations

import abc
import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from inventory.endpoints import Endpoint
from tests.bench.certificates import Certificates
from tests.bench.cpu import cpu_seconds, memory_bytes
from tests.bench.place import Place
from tests.support.processes import RunningProcess

SERVICES = ("web", "bulk", "idle")
START_TIMEOUT = 30.0


class System(abc.ABC):
    """One system with all its processes.

    Attributes:
        name: in tables, in files and in `--systems`.
        title: program, version and how many workers.
        entries: where a client connects for each service.
        nodes: processes by node: `near`, `far`, `gateway`.
    """

    is_peer = True
    fds_per_connection = 2.0
    """Descriptors that each process needs for one client connection, on average."""

    def __init__(self, place: Place, name: str, title: str, targets: Mapping[str, Endpoint]) -> None:
        self.place = place
        self.name = name
        self.title = title
        self.targets = targets
        self.entries: dict[str, Endpoint] = {}
        self.nodes: dict[str, RunningProcess] = {}

    def prepare(self) -> None:  # noqa: B027 - not every system has something to prepare
        """Everything that has to be there before the first start: configuration, certificates, enrolment."""

    @abc.abstractmethod
    def start(self) -> None:
        """Execute the near and the far side, without waiting for them."""

    def stop(self) -> None:
        """End the near and the far side."""
        for node in ("near", "far"):
            process = self.nodes.pop(node, None)
            if process is not None:
                self.place.end(process)

    def wait_ready(self, services: Sequence[str] = ("web",)) -> None:
        """Until a request is answered through the system. Raises AssertionError with what its processes said."""
        for service in services:
            deadline = time.monotonic() + START_TIMEOUT
            while not answers(self.entries[service], service):
                assert time.monotonic() < deadline, f"{self.title} does not carry {service}:\n{self.last_words()}"
                time.sleep(0.001)

    def last_words(self) -> str:
        return "\n".join(f"{node}: {process.stderr.tail(20)}" for node, process in self.nodes.items())

    def cpu(self) -> dict[str, float]:
        """Seconds of processor time used so far, by node."""
        return {node: cpu_seconds([process.pid]) for node, process in self.nodes.items()}

    def memory(self) -> dict[str, int]:
        """Bytes held now, by node."""
        return {node: memory_bytes([process.pid]) for node, process in self.nodes.items()}


def answers(entry: Endpoint, service: str) -> bool:
    """One try of a request: HTTP for `web`, one echoed byte for `idle` (`bulk` has no server that would answer)."""
    with contextlib.suppress(OSError), socket.create_connection((entry.host, entry.port), 5.0) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n" if service == "web" else b"?")
        return sock.recv(4096).startswith(b"HTTP/1.1 200" if service == "web" else b"?")
    return False


class NoProxy(System):
    """The load straight against its target: the ceiling of the generator and the target on this machine."""

    is_peer = False
    fds_per_connection = 0.0

    def start(self) -> None:
        self.entries = dict(self.targets)


class TwoProxies(System):
    """A peer: two processes of one program in a row, one listener and one onward address for each service."""

    def __init__(
        self, place: Place, name: str, title: str, targets: Mapping[str, Endpoint], *,
        program: Path, certificates: Certificates, workers: int,
    ) -> None:  # fmt: skip
        super().__init__(place, name, title, targets)
        self.program = program
        self.certificates = certificates
        self.workers = workers
        self.between = {service: Endpoint("127.0.0.1", place.free_port()) for service in SERVICES}
        self.entries = {service: Endpoint("127.0.0.1", place.free_port()) for service in SERVICES}
        self.folder = place.path / name.replace(":", "-")

    @abc.abstractmethod
    def configure(self, node: str) -> Sequence[str | Path]:
        """Write the configuration of `near` or `far`; the command that runs it."""

    def prepare(self) -> None:
        self.folder.mkdir()
        self._commands = {node: [str(word) for word in self.configure(node)] for node in ("near", "far")}

    def start(self) -> None:
        for node, command in self._commands.items():
            self.nodes[node] = self.place.start(f"{self.name}-{node}", command)

    def ways(self, node: str) -> dict[str, tuple[Endpoint, Endpoint]]:
        """For each service: where `node` listens and where it goes."""
        if node == "near":
            return {service: (self.entries[service], self.between[service]) for service in SERVICES}
        return {service: (self.between[service], self.targets[service]) for service in SERVICES}
