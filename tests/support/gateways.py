"""I/O: more gateways for an estate whose registry is in Consul, added and joined as an operator would."""

from __future__ import annotations

import threading
import time

from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_server import options
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import status
from tests.support.traffic import RequestFailed, ask, eventually

CLIENTS = 50
_PATIENCE = 15.0
_TRY = 5.0


def join_gateway(estate: Estate, name: str, place: ConsulPlace, *flags: str, address: str | None = None) -> str:
    """Records the gateway `name` and enrols its home of the same name; its ADDR:PORT."""
    address = address or estate.free_endpoint()
    token = estate.ok(OPERATOR, "gateway", "add", f"{name}={address}", *flags)
    estate.ok(name, "gateway", "join", "-", *options(place), input=token)
    return address


def add_gateway(estate: Estate, name: str, place: ConsulPlace, *flags: str, address: str | None = None) -> str:
    """As `join_gateway`, and runs it."""
    address = join_gateway(estate, name, place, *flags, address=address)
    estate.start_gateway(home=name)
    return address


def linked(estate: Estate, host: str) -> set[str]:
    """The gateways that a host has a control stream to."""
    return {row["name"] for row in status(estate, host).get("gateways", ()) if row["state"] == "connected"}


def wait_linked(estate: Estate, hosts: tuple[str, ...], *gateways: str) -> None:
    """Until each of the hosts has a control stream to each of these gateways and to no other."""
    wanted = set(gateways)
    eventually(lambda: all(linked(estate, host) == wanted for host in hosts), what=f"links to {wanted}", timeout=20)


def times_to_answer(address: str, port: int) -> list[float]:
    """Seconds from now until each of 50 clients, which try again at once when they fail, has its answer."""
    began, times = time.monotonic(), [_PATIENCE] * CLIENTS

    def client(number: int) -> None:
        while time.monotonic() - began < _PATIENCE:
            try:
                ask(address, port, timeout=_TRY)
            except RequestFailed:
                time.sleep(0.01)
                continue
            times[number] = time.monotonic() - began
            return

    threads = [threading.Thread(target=client, args=[number], daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * _PATIENCE)
    return times


def at(times: list[float], share: float) -> float:
    """The time within which this share of them lies."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]
