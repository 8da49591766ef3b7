"""Pure: the PROXY protocol, version 2: a header in front of a connection's first byte that says who calls.

For instances that want it (`service add --proxy-protocol`), written by whoever connects to them. The addresses are the
caller's as far as they are known, and the target's. Identity is in fields of our own, from the range that the protocol
leaves to its users; what is not known is left out:

    0xE0    who calls, as the policy writes it: `host:web1`, `client:lpar7`
    0xE1    the local user there, attested by the caller's agent
    0xE2    the gateway on whose word it is who it is
"""

from __future__ import annotations

import ipaddress
import struct

from inventory.endpoints import parse_endpoint
from inventory.errors import InputError

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TYPE_SUBJECT = 0xE0
TYPE_USER = 0xE1
TYPE_SPEAKER = 0xE2

_PROXY = 0x21
_LOCAL = 0x20
_UNKNOWN = 0x00
_TCP4 = 0x11
_TCP6 = 0x21
_VALUE_MAX = 264
"""Of our fields, in bytes: a name has at most 253, and a kind stands before it."""


def header(
    *, subject: str, user: str | None, speaker: str | None, source: str | None, target: tuple[str, int]
) -> bytes:
    """The header of a connection.

    Args:
        source: `ADDR:PORT` that the subject calls from; None: not known.
        target: the address and port connected to.
    """
    family, addresses = _addresses(source, target)
    fields = _field(TYPE_SUBJECT, subject)
    fields += _field(TYPE_USER, user) if user else b""
    fields += _field(TYPE_SPEAKER, speaker) if speaker else b""
    body = addresses + fields
    return SIGNATURE + struct.pack(">BBH", _PROXY, family, len(body)) + body


def local_header() -> bytes:
    """Of a connection that nobody asked for: a health check."""
    return SIGNATURE + struct.pack(">BBH", _LOCAL, _UNKNOWN, 0)


def _field(kind: int, text: str) -> bytes:
    value = text.encode("utf-8", "replace")[:_VALUE_MAX]
    return struct.pack(">BH", kind, len(value)) + value


def _addresses(source: str | None, target: tuple[str, int]) -> tuple[int, bytes]:
    """Both of one family, or none."""
    try:
        caller = parse_endpoint(source, zero_ok=True) if source is not None else None
        ends = [ipaddress.ip_address(host) for host in (caller.host, target[0])] if caller is not None else []
    except (InputError, ValueError):
        return _UNKNOWN, b""
    if caller is None:
        return _UNKNOWN, b""
    ports = struct.pack(">HH", caller.port, target[1])
    if all(end.version == 4 for end in ends):
        return _TCP4, b"".join(end.packed for end in ends) + ports
    return _TCP6, b"".join(_as_v6(end).packed for end in ends) + ports


def _as_v6(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv6Address:
    """An IPv4 address in a header of the other family is written as one mapped into IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        return address
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
