"""Pure: the TCP sockets of a box as one look at them finds them, and the parts of every list of them: ends, states,
bounded text.

A list comes from a box that we know nothing about. A line that is not understood is left out; nothing here raises.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bridge import limits

State = Literal["listening", "asking", "answering", "open"]
"""asking: no answer came yet. answering: somebody else asked. open: it is a connection, or was one a moment ago."""

ANY = ""
"""The address of a listener that takes what comes to any address of the box."""

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SEPARATORS = re.compile(r"[^a-z0-9]")
_STATES: dict[str, State] = {
    **dict.fromkeys(("listen", "listening"), "listening"),
    "synsent": "asking",
    **dict.fromkeys(("synrecv", "synrcvd", "synreceived"), "answering"),
    **dict.fromkeys(("estab", "establsh", "established", "finwait1", "finwait2", "finwt1", "finwt2"), "open"),
    **dict.fromkeys(("closewait", "closwait", "lastack", "closing", "timewait"), "open"),
}
"""As ss, the netstats and lsof write them, without case and separators."""


class End(NamedTuple):
    """One end of a connection, or where a program listens. The address is canonical, or ANY."""

    address: str
    port: int

    def __str__(self) -> str:
        literal = f"[{self.address}]" if ":" in self.address else self.address or "*"
        return f"{literal}:{self.port or '*'}"


class Socket(NamedTuple):
    state: State
    own: End
    other: End | None
    """None: it listens."""
    program: str = ""
    """What the box calls its owner. Any text at all."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one list held."""

    sockets: tuple[Socket, ...] = ()
    is_cut: bool = False
    """Whether there were more than we take."""


def parse_address(text: str) -> str | None:
    """An address in canonical form, ANY for one that means all; None when it is none. A zone is dropped, and what is
    IPv4 inside IPv6 is IPv4: who is at the other end is the same."""
    if text == "*":
        return ANY
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    address = mapped if mapped is not None else address
    return ANY if address.is_unspecified else str(address)


def parse_end(text: str) -> End | None:
    """An end as some program writes it: `10.0.0.1:22`, `[::1]:22`, `::1:22`, `10.0.0.1.22`, `*.22`, `10.0.0.1..22`, and
    with `*` for a port that is not there."""
    if ".." in text:
        address, _, port = text.rpartition("..")
        return _end(address, port)
    address, colon, port = text.rpartition(":")
    if colon and (port == "*" or _PORT.fullmatch(port)):
        # ss puts the interface after the bracket.
        literal = address.partition("]")[0][1:] if address.startswith("[") else address
        return _end(literal, port)
    address, _, port = text.rpartition(".")
    return _end(address, port)


def _end(address: str, port: str) -> End | None:
    parsed = parse_address(address)
    if parsed is None or not (port == "*" or _PORT.fullmatch(port)):
        return None
    number = 0 if port == "*" else int(port)
    return End(parsed, number) if number < 65536 else None


def parse_state(text: str) -> State | None:
    """None for every state in which nobody is connected, and for what is none."""
    return _STATES.get(_SEPARATORS.sub("", text.lower())) if len(text) < 20 else None


def make_socket(state: str, own: str, other: str, program: str = "") -> Socket | None:
    """From the words of a line; None when they say nothing that we want."""
    kind, here = parse_state(state), parse_end(own)
    if kind is None or here is None or not here.port:
        return None
    program = program[: limits.DISCOVER_PROGRAM_MAX]
    if kind == "listening":
        return Socket(kind, here, None, program)
    there = parse_end(other)
    if there is None or not there.port or there.address == ANY:
        return None
    return Socket(kind, here, there, program)


def lines_of(text: str) -> Iterator[str]:
    """The lines that may be ones of ours, as far as the text is read."""
    return (line for line in text[: limits.DISCOVER_TEXT_MAX].split("\n") if len(line) <= limits.DISCOVER_LINE_MAX)


def gathered(found: Iterable[Socket | None], *, text: str = "") -> Look:
    """A look of at most DISCOVER_SOCKETS_MAX sockets, each once: several programs may hold the same."""
    sockets: dict[Socket, None] = {}
    seen: set[tuple[End, End | None]] = set()
    for one in found:
        if one is None or (one.own, one.other) in seen:
            continue
        if len(sockets) >= limits.DISCOVER_SOCKETS_MAX:
            return Look(tuple(sockets), is_cut=True)
        seen.add((one.own, one.other))
        sockets[one] = None
    return Look(tuple(sockets), is_cut=len(text) > limits.DISCOVER_TEXT_MAX)
