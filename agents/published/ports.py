"""I/O: the ports at which this gateway publishes services: a listening socket for each, handed to the data workers.

The supervisor binds, as it does every listener; the workers accept, know the client, and decide. A port that cannot be
had is tried again, and `status` says who holds it.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any

import trio

from agents.backoff import Backoff
from agents.data_workers import DataWorkers
from agents.supervisor import Latest
from agents.workers import messages as m
from bridge import limits
from bridge.logs import get_logger
from bridge.ports import holder_of
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.model import Publication
from inventory.snapshot import Snapshot

log = get_logger()

_BACKLOG = 1024


def bind_published(place: Endpoint) -> socket.socket:
    """A listening socket. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in place.host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((place.host, place.port))
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class PublishedPorts:
    """Args:
    inherited: the socket that the version before us had at an address and port, if it had one.
    bind: makes a listening socket, or raises OSError.
    """

    def __init__(
        self, gateway: str, workers: DataWorkers, inherited: Callable[[str, int], socket.socket | None],
        bind: Callable[[Endpoint], socket.socket] = bind_published,
    ) -> None:  # fmt: skip
        self._gateway = gateway
        self._workers = workers
        self._inherited = inherited
        self._bind = bind
        self._wanted: dict[Endpoint, Publication] = {}
        self._bound: dict[Endpoint, Publication] = {}
        self._reasons: dict[Endpoint, str] = {}
        self._unbound = Latest()
        self._snapshot: Snapshot | None = None

    @property
    def is_any(self) -> bool:
        """Whether clients may come in here."""
        return bool(self._wanted)

    def follow(self, snapshot: Snapshot) -> None:
        """Bring the listeners in line with what is signed now. The workers know it already: what is no longer published
        takes nobody meanwhile."""
        self._snapshot = snapshot
        wanted: dict[Endpoint, Publication] = {}
        for _, one in sorted(snapshot.authority.publications.items()):
            if one.gateway == self._gateway and one.listen is not None:
                wanted.setdefault(parse_endpoint(one.listen), one)
        self._wanted = wanted
        for place in [place for place, one in self._bound.items() if wanted.get(place) != one]:
            del self._bound[place]
            self._workers.unlisten(place.host, place.port)
        self._reasons = {place: why for place, why in self._reasons.items() if place in wanted}
        for place in wanted.keys() - self._bound.keys():
            self._try(place)
        if wanted.keys() - self._bound.keys():
            self._unbound.ask()

    async def run(self) -> None:
        """Try again for what could not be bound, until cancelled."""
        while True:
            await self._unbound.asked()
            backoff = Backoff(rng=random.Random(), first=limits.BIND_RETRY_FIRST, maximum=limits.BIND_RETRY_MAX)
            while missing := self._wanted.keys() - self._bound.keys():
                for place in missing:
                    holder = await trio.to_thread.run_sync(holder_of, place.host, place.port, "tcp")
                    if place in self._wanted.keys() - self._bound.keys():
                        self._try(place, holder)
                await trio.sleep(backoff.next())

    def _try(self, place: Endpoint, holder: str | None = None) -> None:
        one = self._wanted[place]
        try:
            sock = self._inherited(place.host, place.port) or self._bind(place)
        except OSError as exc:
            held = f" (held by {holder})" if holder and exc.errno == errno.EADDRINUSE else ""
            why = f"{place} cannot be bound: {exc.strerror or exc}{held}"
            if self._reasons.get(place) != why:
                log.warning("a service cannot be published", service=one.service, reason=why)
            self._reasons[place] = why
            return
        self._reasons.pop(place, None)
        self._bound[place] = one
        message = m.ListenPublished(service=one.service, address=place.host, port=place.port, tls=one.tls)
        self._workers.listen(message, sock)

    # --- looking --------------------------------------------------------------------------------------------------

    def status(self) -> list[dict[str, Any]]:
        return published_rows(self._snapshot, self._gateway, self._reasons) if self._snapshot is not None else []

    def problems(self) -> list[str]:
        return [
            f"service {self._wanted[place].service}: {why}" for place, why in sorted(self._reasons.items(), key=str)
        ]


def published_rows(snapshot: Snapshot, gateway: str, reasons: Mapping[Endpoint, str]) -> list[dict[str, Any]]:
    """Pure: what `status` says of each port: who could come in there, and what keeps it closed."""
    rows = []
    behind = set(snapshot.behind(gateway))
    for _, one in sorted(snapshot.authority.publications.items()):
        if one.gateway != gateway and one.host not in behind:
            continue
        place = one.listen if one.listen is not None else f"127.0.0.1:{one.port} on {one.host}"
        reason = reasons.get(parse_endpoint(one.listen), "") if one.listen is not None else ""
        rows.append(
            {
                "service": one.service,
                "at": place,
                "clients": "with a certificate" if one.tls else "by address" if one.gateway is not None else one.host,
                "could_call": ", ".join(_could_call(snapshot, gateway, one)),
                "problem": reason,
            }
        )
    return rows


def _could_call(snapshot: Snapshot, gateway: str, one: Publication) -> list[str]:
    """Those who come in there, as far as some rule could let them: times, users and denies aside."""
    service, index = snapshot.service(one.service), snapshot.index
    if service is None:
        return []
    mask = index.to_service(service) & index.acting
    if one.host is not None:
        host = snapshot.host(one.host)
        return [f"host:{one.host}"] if host is not None and index.from_host(host) & mask else []
    authority = snapshot.authority
    found = []
    for name, client in sorted(authority.clients.items()):
        admission = authority.admissions.get(name)
        comes = admission is not None and bool(admission.certificates) == one.tls
        if comes and gateway in client.gateways and index.from_client(client) & mask:
            found.append(f"client:{name}")
    return found
