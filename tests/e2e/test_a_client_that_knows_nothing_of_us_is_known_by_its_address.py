"""I/O: published ports: a gateway listens, knows the client by where it comes from, and speaks for it; hosts decide."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.traffic import Backend, RequestFailed, eventually

LPAR7, STRANGER = "127.0.0.7", "127.0.0.9"
ALLOWED = '[[allow]]\nname = "lpar7 reads"\nfrom = ["client:lpar7"]\nto = ["*"]\n'


def connect(address: tuple[str, int], source: str = LPAR7) -> socket.socket:
    return socket.create_connection(address, 5, source_address=(source, 0))


def ask_from(address: tuple[str, int], source: str = LPAR7) -> str:
    """The name of who answers. Raises RequestFailed."""
    try:
        with connect(address, source) as sock:
            sock.sendall(b"?\n")
            said = sock.makefile().readline().strip()
    except OSError as exc:
        raise RequestFailed(str(exc)) from None
    if not said:
        raise RequestFailed("closed")
    return said


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


class Bank:
    """A gateway, and a host that only dials out and one that can be dialled, each with an instance."""

    def __init__(self, tmp_path: Path) -> None:
        self.estate = estate = Estate(tmp_path)
        estate.options[OPERATOR] = ("--metrics", f"127.0.0.1:{estate.free_port()}")
        estate.init()
        estate.start_gateway()
        estate.add_host("vm1", listen=estate.free_endpoint())
        estate.add_host("vm2")
        for name in ("vm1", "vm2"):
            estate.start_agent(name)
        self.op("client", "add", "lpar7", "--via", "gw1", "--source", LPAR7)

    def op(self, *args: str) -> str:
        return self.estate.ok(OPERATOR, *args)

    def place(self, service: str, host: str, backend: Backend, *options: str) -> None:
        target = f"{backend.host}:{backend.port}"
        self.estate.service_add(service, *options, host=host, target=target, port=8080)

    def publish(self, service: str) -> tuple[str, int]:
        port = self.estate.free_port()
        self.op("service", "publish", service, "--via", "gw1", "--listen", f"127.0.0.1:{port}")
        return "127.0.0.1", port

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.op("-o", "json", "status"))
        return found

    def flows(self, home: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.estate.ok(home, "-o", "json", "flows").splitlines()]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    made = Bank(tmp_path_factory.mktemp("bank"))
    with made.estate:
        yield made


@pytest.mark.parametrize("host", ["vm1", "vm2"])
def test_a_client_reaches_a_host_that_can_be_dialled_and_one_that_cannot(bank: Bank, host: str) -> None:
    service = f"ledger-{host}"
    with Backend(host) as backend:
        bank.place(service, host, backend)
        bank.estate.apply_policy(ALLOWED)
        address = bank.publish(service)
        assert eventually(lambda: ask_from(address)) == host
        assert [ask_from(address) for _ in range(5)] == [host] * 5
        record = eventually(lambda: [f for f in bank.flows(host) if f["service"] == service and f["result"] == "ok"])[0]
        assert (record["subject"], record["rule"]) == ("client:lpar7", "lpar7 reads")


def test_strangers_are_closed_without_a_byte_and_counted(bank: Bank) -> None:
    with Backend("secret") as backend:
        bank.place("secret", "vm1", backend)
        bank.estate.apply_policy(ALLOWED)
        address = bank.publish("secret")
        assert eventually(lambda: ask_from(address)) == "secret"
        with connect(address, STRANGER) as sock:
            assert is_closed(sock)
        bank.estate.apply_policy(ALLOWED.replace("client:lpar7", "host:vm2"))
        with connect(address) as sock:
            assert eventually(lambda: is_closed(sock))
        served = backend.served
        with connect(address) as sock:
            assert is_closed(sock), "no rule could ever allow it"
        assert backend.served == served
