"""Pure: whose an address is, as far as a home knows the estate. No name is looked up in the DNS: nobody asked us to."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from agents.discovery.sockets import ANY, End, parse_address
from bridge.policy.decide import Permit, Subject, decide
from inventory.clients import Admissions, parse_peer
from inventory.endpoints import parse_endpoint
from inventory.errors import InputError
from inventory.model import Client
from inventory.names import parse_host
from inventory.reach import parse_reach
from inventory.snapshot import Snapshot

_ANY_GATEWAY = "any"


@dataclass(frozen=True, slots=True)
class Box:
    """The machine that was looked at."""

    name: str
    """Its host name, or what it could be called."""
    is_host: bool
    """Whether the estate has it."""
    gateway: str = ""
    """Who reaches it, over ssh; empty: it was looked at from itself."""
    ssh_port: int = 0
    """Where that gateway's ssh connection ends."""


class Whose:
    """What a home knows of addresses.

    Args:
        snapshot: None: it knows nothing.
        bridge: this box's addresses of services, and the ends at which they are published on it, -> their names.
        gateway: the one that runs on this box, if any: its connections to hosts without agent are the estate's own.
    """

    def __init__(
        self, snapshot: Snapshot | None, bridge: Mapping[str | End, str], now: float, gateway: str = ""
    ) -> None:
        self._snapshot = snapshot
        self._bridge = bridge
        self._now = now
        self._hosts: dict[str, str] = {}
        """Address -> host."""
        self._nodes: set[End] = set()
        """Where gateways and agents listen for each other."""
        self._placed: dict[End, str] = {}
        """Target that is the same from everywhere -> service."""
        self._gateway_addresses: set[str] = set()
        self.gateways: tuple[str, ...] = ()
        self._clients: Admissions | None = None
        if snapshot is not None:
            self._learn(snapshot, gateway)

    def _learn(self, snapshot: Snapshot, own: str) -> None:
        authority = snapshot.authority
        self.gateways = tuple(sorted(authority.gateways))
        for host, reach in sorted(authority.reaches.items()):
            url = parse_reach(reach.url)
            self._know(url.address, host)
            if reach.gateway == own and url.scheme == "ssh":
                self._nodes.add(_end(str(url.endpoint)))
        for name, presence in sorted(snapshot.presence.items()):
            if presence.advertise is not None:
                end = _end(presence.advertise)
                self._nodes.add(end)
                self._know(end.address, name)
        meeting_points = {_end(gateway.address) for gateway in authority.gateways.values()}
        self._gateway_addresses = {end.address for end in meeting_points}
        self._nodes |= meeting_points
        self._nodes |= {_end(p.listen) for p in authority.publications.values() if p.listen is not None}
        for service in snapshot.services.values():
            for instance in service.instances:
                end = _end(instance.target)
                if not _is_local(end.address):
                    self._placed[end] = service.name
        # Whichever gateway may speak for it: it is who calls that counts here.
        clients = {n: Client(name=n, gateways=(_ANY_GATEWAY,)) for n in authority.clients}
        self._clients = Admissions(_ANY_GATEWAY, clients, authority.admissions)

    def _know(self, address: str, host: str) -> None:
        parsed = parse_address(address)
        if parsed and not _is_local(parsed):
            self._hosts.setdefault(parsed, host)

    def host_at(self, address: str) -> str | None:
        return self._hosts.get(address)

    def subject_at(self, address: str) -> str | None:
        """`host:aix1` or `client:lpar7`, as policy speaks of who connects from there."""
        host = self._hosts.get(address)
        if host is not None:
            return f"host:{host}"
        client = self._clients.by_source(parse_peer(address)) if self._clients is not None else None
        return f"client:{client}" if client is not None else None

    def is_node(self, end: End) -> bool:
        """Whether the estate's own nodes meet there."""
        return end in self._nodes

    def is_gateway(self, address: str) -> bool:
        return address in self._gateway_addresses

    def bridged(self, end: End) -> str | None:
        """The service that the box reaches there, on itself, through the bridge."""
        return self._bridge.get(end) or self._bridge.get(end.address)

    def service_at(self, end: End, host: str | None) -> str | None:
        """What is placed there already: by its target, or on this host at the same port. What listens on every address
        of a host is what its own loopback reaches."""
        if end in self._placed:
            return self._placed[end]
        if self._snapshot is None or host is None:
            return None
        for instance in self._snapshot.offers(host):
            target = _end(instance.target)
            if target.port == end.port and (target.address == end.address or _is_local(target.address)):
                return instance.service
        return None

    def is_taken(self, service: str) -> bool:
        """Whether there is a service of that name."""
        return self._snapshot is not None and self._snapshot.service(service) is not None

    def allowed_by(self, subject: str, service: str) -> str | None:
        """The rule that allows it already; None: none does."""
        if self._snapshot is None:
            return None
        kind, _, name = subject.partition(":")
        who = Subject("client" if kind == "client" else "host", name)
        decision = decide(self._snapshot, who, service, now=self._now)
        return decision.rule if isinstance(decision, Permit) else None


def _end(text: str) -> End:
    endpoint = parse_endpoint(text)
    address = parse_address(endpoint.host)
    return End(endpoint.host if address is None else address, endpoint.port)


def _is_local(address: str) -> bool:
    """Whether it means another machine on every machine."""
    try:
        return address == ANY or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def host_name_of(text: str) -> str:
    """What a machine that calls itself this could be called here."""
    try:
        return parse_host(text.partition(".")[0])
    except InputError:
        return "this-host"
