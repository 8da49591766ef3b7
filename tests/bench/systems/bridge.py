"""I/O: the bridge itself, as an operator would set it up: a trust domain, two agents, three services, one policy."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping

from inventory.endpoints import Endpoint
from tests.bench.place import Place
from tests.bench.systems.base import SERVICES, START_TIMEOUT, System
from tests.support.estate import Estate

_POLICY = """\
[[allow]]
name = "near uses everything"
from = ["host:near"]
to = ["web", "bulk", "idle"]
"""
_PORTS = dict(zip(SERVICES, (8080, 8081, 8082), strict=True))
_DRAIN_TIMEOUT = 2.0
_ONE_WORKER = ("--workers", "1")
"""As many as the peers have: with more, a machine of two cores would measure its scheduler."""


class Bridge(System):
    """Two agents with everything switched on: policy, flow records, metrics, flow control, checks of certificates.

    Args:
        direct: whether near can dial far; otherwise every byte goes through the gateway.
    """

    is_peer = False
    fds_per_connection = 1.0

    def __init__(self, place: Place, name: str, title: str, targets: Mapping[str, Endpoint], *, direct: bool) -> None:
        super().__init__(place, name, title, targets)
        self._direct = direct
        folder = place.path / name
        folder.mkdir()
        self._estate = Estate(folder)
        place.cleanup.enter_context(self._estate)

    def prepare(self) -> None:
        estate = self._estate
        estate.init()
        self.nodes["gateway"] = estate.start_gateway(*_ONE_WORKER)
        estate.add_host("far", serve=SERVICES, listen=estate.free_endpoint() if self._direct else None)
        estate.add_host("near")
        for service, target in self.targets.items():
            estate.service_add(service, host="far", target=str(target), port=_PORTS[service])
        estate.apply_policy(_POLICY)
        self._start(ready=True)
        for service in SERVICES:
            self.entries[service] = Endpoint(self._address(service), _PORTS[service])
        self.stop()

    def _address(self, service: str) -> str:
        """Where programs at the near side reach a service; an agent may learn of it a moment after it is ready."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            done = self._estate.cli("near", "resolve", service)
            if done.returncode == 0:
                return done.stdout.split()[0]
            assert time.monotonic() < deadline, f"{self.title}: {done.stderr}"
            time.sleep(0.1)

    def start(self) -> None:
        self._start(ready=False)

    def _start(self, *, ready: bool) -> None:
        for node in ("far", "near"):
            self.nodes[node] = self._estate.start_agent(node, *_ONE_WORKER, ready=ready)

    def stop(self) -> None:
        """SIGTERM drains; whatever is still open after a moment is cut by a second one."""
        ending = [self.nodes.pop(node) for node in ("near", "far") if node in self.nodes]
        for process in ending:
            process.ask_to_end()
        for process in ending:
            try:
                process.wait(_DRAIN_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.terminate()
