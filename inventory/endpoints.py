"""Pure: addresses to dial and to listen on, written `ADDR:PORT` or `[V6]:PORT`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from inventory.errors import InputError
from inventory.names import parse_dotted, shown

_METADATA = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fd00:ec2::/32"))
_BROADCAST = ipaddress.ip_address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One TCP address: an IP literal or a DNS name, and a port (1 to 65535; 0 only to listen: the kernel chooses)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_port(text: str, *, zero_ok: bool = False) -> int:
    """A decimal port without sign, spaces or leading zeros (H24). Raises InputError."""
    if not (text.isascii() and text.isdigit() and (text == "0" or not text.startswith("0"))):
        raise InputError(f"{shown(text)} is not a port", hint="give a number from 1 to 65535")
    port = int(text) if len(text) <= 5 else 65536
    if port > 65535 or (port == 0 and not zero_ok):
        raise InputError(f"{shown(text)} is not a port", hint="give a number from 1 to 65535")
    return port


def parse_endpoint(text: str, *, zero_ok: bool = False) -> Endpoint:
    """`10.0.0.1:7443`, `[2001:db8::1]:7443` or `gw.corp:7443`.

    Raises:
        InputError: not of that form, or an address that can never be meant (H23): a zone, IPv4 mapped into IPv6.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise InputError(f"{shown(text)} is not ADDR:PORT", hint="write it like 10.0.0.1:7443 or [2001:db8::1]:7443")
    number = parse_port(port, zero_ok=zero_ok)
    bracketed = host.startswith("[") and host.endswith("]")
    literal = host[1:-1] if bracketed else host
    try:
        address = ipaddress.ip_address(literal)
    except ValueError:
        if bracketed or ":" in host:
            raise InputError(f"{shown(text)} is not ADDR:PORT: bad IPv6 address") from None
        return Endpoint(parse_dotted(host, "host name or address"), number)
    if isinstance(address, ipaddress.IPv6Address):
        if not bracketed:
            raise InputError(f"{shown(text)}: IPv6 addresses need brackets", hint=f"write [{literal}]:{port}")
        if address.ipv4_mapped is not None or address.scope_id is not None:
            raise InputError(f"{shown(text)}: mapped and zoned IPv6 addresses are not accepted")
    return Endpoint(str(address), number)


def bound_for(advertised: Endpoint) -> Endpoint:
    """What a node binds whose address for others is `advertised`: that one; every address where it is a name, which may
    be of a router in front of it."""
    is_name = not (":" in advertised.host or advertised.host.replace(".", "").isdigit())
    return Endpoint("0.0.0.0", advertised.port) if is_name else advertised


def parse_listen(text: str) -> Endpoint:
    """What a node of ours may bind: as `parse_endpoint`, and port 0 lets the kernel choose."""
    return parse_endpoint(text, zero_ok=True)


def parse_target(text: str) -> Endpoint:
    """Where an instance listens: an endpoint that a packet can be sent to, and no metadata service (C38, H23)."""
    endpoint = parse_endpoint(text)
    try:
        address = ipaddress.ip_address(endpoint.host)
    except ValueError:
        return endpoint
    is_metadata = any(address in network for network in _METADATA)
    if address.is_unspecified or address.is_multicast or address == _BROADCAST or is_metadata:
        why = "metadata services have such addresses" if is_metadata else "no single host has it"
        raise InputError(f"{address} cannot be a target: {why}", hint="give the address the service listens on")
    return endpoint
