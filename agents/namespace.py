"""I/O: the namespace on a host: an address and a listening socket for every visible service, and the DNS zone.

Sockets are bound here and served by the data workers. One that cannot be bound is a problem that `status` shows; the
others work on. Addresses are remembered on disk, so they are the same after a restart.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path

import trio

from agents.workers import messages as m
from bridge.dns import addresses
from bridge.dns.addresses import AddressBook
from bridge.dns.zone import Zone
from bridge.logs import get_logger
from bridge.ports import holder_of
from inventory.errors import MeshError
from inventory.home import read_file, write_file
from inventory.names import ServiceName
from inventory.snapshot import Snapshot

log = get_logger()

_BACKLOG = 4096
_FILE = "addresses.json"


def visible_names(snapshot: Snapshot) -> dict[str, tuple[ServiceName, int]]:
    """Every name of the namespace that this host may see (`web`, `web.dc1`), with what it means and its port."""
    names: dict[str, tuple[ServiceName, int]] = {}
    for service in snapshot.services.values():
        names[service.name] = (ServiceName(service.name), service.port)
        for instance in service.instances:
            site = snapshot.site_of(instance.host)
            if site is not None:
                names[f"{service.name}.{site}"] = (ServiceName(service.name, site), service.port)
    return names


def bind_tcp(address: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises OSError."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OverflowError as exc:
        sock.close()
        raise OSError(errno.EINVAL, str(exc)) from None
    except BaseException:
        sock.close()
        raise
    return sock


class Namespace:
    """Owner of the address book and of the listening sockets.

    Args:
        listen, unlisten: hand a socket to the data workers, and take it back.
        bind: makes a listening socket on an address and port, or raises OSError.
    """

    def __init__(
        self, home: Path, slice_text: str | None, *,
        listen: Callable[[m.Listen, socket.socket], None],
        unlisten: Callable[[str, int], None],
        bind: Callable[[str, int], socket.socket] = bind_tcp,
    ) -> None:  # fmt: skip
        self._home = home
        self._listen = listen
        self._unlisten = unlisten
        self._listener_on = bind
        self._bound: dict[tuple[str, int], ServiceName] = {}
        self._syncing = trio.Lock()
        self._remembered = True
        """Whether the book on disk is this one."""
        self.problems: dict[tuple[str, int], str] = {}
        self.zone: Zone | None = None
        self.names: dict[str, tuple[ServiceName, int]] = {}
        self.book = _load_book(home, slice_text)

    async def sync(self, snapshot: Snapshot) -> None:
        """Bring addresses, listeners and zone in line with what is visible now."""
        async with self._syncing:
            names = visible_names(snapshot)
            book = self.book.assign(names)
            if book is not self.book or not self._remembered:
                self.book = book
                try:
                    await trio.to_thread.run_sync(write_file, self._home / _FILE, addresses.encode(book))
                    self._remembered = True
                except MeshError as exc:
                    self._remembered = False
                    log.error("addresses are not remembered", reason=str(exc), hint=exc.hint)
            wanted = {
                (book.assigned[name], port): service for name, (service, port) in names.items() if name in book.assigned
            }
            # An address may have gone from one service to another.
            for place in [place for place, service in self._bound.items() if wanted.get(place) != service]:
                del self._bound[place]
                self._unlisten(*place)
            self.problems = {place: why for place, why in self.problems.items() if place in wanted}
            for place, service in wanted.items():
                if place not in self._bound:
                    await self._bind(place, service)
            # Only now: nobody is given an address at which nothing listens yet.
            self.names = names
            self.zone = Zone(
                domain=snapshot.authority.namespace or "bridge.internal",
                book=book,
                ports={name: port for name, (_, port) in names.items()},
                server=book.server_address,
                serial=max(1, snapshot.revision % 2**32),
            )

    async def _bind(self, place: tuple[str, int], service: ServiceName) -> None:
        address, port = place
        try:
            sock = self._listener_on(address, port)
        except OSError as exc:
            why = f"{address}:{port} cannot be bound: {exc.strerror or exc}"
            if exc.errno == errno.EADDRINUSE:
                holder = await trio.to_thread.run_sync(holder_of, address, port, "tcp")
                why += f" (held by {holder})" if holder else ""
            if self.problems.get(place) != why:
                log.warning("service cannot be offered here", service=service.service, reason=why)
            self.problems[place] = why
            return
        self.problems.pop(place, None)
        self._bound[place] = service
        self._listen(m.Listen(service=service.service, site=service.site, address=address, port=port), sock)

    def lookup(self, name: str) -> tuple[str, int] | None:
        """Address and port of a visible name (`web`, `web.dc1`)."""
        found = self.names.get(name)
        address = self.book.assigned.get(name)
        return (address, found[1]) if found is not None and address is not None else None


def _load_book(home: Path, slice_text: str | None) -> AddressBook:
    network = addresses.parse_slice(slice_text) if slice_text else addresses.DEFAULT_SLICE
    path = home / _FILE
    if path.exists():
        try:
            book = addresses.decode(read_file(path), where=str(path))
            if book.slice == network:
                return book
            log.warning("the address slice changed; services get new addresses", before=str(book.slice))
        except MeshError as exc:
            log.error("addresses.json is damaged; services may get new addresses", reason=str(exc))
    return AddressBook(network)
