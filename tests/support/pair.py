"""I/O: the smallest estate that moves bytes: a gateway, `vm1` that serves, `vm2` that calls; waits for its states."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import trio

from agents.admin.client import call
from inventory.errors import MeshError
from tests.support.estate import OPERATOR, READY_TIMEOUT, Estate
from tests.support.town import Town
from tests.support.traffic import eventually

SERVER = "vm1"
CLIENT = "vm2"
PORT = 8000


def admin(estate: Estate, home: str, command: str, **arguments: object) -> Any:
    """Asks a running node; None when it does not answer now."""
    try:
        return trio.run(partial(call, estate.home(home), command, **arguments))
    except MeshError:
        return None


def status(estate: Estate, home: str) -> dict[str, Any]:
    """A node's status; empty while it does not run."""
    return admin(estate, home, "status") or {}


def wait_version(estate: Estate, home: str, version: str) -> None:
    """Until the node has become this version for good: no other one waits any more to take its place back."""

    def has() -> bool:
        answer = status(estate, home)
        return answer.get("version") == version and not answer["on_trial"]

    eventually(has, what=f"{home} is {version}", timeout=80)


def worker_pids(estate: Estate, home: str) -> list[int]:
    """The data workers of a node, as soon as all are there."""

    def found() -> list[int]:
        rows = status(estate, home).get("workers", ())
        listed = [worker["pid"] for worker in rows if worker["state"] != "ending"]
        return listed if all(listed) else []

    return eventually(found, what=f"the workers of {home}")


def restarts(estate: Estate, home: str) -> int:
    """How often a worker of a node was replaced."""
    return sum(worker["restarts"] for worker in status(estate, home).get("workers", ()))


def pids(estate: Estate, home: str) -> list[int]:
    """Every process of a node: its supervisor, then what that started."""
    node = estate.nodes[home]
    return [node.pid, *node.children()]


def wait_connected(estate: Estate, *hosts: str) -> None:
    """Until the gateway has a control stream from each of the hosts."""

    def connected() -> bool:
        seen = admin(estate, OPERATOR, "hosts") or {}
        return all(seen.get(host, {}).get("online") for host in hosts)

    eventually(connected, what=f"{hosts} connected", timeout=20)


def locate(estate: Estate, home: str, service: str) -> tuple[str, int]:
    """Where a service is for the programs of a host, once it is there and has an instance that passes its check."""

    def found() -> tuple[str, int] | None:
        for seen in status(estate, home).get("services", ()):
            if seen["name"] == service and seen["address"] and seen["passing"]:
                host, _, port = seen["address"].rpartition(":")
                return host, int(port)
        return None

    place = eventually(found, what=f"{service} at {home}", timeout=20)
    assert place is not None
    return place


class Pair:
    """What `start_pair` started."""

    def __init__(self, estate: Estate, services: Mapping[str, str]) -> None:
        self.estate = estate
        self.town = Town(estate)
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


def join(
    estate: Estate, name: str, *, listen: str | None = None, token: str | None = None, advertise: str | None = None
) -> None:
    """Enrols a host, with a token made for it or a given one. `advertise`: where others dial it, if not `listen`."""
    town = Town(estate)
    token = token or town.ok(OPERATOR, "host", "add", name)
    reach = ["--listen", listen, "--advertise", advertise or listen] if listen else []
    town.ok(name, "agent", "join", token.strip(), "--addresses", estate.next_slice(), *reach)


def start_pair(
    estate: Estate,
    services: Mapping[str, str],
    *,
    direct: bool = False,
    init: tuple[str, ...] = (),
    gateway_runs: bool = False,
    workers: int | None = None,
    before: Callable[[str], str] | None = None,
) -> Pair:
    """Sets up and starts all three nodes; returns when every service can be called.

    Args:
        services: name to target.
        direct: whether vm1 listens, so that vm2 dials it; else their tunnel goes through the gateway.
        init: further options of `init`.
        gateway_runs: whether the caller has done `init` and started the gateway.
        workers: of every node; None: as many as it takes by itself.
        before: puts something before the endpoint at which vm1 takes tunnels, and says where that is dialled.
    """
    options = ("--workers", str(workers)) if workers else ()
    if not gateway_runs:
        estate.init(*init)
        estate.start_gateway(*options)
    pair = Pair(estate, services)
    listen = estate.free_endpoint() if direct else None
    join(estate, SERVER, listen=listen, advertise=before(listen) if before and listen else None)
    join(estate, CLIENT)
    for number, (name, target) in enumerate(services.items()):
        pair.town.place(name, SERVER, target, port=PORT + number)
    pair.town.policy(allow_all(services))
    for name in (SERVER, CLIENT):
        estate.start_agent(name, *options, ready=False)
    for name in (SERVER, CLIENT):
        estate.wait_ready(name)
    wait_connected(estate, SERVER, CLIENT)
    for name in services:
        pair.place(name)
    return pair


def start_pair_in_chaos(estate: Estate, services: Mapping[str, str], seed: int, *options: str, direct: bool) -> Pair:
    """A pair whose every connection between nodes goes through a program of tests/support/chaos.py with `options`."""

    def before(endpoint: str, port: int = 0) -> str:
        argv = ["--seed", str(seed), "--port", str(port), "--target", endpoint, *options]
        link = estate.start("chaos", [sys.executable, "-m", "tests.support.chaos", *argv])
        return f"127.0.0.1:{int(link.stdout.wait_for('', READY_TIMEOUT))}"

    real, shown = estate.free_port(), estate.free_port()
    estate.init("--listen", f"127.0.0.1:{real}", gateway=f"127.0.0.1:{shown}")
    estate.start_gateway()
    before(f"127.0.0.1:{real}", shown)
    return start_pair(estate, services, direct=direct, gateway_runs=True, before=before)
