"""I/O: an estate in namespaces whose registry is in a Consul of three servers, with load of which it is known what it
runs through.

    consul1..3 ── lan ── gw  10.77.0.1
                   ├──── gw2 10.77.0.2    where the test has a second gateway
                   ├──── vm1 10.77.0.21   takes tunnels, so that the tunnel to it is direct
                   ├──── vm2 10.77.0.22   only dials out, so that the tunnel to it goes through a gateway
                   └──── vm3 10.77.0.23   the caller, who only dials out

Services: `direct` on vm1, `relayed` on vm2, `both` on vm1 and vm2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator

import msgspec

from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_cluster import LAN, NAMES, ConsulCluster
from tests.support.consul_server import documented_catalog_policy, documented_policy, options
from tests.support.estate import OPERATOR, TRUST_DOMAIN, Estate
from tests.support.gateways import add_gateway, wait_linked
from tests.support.network import GATEWAY_PORT, TUNNEL_PORT, Network, place
from tests.support.pair import locate, status, wait_connected
from tests.support.traffic import Backend, RequestFailed, ask, eventually

HOSTS = {"vm1": "10.77.0.21", "vm2": "10.77.0.22", "vm3": "10.77.0.23"}
CALLER = "vm3"
SERVED = {"direct": ["vm1"], "relayed": ["vm2"], "both": ["vm1", "vm2"]}
"""Service to the hosts that serve it."""
RULES = f'[[allow]]\nname = "traffic"\nfrom = ["host:{CALLER}"]\nto = ["direct", "relayed", "both"]\n'
REQUEST_TIMEOUT = 30.0
"""Longer than it takes to notice that a cable is out: a request ends by what the mesh says, not by our impatience."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A request that got no whole answer."""

    service: str
    began: float
    ended: float
    why: str


class Requests:
    """Requests at a rate to every service, each on a connection of its own, until the block is left. The threads are on
    the host of whoever enters it."""

    def __init__(self, places: dict[str, tuple[str, int]], *, rate: float, clients: int) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self._interval = len(places) * clients / rate
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=[service, at, number / clients], daemon=True)
            for service, at in places.items()
            for number in range(clients)
        ]

    def _client(self, service: str, at: tuple[str, int], phase: float) -> None:
        due = time.monotonic() + phase * self._interval
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            try:
                ask(*at, timeout=REQUEST_TIMEOUT)
                with self._lock:
                    self.answers[service] += 1
            except RequestFailed as exc:
                with self._lock:
                    self.failures.append(Failure(service, began, time.monotonic(), str(exc)))
            due = max(due + self._interval, time.monotonic() - 1.0)

    def __enter__(self) -> Requests:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_TIMEOUT + 5.0)


class ConsulEstate:
    """All of it. `services` are where the caller reaches them. With `catalog` it is in Consul's catalog as well."""

    def __init__(self, estate: Estate, network: Network, cluster: ConsulCluster, *, catalog: bool = False) -> None:
        self.estate = estate
        self.network = network
        self.cluster = cluster
        self.services: dict[str, tuple[str, int]] = {}
        self.gateways = {OPERATOR: "gw"}
        """Home to host of the network."""
        self.registry = self._place(catalog)

    def _place(self, catalog: bool) -> ConsulPlace:
        servers = self.cluster.servers
        others = tuple(servers[name].address for name in NAMES[1:])
        rules = documented_policy() + (documented_catalog_policy(TRUST_DOMAIN) if catalog else "")
        return msgspec.structs.replace(self.cluster.place("meshbridge/", rules=rules), others=others, catalog=catalog)

    @contextlib.contextmanager
    def started(self, *, gateways: int = 1) -> Iterator[ConsulEstate]:
        """With every service reachable; the servers behind them end with the block."""
        estate, network = self.estate, self.network
        network.host("gw", **{LAN: "10.77.0.1/24"})
        for host, address in HOSTS.items():
            network.host(host, **{LAN: f"{address}/24"})
        place(estate, network, **{OPERATOR: "gw"}, **{host: host for host in HOSTS})
        estate.init_options = ("--registry", "consul", *options(self.registry))
        with contextlib.ExitStack() as stack:
            backends = {}
            for host in ("vm1", "vm2"):
                with network.inside(host):
                    backends[host] = stack.enter_context(Backend(host))
            estate.init(gateway=f"10.77.0.1:{GATEWAY_PORT}")
            estate.start_gateway()
            for host, address in HOSTS.items():
                estate.add_host(host, listen=f"{address}:{TUNNEL_PORT}" if host == "vm1" else None)
                estate.start_agent(host, ready=False)
            for number, (service, hosts) in enumerate(SERVED.items()):
                for host in hosts:
                    estate.service_add(service, host=host, target=backends[host].target, port=8000 + number)
            estate.apply_policy(RULES)
            for host in HOSTS:
                estate.wait_ready(host)
            wait_connected(estate, *HOSTS)
            for number in range(2, gateways + 1):
                self._add_gateway(f"gw{number}", f"10.77.0.{number}")
            self.services = {service: locate(estate, CALLER, service) for service in SERVED}
            for service in SERVED:
                self.wait_answer(service)
            yield self

    def _add_gateway(self, name: str, address: str) -> None:
        estate = self.estate
        self.network.host(name, **{LAN: f"{address}/24"})
        place(estate, self.network, **{name: name})
        add_gateway(estate, name, self.registry, "--issuer", address=f"{address}:{GATEWAY_PORT}")
        self.gateways[name] = name
        wait_linked(estate, tuple(HOSTS), "gw1", name)

    @contextlib.contextmanager
    def under_requests(self, *, rate: float = 100.0, clients: int = 4) -> Iterator[Requests]:
        """From the caller's host."""
        with contextlib.ExitStack() as stack:
            with self.network.inside(CALLER):
                requests = stack.enter_context(Requests(self.services, rate=rate, clients=clients))
            yield requests

    def asks(self, service: str, *, timeout: float = 3.0) -> bool:
        with self.network.inside(CALLER), contextlib.suppress(RequestFailed):
            return bool(ask(*self.services[service], timeout=timeout))
        return False

    def wait_answer(self, service: str, *, timeout: float = 40.0) -> float:
        """Seconds until a request is answered."""
        began = time.monotonic()
        eventually(lambda: self.asks(service), timeout=timeout, what=f"an answer of {service}")
        return time.monotonic() - began

    def registry_warning(self, gateway: str = OPERATOR) -> str:
        warnings = status(self.estate, gateway).get("warnings", ())
        return next((warning["text"] for warning in warnings if warning["code"] == "registry"), "")

    def wait_followed(self, gateway: str = OPERATOR, *, timeout: float = 40.0) -> float:
        """Seconds until the gateway has no complaint of its registry."""
        began = time.monotonic()

        def follows() -> bool:
            assert not self.registry_warning(gateway), self.registry_warning(gateway)
            return bool(status(self.estate, gateway))

        eventually(follows, timeout=timeout, what=f"{gateway} follows its registry")
        return time.monotonic() - began
