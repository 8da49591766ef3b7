"""Pure: clients that know nothing of us: by what they are known, and whether any rule could ever let one in.

A client is known by where it comes from (the longest prefix counts) or by a certificate of its own, of which the public
key counts. Only a gateway that the signed entry names may speak for it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from inventory.endpoints import Endpoint, parse_endpoint
from inventory.errors import InputError
from inventory.model import Admission, Client
from inventory.names import shown

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_key(name: str) -> str:
    """The key of the entry about the client."""
    return f"client/{name}"


def parse_source(text: str) -> Network:
    """`10.1.0.0/16`, or an address for itself alone.

    Raises:
        InputError: no such network, bits beyond its prefix, or an address that stands for another one.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        hint = "write it like 10.1.2.0/24, without bits beyond the prefix, or like 10.1.2.3"
        raise InputError(f"{shown(text)} is not a network", hint=hint) from None
    first = network.network_address
    if isinstance(first, ipaddress.IPv6Address) and (first.ipv4_mapped is not None or first.scope_id is not None):
        raise InputError(f"{shown(text)}: mapped and zoned IPv6 addresses are not accepted")
    if network.prefixlen == 0:
        raise InputError(f"{shown(text)} is everybody, and not a client", hint="name the networks that it calls from")
    return network


def parse_source_text(text: str) -> str:
    """As `parse_source`, in canonical form. Raises InputError."""
    return str(parse_source(text))


def parse_published(text: str) -> Endpoint:
    """What a gateway listens on for clients: an IP address and a port. Raises InputError."""
    endpoint = parse_endpoint(text)
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        hint = "give an address of the gateway, or 0.0.0.0 for all of them"
        raise InputError(f"{endpoint.host} is a name, and not an IP address", hint=hint) from None
    return endpoint


def parse_peer(host: str) -> Address | None:
    """Where a connection comes from, as accept(2) says it; None when that cannot be read."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped if mapped is not None else address


class Sources:
    """Networks with the client of each, asked for the longest that holds an address. One look-up for each length that
    occurs, however many networks there are."""

    def __init__(self, networks: Iterable[tuple[str, str]]) -> None:
        self._by_length: dict[tuple[int, int], dict[int, str]] = {}
        """(version, prefix length) -> first bits -> client."""
        for text, client in networks:
            network = parse_source(text)
            bits = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            self._by_length.setdefault((network.version, network.prefixlen), {})[bits] = client
        self._lengths = sorted(self._by_length, reverse=True)

    def find(self, address: Address) -> str | None:
        """The client with the longest prefix of the address."""
        number, most = int(address), address.max_prefixlen
        for version, length in self._lengths:
            if version == address.version:
                found = self._by_length[version, length].get(number >> (most - length))
                if found is not None:
                    return found
        return None


class Admissions:
    """The clients that one gateway may speak for, and how each is known."""

    def __init__(self, gateway: str, clients: Mapping[str, Client], admissions: Mapping[str, Admission]) -> None:
        mine = [
            admission
            for name, admission in sorted(admissions.items())
            if (client := clients.get(name)) is not None and gateway in client.gateways
        ]
        self._sources = Sources((source, a.client) for a in mine for source in a.sources)
        self._keys = {key: admission for admission in mine for key in admission.certificates}
        self._with_certificate = {admission.client for admission in mine if admission.certificates}
        self.certificates = {key: pem for admission in mine for key, pem in admission.certificates.items()}
        """By key hash: those that a client of this gateway may show."""

    def by_source(self, address: Address | None) -> str | None:
        """The client that calls from here without a certificate."""
        client = self._sources.find(address) if address is not None else None
        return client if client not in self._with_certificate else None

    def with_certificates(self, address: Address | None) -> list[str]:
        """The clients that may call from here and show a certificate."""
        source = self._sources.find(address) if address is not None else None
        admissions = {id(admission): admission for admission in self._keys.values()}.values()
        return [a.client for a in admissions if not a.sources or source == a.client]

    def by_key(self, key: str, address: Address | None) -> str | None:
        """The client with this key, when it calls from where it may."""
        admission = self._keys.get(key)
        if admission is None:
            return None
        if admission.sources and (address is None or self._sources.find(address) != admission.client):
            return None
        return admission.client


def overlapping(
    admission: Admission, client: Client, clients: Mapping[str, Client], admissions: Mapping[str, Admission]
) -> str | None:
    """Why somebody would be two clients at once at some gateway, in words; None when nobody would."""
    for name, other in sorted(admissions.items()):
        them = clients.get(name)
        if name == client.name or them is None or not set(them.gateways) & set(client.gateways):
            continue
        both = sorted(set(admission.sources) & set(other.sources))
        if both:
            return f"{both[0]} is client {name} already"
        if admission.certificates.keys() & other.certificates.keys():
            return f"the certificate's key is that of client {name} already"
    return None
