"""I/O: the smallest estate that moves bytes: a gateway, `vm1` that serves, `vm2` that calls; and waits for its states."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import trio

from agents.admin_client import call
from inventory.errors import MeshError
from tests.support.estate import OPERATOR, Estate
from tests.support.traffic import eventually

SERVER = "vm1"
CLIENT = "vm2"
PORT = 8000


def admin(home: Path, command: str, **arguments: object) -> Any:
    """Asks a running node; None when it does not answer now."""
    try:
        return trio.run(partial(call, home, command, **arguments))
    except MeshError:
        return None


def status(estate: Estate, home: str) -> dict[str, Any]:
    """A node's status; empty while it does not run."""
    return admin(estate.home(home), "status") or {}


def worker_pid(estate: Estate, home: str) -> int:
    """The data worker of a node."""
    return int(status(estate, home)["worker"]["pid"])


def pids(estate: Estate, home: str) -> list[int]:
    """Every process of a node: its supervisor, then what that started."""
    node = estate.nodes[home]
    return [node.pid, *node.children()]


def wait_connected(estate: Estate, *hosts: str, gateway: str = OPERATOR) -> None:
    """Until the gateway has a control stream from each of the hosts."""

    def connected() -> bool:
        seen = admin(estate.home(gateway), "hosts") or {}
        return all(seen.get(host, {}).get("online") for host in hosts)

    eventually(connected, what=f"{hosts} connected to {gateway}")


def locate(estate: Estate, home: str, service: str) -> tuple[str, int]:
    """Where a service is for the programs of a host, once it is there and has an instance that passes its check."""

    def found() -> tuple[str, int] | None:
        for seen in status(estate, home).get("services", ()):
            if seen["name"] == service and seen["address"] and seen["passing"]:
                host, _, port = seen["address"].rpartition(":")
                return host, int(port)
        return None

    place = eventually(found, what=f"{service} at {home}")
    assert place is not None
    return place


class Pair:
    """What `start_pair` started."""

    def __init__(self, estate: Estate, services: Mapping[str, str]) -> None:
        self.estate = estate
        self.services = services

    def place(self, service: str) -> tuple[str, int]:
        return locate(self.estate, CLIENT, service)

    def connect(self, service: str, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(self.place(service), timeout)

    def tunnel_paths(self, home: str = CLIENT, peer: str = f"host:{SERVER}") -> list[str]:
        """How the tunnels of `home` to `peer` go: "direct" or "through gw1"; waits until there is one."""

        def paths() -> list[str]:
            return [tunnel["path"] for tunnel in status(self.estate, home)["tunnels"] if tunnel["peer"] == peer]

        return eventually(paths, what=f"a tunnel of {home} to {peer}")


def allow_all(services: Mapping[str, str], source: str = f"host:{CLIENT}") -> str:
    """A policy that lets `source` reach every one of the services."""
    listed = ", ".join(f'"{name}"' for name in services)
    return f'[[allow]]\nname = "pair"\nfrom = ["{source}"]\nto = [{listed}]\n'


def start_pair(
    estate: Estate,
    services: Mapping[str, str],
    *,
    direct: bool = False,
    init: tuple[str, ...] = (),
    gateway_runs: bool = False,
) -> Pair:
    """Sets up and starts all three nodes; returns when every service can be called.

    Args:
        services: name to target; the first one is also a `--serve`.
        direct: whether vm1 listens, so that vm2 dials it; else their tunnel goes through the gateway.
        init: further options of `init`.
        gateway_runs: whether the caller has done `init` and started the gateway.
    """
    if not gateway_runs:
        estate.init(*init)
        estate.start_gateway()
    listen = estate.free_endpoint() if direct else None
    with ThreadPoolExecutor(3) as pool:
        hosts = [
            pool.submit(estate.add_host, SERVER, serve=list(services), listen=listen),
            pool.submit(estate.add_host, CLIENT),
        ]
        for host in hosts:
            host.result()
        placed = [
            pool.submit(estate.service_add, name, host=SERVER, target=target, port=PORT + number)
            for number, (name, target) in enumerate(services.items())
        ]
        for name in (SERVER, CLIENT):
            estate.start_agent(name, ready=False)
        for one in placed:
            one.result()
        estate.apply_policy(allow_all(services))
    for name in (SERVER, CLIENT):
        estate.wait_ready(name)
    wait_connected(estate, SERVER, CLIENT)
    pair = Pair(estate, services)
    for name in services:
        pair.place(name)
    return pair
