"""Pure: which loopback address each visible service has on this host.

An address follows from the service's name alone: sha256 of the name picks a place in the host's slice of 127.0.0.0/8,
and the next free place is taken when that one is not. What was given once is remembered, so it is the same after a
restart and when a service comes back. Two hosts with the same slice nearly always agree.

Never given out: the slice's network and broadcast addresses, and its first usable address, which is the DNS server's.
This module must never read a file or a clock: `decode` and `encode` are bytes in, bytes out.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from bridge import limits
from inventory.errors import InputError
from inventory.names import parse_label, shown

LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")
LOCALHOST = ipaddress.IPv4Address("127.0.0.1")
DEFAULT_SLICE = ipaddress.IPv4Network("127.96.0.0/11")
LONGEST_PREFIX = 24
_KEPT_BACK = 3
"""Addresses of a slice that no service gets: network, DNS server, broadcast."""


def parse_slice(text: str) -> ipaddress.IPv4Network:
    """A slice of 127.0.0.0/8, as `agent join --addresses` takes it.

    Raises:
        InputError: not a CIDR block, or not one that services can live in.
    """
    hint = "give a block like 127.97.0.0/16"
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        raise InputError(f"{shown(text)} is not an IPv4 block ADDRESS/PREFIX", hint=hint) from None
    if network.prefixlen > LONGEST_PREFIX:
        raise InputError(f"{network} is too small: services need at least a /{LONGEST_PREFIX}", hint=hint)
    if not network.subnet_of(LOOPBACK):
        raise InputError(f"{network} is not inside {LOOPBACK}", hint=hint)
    if LOCALHOST in network:
        raise InputError(f"{network} contains {LOCALHOST}, which belongs to this machine's own programs", hint=hint)
    return network


def _dotted(number: int) -> str:
    """`ipaddress` does the same ten times slower, and a slice is searched address by address."""
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


@dataclass(frozen=True, slots=True)
class AddressBook:
    """Names (`web`, or `web.dc1` for one site) and their addresses, longest unused first.

    The order is the memory of use: what is not visible now stands in front, in the order in which it went away.
    """

    slice: ipaddress.IPv4Network = DEFAULT_SLICE
    assigned: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    """Visible names for which the slice had no address left. Not remembered."""

    @property
    def server_address(self) -> str:
        """The slice's first usable address, where the DNS server listens."""
        return _dotted(int(self.slice.network_address) + 1)

    @property
    def capacity(self) -> int:
        return self.slice.num_addresses - _KEPT_BACK

    def assign(self, names: Iterable[str]) -> AddressBook:
        """The book once exactly `names` (canonical) are visible; itself when nothing changes.

        New names are placed in alphabetical order, so hosts that start with the same set agree on collisions too.
        """
        visible = set(names)
        known = [name for name in self.assigned if name in visible]
        new = sorted(visible.difference(self.assigned))
        room = self.capacity - len(known)
        placed, without = new[:room], tuple(new[room:])
        unused = [name for name in self.assigned if name not in visible]
        keep = max(0, int(self.capacity * limits.ADDRESSES_KEPT_SHARE) - len(known) - len(placed))
        unused = unused[max(0, len(unused) - keep) :]

        assigned = {name: self.assigned[name] for name in unused + known}
        taken = set(assigned.values())
        for name in placed:
            assigned[name] = self._free_address(name, taken)
            taken.add(assigned[name])
        if without == self.without and list(assigned) == list(self.assigned):
            return self
        return AddressBook(self.slice, assigned, without)

    def _free_address(self, name: str, taken: set[str]) -> str:
        """The first address not in `taken`, from the name's own place onwards. `taken` must leave one free."""
        first = int(self.slice.network_address) + 2
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % self.capacity
        while (address := _dotted(first + place)) in taken:
            place = (place + 1) % self.capacity
        return address


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """addresses.json. Pairs and not an object: the order means something and a doubled name must be seen."""

    version: int
    slice: str
    assigned: tuple[tuple[str, str], ...]


_VERSION = 1


def encode(book: AddressBook) -> bytes:
    """The text of addresses.json."""
    raw = msgspec.json.encode(_File(_VERSION, str(book.slice), tuple(book.assigned.items())))
    return msgspec.json.format(raw, indent=1) + b"\n"


def decode(text: bytes, *, where: str) -> AddressBook:
    """What `encode` wrote.

    Args:
        where: the file's path, for the message.

    Raises:
        InputError: damaged: not such JSON, or a name or address that no book could hold.
    """
    try:
        file = msgspec.json.decode(text, type=_File, strict=True)
        if file.version != _VERSION:
            raise InputError(f"version {file.version} is not known")
        return _checked(parse_slice(file.slice), file.assigned)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise _damaged(str(exc), where) from None
    except InputError as exc:
        raise _damaged(exc.what, where) from None


def _damaged(why: str, where: str) -> InputError:
    return InputError(
        f"the remembered service addresses are damaged: {why[: limits.FOREIGN_TEXT_MAX]}",
        where=where,
        hint="remove the file; nearly all services get the same addresses again",
    )


def _checked(network: ipaddress.IPv4Network, pairs: tuple[tuple[str, str], ...]) -> AddressBook:
    first, last = int(network.network_address) + 2, int(network.broadcast_address) - 1
    for name, address in pairs:
        service, dot, site = name.partition(".")
        if parse_label(service, "service name") != service or (dot and parse_label(site, "site") != site):
            raise InputError(f"{shown(name)} is not in canonical form")
        try:
            number = int(ipaddress.IPv4Address(address))
        except ValueError:
            raise InputError(f"{shown(address)} is not an address") from None
        if not first <= number <= last:
            raise InputError(f"{address} is not for services of {network}")
    assigned = dict(pairs)
    if len(assigned) != len(pairs) or len(set(assigned.values())) != len(pairs):
        raise InputError("a name or an address is in it twice")
    return AddressBook(network, assigned)
