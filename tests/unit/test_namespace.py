"""I/O: the namespace on a host: an address and a listener for every visible service, whatever cannot be bound."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agents.namespace import Namespace, bind_tcp, visible_names
from agents.workers import messages as m
from bridge.dns.addresses import AddressBook, parse_slice
from inventory.errors import Unavailable
from inventory.model import Host
from inventory.names import ServiceName
from inventory.snapshot import Snapshot
from tests.support.estates import instance, snapshot

SLICE = "127.99.0.0/24"
HOSTS = [Host(name="vm1", site="dc1"), Host(name="vm2", site="dc2"), Host(name="vm3")]


SOCKETS: list[socket.socket] = []


@pytest.fixture(autouse=True)
def no_socket_stays() -> Iterator[None]:
    yield
    while SOCKETS:
        SOCKETS.pop().close()


def estate(**ports: int) -> Snapshot:
    """Services by name and port, each on vm1."""
    return snapshot(HOSTS, [instance(name, "vm1", port=port) for name, port in ports.items()])


class Machine:
    """Whoever binds and listens; what is held by others cannot be bound."""

    def __init__(self, home: Path) -> None:
        self.held: dict[tuple[str, int] | int, OSError] = {}
        self.listening: dict[tuple[str, int], ServiceName] = {}
        self.log: list[str] = []
        self._sockets: list[socket.socket] = []
        self.namespace = Namespace(home, SLICE, listen=self._listen, unlisten=self._unlisten, bind=self._bind)

    def _bind(self, address: str, port: int) -> socket.socket:
        error = self.held.get((address, port)) or self.held.get(port)
        if error is not None:
            raise error
        sock = socket.socket(socket.AF_UNIX)
        SOCKETS.append(sock)
        self._sockets.append(sock)
        return sock

    def _listen(self, message: m.Listen, sock: socket.socket) -> None:
        assert sock in self._sockets
        self.listening[message.address, message.port] = ServiceName(message.service, message.site)
        self.log.append(f"+{message.service}:{message.port}")

    def _unlisten(self, address: str, port: int) -> None:
        name = self.listening.pop((address, port))
        self.log.append(f"-{name.service}:{port}")

    def services(self) -> set[tuple[str, int]]:
        return {(name.service, port) for (_, port), name in self.listening.items()}


def test_every_visible_service_has_its_name_and_one_for_each_site() -> None:
    services = [instance("web", "vm1", port=80), instance("web", "vm2", port=80), instance("db", "vm3", port=5432)]
    assert visible_names(snapshot(HOSTS, services)) == {
        "web": (ServiceName("web"), 80),
        "web.dc1": (ServiceName("web", "dc1"), 80),
        "web.dc2": (ServiceName("web", "dc2"), 80),
        "db": (ServiceName("db"), 5432),
    }


async def test_services_are_listened_for_as_they_come_and_go(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    namespace = machine.namespace
    await namespace.sync(estate(web=80, db=5432))
    assert machine.services() == {("web", 80), ("db", 5432)}
    found = namespace.lookup("web")
    assert found is not None and machine.listening[found] == ServiceName("web")
    assert namespace.zone is not None and found[0] in namespace.zone.addresses.values()
    machine.log.clear()
    await namespace.sync(estate(web=80))
    assert machine.log == ["-db:5432", "-db:5432"], "by its name, and by its name at its site"
    assert namespace.lookup("db") is None
    await namespace.sync(estate(web=80, db=5432))
    await namespace.sync(estate(web=8080, db=5432))
    assert machine.services() == {("web", 8080), ("db", 5432)}


async def test_nothing_is_done_twice(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    await machine.namespace.sync(estate(web=80))
    machine.log.clear()
    await machine.namespace.sync(estate(web=80))
    assert machine.log == []


async def test_addresses_are_the_same_after_a_restart(tmp_path: Path) -> None:
    first = Machine(tmp_path)
    await first.namespace.sync(estate(web=80, db=5432, cards=90))
    second = Machine(tmp_path)
    await second.namespace.sync(estate(cards=90, web=80))
    for name in ("web", "cards", "web.dc1"):
        assert second.namespace.lookup(name) == first.namespace.lookup(name) is not None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EADDRINUSE, "Address already in use"),
        OSError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"),
    ],
    ids=lambda e: errno.errorcode[e.errno],
)
async def test_f26_f29_what_cannot_be_bound_is_a_problem_and_the_rest_works(tmp_path: Path, error: OSError) -> None:
    machine = Machine(tmp_path)
    machine.held[80] = error
    await machine.namespace.sync(estate(web=80, db=5432))
    assert machine.services() == {("db", 5432)}
    problems = machine.namespace.problems
    found = machine.namespace.lookup("web")
    assert found is not None and str(error.strerror) in problems[found]
    machine.held.clear()
    await machine.namespace.sync(estate(web=80, db=5432))
    assert not machine.namespace.problems and machine.services() == {("web", 80), ("db", 5432)}


async def test_a_problem_ends_with_its_service(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.held[80] = OSError(errno.EACCES, "Permission denied")
    await machine.namespace.sync(estate(web=80))
    assert machine.namespace.problems
    await machine.namespace.sync(estate())
    assert not machine.namespace.problems


async def test_an_address_that_changes_hands_is_listened_on_for_the_new_service(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    await machine.namespace.sync(estate(web=80))
    before = machine.namespace.lookup("web")
    assert before is not None
    book = machine.namespace.book
    machine.namespace.book = AddressBook(book.slice, {"db": before[0], "db.dc1": book.assigned["web.dc1"]})
    await machine.namespace.sync(estate(db=80))
    assert machine.listening[before] == ServiceName("db") and machine.namespace.lookup("db") == before


async def test_f04_addresses_that_cannot_be_written_are_used_all_the_same_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise Unavailable("no space left")

    machine = Machine(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("agents.namespace.write_file", full)
        await machine.namespace.sync(estate(web=80))
        assert machine.services() == {("web", 80)} and not (tmp_path / "addresses.json").exists()
    await machine.namespace.sync(estate(web=80))
    assert Machine(tmp_path).namespace.book.assigned == machine.namespace.book.assigned


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"version":9}'])
async def test_damaged_addresses_cost_the_memory_and_not_the_service(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "addresses.json").write_bytes(damage)
    machine = Machine(tmp_path)
    await machine.namespace.sync(estate(web=80))
    assert machine.services() == {("web", 80)}


async def test_another_slice_means_other_addresses(tmp_path: Path) -> None:
    await Machine(tmp_path).namespace.sync(estate(web=80))
    moved = Namespace(tmp_path, "127.98.0.0/24", listen=None, unlisten=None)  # type: ignore[arg-type]
    assert moved.book == AddressBook(parse_slice("127.98.0.0/24"))


async def test_two_changes_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.namespace.sync, estate(web=80, db=5432))
        nursery.start_soon(machine.namespace.sync, estate(web=80, db=5432))
    assert sorted(machine.log) == ["+db:5432", "+db:5432", "+web:80", "+web:80"]


@pytest.mark.parametrize("port", [70000, -1])
def test_h27_a_port_that_is_none_is_an_os_error(port: int) -> None:
    with pytest.raises(OSError):
        bind_tcp("127.0.0.1", port)
