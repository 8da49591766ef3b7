"""I/O: published ports: a gateway listens, knows the client by where it comes from, and speaks for it; hosts decide."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client_certificates import ClientCertificate, make
from tests.support.estate import OPERATOR, Estate
from tests.support.traffic import Backend, RequestFailed, eventually, hold
from tests.support.tunnel_client import root_of

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


class Held:
    """A connection of the client's that stays open."""

    def __init__(self, address: tuple[str, int], source: str = LPAR7) -> None:
        self.sock = connect(address, source)
        self.name = self._line().strip()
        if not self.name:
            self.sock.close()

    def _line(self) -> str:
        said = b""
        with contextlib.suppress(OSError):
            while not said.endswith(b"\n") and (data := self.sock.recv(100)):
                said += data
        return said.decode()

    def echoes(self) -> bool:
        try:
            self.sock.sendall(b"still there\n")
            return self._line() == "still there\n"
        except OSError:
            return False


def held(address: tuple[str, int]) -> Held:
    def tried() -> Held | None:
        with contextlib.suppress(ConnectionRefusedError):
            return made if (made := Held(address)).name else None
        return None

    found = eventually(tried)
    assert found is not None
    return found


@pytest.mark.parametrize("change", ["client", "rule", "publication", "another client's address"])
def test_what_is_taken_back_cuts_live_streams(bank: Bank, change: str) -> None:
    service = f"batch-{change[0]}{len(change)}"
    with Backend("batch", hold) as backend:
        bank.place(service, "vm2", backend)
        bank.estate.apply_policy(ALLOWED)
        address = bank.publish(service)
        stream = held(address)
        assert stream.echoes()
        match change:
            case "client":
                bank.op("client", "remove", "lpar7")
            case "rule":
                bank.estate.apply_policy(ALLOWED.replace("client:lpar7", "client:other"))
            case "publication":
                bank.op("service", "unpublish", service)
            case _:
                bank.op("client", "add", "lpar7", "--via", "gw1", "--source", "127.0.0.8")
                bank.op("client", "add", "lpar9", "--via", "gw1", "--source", LPAR7)
        assert eventually(lambda: not stream.echoes())
        stream.sock.close()
        record = eventually(lambda: [f for f in bank.flows(OPERATOR) if f["service"] == service])[-1]
        assert (record["result"], record["subject"]) == ("cut", "client:lpar7"), record
        if change == "publication":
            with pytest.raises(OSError):
                connect(address)
    bank.estate.cli(OPERATOR, "client", "remove", "lpar9")
    bank.op("client", "add", "lpar7", "--via", "gw1", "--source", LPAR7)


def test_an_instance_that_wants_to_know_is_told_who_calls(bank: Bank) -> None:
    """A server that understands the PROXY protocol finds it in front of the first byte (test_proxy_protocol.py reads
    all of it)."""
    heard: list[bytes] = []

    def listen(sock: socket.socket, name: str) -> None:
        head = sock.recv(16, socket.MSG_WAITALL)
        if head[12] == 0x20:
            return  # a check says that nobody asked
        heard.append(head + sock.recv(struct.unpack(">H", head[14:])[0], socket.MSG_WAITALL))
        assert sock.recv(2) == b"?\n"
        sock.sendall(f"{name}\n".encode())

    with Backend("telling", listen) as backend:
        bank.place("telling", "vm1", backend, "--proxy-protocol")
        bank.estate.apply_policy(ALLOWED)
        address = bank.publish("telling")
        assert eventually(lambda: ask_from(address)) == "telling"
        with connect(address) as sock:
            port = sock.getsockname()[1]
            sock.sendall(b"?\n")
            assert sock.recv(100) == b"telling\n"
        wanted = socket.inet_aton(LPAR7) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", port, backend.port)
        assert heard[-1][16:28] == wanted
        assert heard[-1][28:] == b"\xe0\x00\x0cclient:lpar7\xe2\x00\x03gw1"


def test_status_shows_the_ports_and_who_could_call(bank: Bank) -> None:
    bank.estate.apply_policy(ALLOWED)
    with Backend("shown") as backend:
        bank.place("shown", "vm1", backend)
        address, taken = bank.publish("shown"), socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        bank.op("service", "publish", "shown", "--via", "gw1", "--listen", f"127.0.0.1:{port}")
        rows = {row["at"]: row for row in bank.status()["published"]}
        row = rows[f"127.0.0.1:{address[1]}"]
        assert (row["service"], row["could_call"], row["problem"]) == ("shown", "client:lpar7", "")
        said = eventually(lambda: [w["text"] for w in bank.status()["warnings"] if w["code"] == "published"])
        assert f"service shown: 127.0.0.1:{port} cannot be bound: Address already in use" in said[0]
        taken.close()
        assert eventually(lambda: ask_from(("127.0.0.1", port))) == "shown"


def test_a_client_with_a_certificate_is_known_by_its_key(bank: Bank, tmp_path: Path) -> None:
    mine, other = make(tmp_path, "pos"), make(tmp_path, "other")
    bank.op("client", "add", "pos", "--via", "gw1", "--certificate", str(mine.pem), "--label", "tier=shop")
    bank.estate.apply_policy('[[allow]]\nname = "shops"\nfrom = ["label:tier=shop"]\nto = ["*"]\n')
    port = bank.estate.free_port()
    address = ("127.0.0.1", port)
    bank.op("service", "publish", "sales", "--via", "gw1", "--listen", f"127.0.0.1:{port}", "--tls")
    root = root_of(bank.estate.home("vm1"))

    def session(certificate: ClientCertificate, source: str = STRANGER) -> ssl.SSLSocket:
        raw = connect(address, source)
        try:
            return certificate.context(root).wrap_socket(raw, suppress_ragged_eofs=False)
        except BaseException:
            raw.close()
            raise

    def said_to(certificate: ClientCertificate) -> str:
        try:
            with session(certificate) as tls:
                tls.sendall(b"?\n")
                said = tls.recv(100).decode().strip()
        except OSError as exc:
            raise RequestFailed(str(exc)) from None
        if not said:
            raise RequestFailed("closed")
        return said

    with Backend("sales", hold) as backend:
        bank.place("sales", "vm2", backend)
        assert eventually(lambda: said_to(mine)) == "sales"
        with pytest.raises(RequestFailed):
            said_to(other)
        with connect(address) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv(100):
                pass  # an alert, and the end: plain text is no handshake
        with session(mine) as tls:
            assert tls.recv(100) == b"sales\n"
            bulk = b"x" * 1_000_000 + b"\n"
            tls.sendall(bulk)
            got = b""
            while len(got) < len(bulk):
                got += tls.recv(65536)
            assert got == bulk
            bank.op("client", "remove", "pos")
            with pytest.raises(OSError):
                while tls.recv(100):
                    raise AssertionError("cut, and said so without a close_notify")
    record = eventually(lambda: [f for f in bank.flows("vm2") if f["service"] == "sales" and f["result"] == "cut"])[-1]
    assert record["subject"] == "client:pos"
    bank.op("service", "unpublish", "sales")
