"""Pure: what the namespace says about a name. One immutable value, swapped as a whole; it knows no wire format.

Below the domain (`bridge.internal`):

    web, web.dc1                 the service's loopback address: anywhere, or in one site
    _web._tcp, _web._tcp.dc1     its port and name (RFC 2782)
    the domain itself            SOA and NS; its address is the DNS server's

Below in-addr.arpa, for addresses inside the host's slice only: the name at an address. Anything else is outside, and
outside is refused: this zone never guesses, never forwards, and has no wildcards. Names are compared label by label in
lower case, so `xbridge.internal` is not below `bridge.internal` and a label with a dot in it matches nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from bridge import limits
from bridge.dns.addresses import AddressBook
from inventory.names import MAX_NAME, parse_domain

Labels = tuple[bytes, ...]
"""A name as it travels: labels without the root, first label first. Lower case when the zone is asked."""

REVERSE: Labels = (b"in-addr", b"arpa")


def clamp_ttl(seconds: float) -> int:
    """Seconds that an answer may be kept: never negative, never long (C40)."""
    return int(min(max(seconds, 0), limits.DNS_TTL_MAX))


def labels_of(name: str) -> Labels:
    """The labels of a canonical name."""
    return tuple(name.encode("ascii").split(b"."))


@dataclass(frozen=True, slots=True)
class Port:
    """What an SRV record says: a service's port and the name that has its address."""

    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Node:
    """What stands under one name. Empty: the name exists only because others stand below it (RFC 8020)."""

    address: str | None = None
    port: Port | None = None
    pointer: str | None = None
    is_apex: bool = False


EMPTY = Node()


@dataclass(frozen=True, slots=True)
class Found:
    """The zone's word on a name that is its own: `node` is None when there is no such name."""

    apex: Labels
    node: Node | None


@dataclass(frozen=True)
class Zone:
    """The namespace of one host at one moment.

    Args:
        domain: for example `bridge.internal`; parsed here.
        book: addresses; its slice is what reverse names are answered for.
        ports: the visible names (`web`, `web.dc1`) and their ports. A name without an address is not in the zone.
        server: the DNS server's own address; only an IPv4 one is published.
        serial: the snapshot's revision, for the SOA.
        ttl: seconds, clamped to 0 to 60.

    Raises:
        InputError: the domain is not one.
    """

    domain: str
    book: AddressBook
    ports: Mapping[str, int]
    server: str
    serial: int = 1
    ttl: int = limits.DNS_TTL
    negative_ttl: int = limits.DNS_NEGATIVE_TTL
    apex: Labels = field(init=False)

    def __post_init__(self) -> None:
        domain = parse_domain(self.domain)
        object.__setattr__(self, "domain", domain)
        object.__setattr__(self, "apex", labels_of(domain))
        object.__setattr__(self, "ttl", clamp_ttl(self.ttl))
        object.__setattr__(self, "negative_ttl", clamp_ttl(self.negative_ttl))

    @cached_property
    def _sites(self) -> frozenset[str]:
        return frozenset(name.partition(".")[2] for name in self.ports if "." in name)

    @cached_property
    def _pointers(self) -> dict[str, str]:
        """Address -> full name. A name too long to travel has no pointer; nobody can ask for it either."""
        full = {self.server: self.domain}
        for name in self.ports:
            address = self.book.assigned.get(name)
            if address is not None and len(name) + 1 + len(self.domain) <= MAX_NAME:
                full[address] = f"{name}.{self.domain}"
        return full

    @property
    def addresses(self) -> dict[str, str]:
        """Full name -> address of everything in the zone, in the order of `ports`: what a hosts file would hold."""
        assigned = self.book.assigned
        return {f"{name}.{self.domain}": assigned[name] for name in self.ports if name in assigned}

    def lookup(self, name: Labels) -> Found | None:
        """What the zone says about `name` (lower case); None when the name is not the zone's to speak about."""
        depth = len(self.apex)
        if name[-depth:] == self.apex:
            return Found(self.apex, self._forward(name[:-depth]))
        if name[-2:] == REVERSE:
            return self._reverse(name[:-2])
        return None

    def _forward(self, below: Labels) -> Node | None:
        if not below:
            return Node(address=self.server if _is_ipv4(self.server) else None, is_apex=True)
        try:
            parts = [label.decode("ascii") for label in below]
        except UnicodeDecodeError:
            return None
        if any("." in part for part in parts):
            return None
        if "_tcp" in parts[:2]:
            return self._port(parts)
        if len(parts) > 2:
            return None
        name = ".".join(parts)
        address = self.book.assigned.get(name) if name in self.ports else None
        if address is not None:
            return Node(address=address)
        return EMPTY if name in self._sites else None

    def _port(self, parts: list[str]) -> Node | None:
        """`_tcp`, `_tcp.SITE`, `_SERVICE._tcp` or `_SERVICE._tcp.SITE`."""
        if parts[0] == "_tcp":
            return EMPTY if len(parts) == 1 or (len(parts) == 2 and parts[1] in self._sites) else None
        if len(parts) > 3 or not parts[0].startswith("_"):
            return None
        name = ".".join([parts[0][1:], *parts[2:]])
        port = self.ports.get(name)
        if port is None or name not in self.book.assigned:
            return None
        return Node(port=Port(port, f"{name}.{self.domain}"))

    def _reverse(self, octets: Labels) -> Found | None:
        """`octets` are an address's, last one first, as reverse names have them (RFC 1035 section 3.5)."""
        network = self.book.slice
        fixed = -(-network.prefixlen // 8)
        numbers = [_octet(label) for label in reversed(octets)]
        head = numbers[:fixed]
        if len(head) < fixed or None in head:
            return None
        start = bytes(number or 0 for number in head).ljust(4, b"\0")
        if ipaddress.IPv4Address(start) not in network:
            return None
        apex = (*octets[-fixed:], *REVERSE)
        return Found(apex, self._pointer(numbers, fixed))

    def _pointer(self, numbers: list[int | None], fixed: int) -> Node | None:
        if None in numbers or len(numbers) > 4:
            return None
        if len(numbers) < 4:
            return Node(is_apex=True) if len(numbers) == fixed else EMPTY
        name = self._pointers.get(".".join(str(number) for number in numbers))
        return None if name is None else Node(pointer=name)


def _octet(label: bytes) -> int | None:
    """0 to 255 without leading zeros, or None."""
    if not label.isdigit() or len(label) > 3 or (len(label) > 1 and label[:1] == b"0"):
        return None
    number = int(label)
    return number if number <= 255 else None


def _is_ipv4(address: str) -> bool:
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return True
