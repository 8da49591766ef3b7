"""Pure: where an estate's registry is in Consul: the address, the prefix of its keys, the files to use with it.

Kept in domain.json, so nothing here is secret: the token is in a file of its own, which is named.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from inventory.errors import InputError
from inventory.names import shown

DEFAULT_PREFIX = "meshbridge/"
ADDRESSES_MAX = 7
"""Consul's own clusters have three or five servers, seldom seven."""
PREFIX_MAX = 128
"""Consul's own keys end at some thousand bytes; ours are up to 512 behind the prefix."""
_PREFIX = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9._-]*/)+", re.ASCII)
_PORTS = {"http": 8500, "https": 8501}


class Address(NamedTuple):
    scheme: str
    host: str
    port: int


def parse_address(text: str) -> Address:
    """`http://HOST[:PORT]` or `https://HOST[:PORT]`. Raises InputError."""
    hint = "write it like https://consul.example:8501 or http://127.0.0.1:8500"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InputError(f"{shown(text)} is not the address of a Consul", hint=hint) from None
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc
    # Printable ASCII only: whatever else a URL may hold, an address of Consul has no need of.
    if parts.scheme not in _PORTS or not parts.hostname or has_more or not re.fullmatch(r"[\x21-\x7e]+", text):
        raise InputError(f"{shown(text)} is not the address of a Consul", hint=hint)
    return Address(parts.scheme, parts.hostname, port if port is not None else _PORTS[parts.scheme])


def parse_prefix(text: str) -> str:
    """A folder of Consul's KV, like `meshbridge/`. Raises InputError."""
    if len(text) > PREFIX_MAX or not _PREFIX.fullmatch(text):
        raise InputError(f"{shown(text)} is not a prefix of keys", hint="write it like meshbridge/ or corp/meshbridge/")
    return text


class ConsulPlace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    address: str
    others: tuple[str, ...] = ()
    """Further servers of the same cluster, asked when the one before them cannot be."""
    prefix: str = DEFAULT_PREFIX
    token_file: str | None = None
    """Absolute path of the file that holds the ACL token, for its owner alone."""
    ca_file: str | None = None
    """Absolute path of the CA certificates, PEM, that Consul's certificate must come from; None: the system's."""
    catalog: bool = False
    """Whether the gateways write hosts and instances into Consul's catalog, which others use too."""

    def __post_init__(self) -> None:
        """Raises InputError."""
        parse_prefix(self.prefix)
        for path in (self.token_file, self.ca_file):
            if path is not None and not path.startswith("/"):
                raise InputError(f"{shown(path)} is not an absolute path")
        if len(self.addresses) > ADDRESSES_MAX:
            raise InputError(f"{len(self.addresses)} addresses of Consul; {ADDRESSES_MAX} are enough")
        if len({parse_address(text).scheme for text in self.addresses}) > 1:
            what = "addresses of Consul with TLS and without"
            raise InputError(what, hint="all of them reach one cluster: write all as https://")
        for text in self.addresses:
            self._check_safe(text)

    def _check_safe(self, text: str) -> None:
        address = parse_address(text)
        if self.ca_file is not None and address.scheme != "https":
            raise InputError("a CA for an address without TLS", where=text, hint="write the address as https://")
        if self.token_file is not None and address.scheme != "https" and not _is_loopback(address.host):
            raise InputError(
                "the token would cross the network in clear",
                where=text,
                hint="use https:// with --consul-ca, or the address of a Consul agent on this machine",
            )

    @property
    def addresses(self) -> tuple[str, ...]:
        """All of them, in the order in which they are asked."""
        return (self.address, *self.others)

    @property
    def where(self) -> str:
        """For errors that are about all of them."""
        return ", ".join(self.addresses)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
