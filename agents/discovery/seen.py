"""Pure: what several looks at the sockets of one box add up to: what is offered there, who uses it, what the box uses.

A connection counts once for as long as look after look finds it. What begins and ends between two looks is seen only by
what the kernel remembers of it, so counts say "at least".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from agents.discovery.sockets import ANY, End, Look, Socket
from bridge import limits

K = TypeVar("K", bound=Hashable)
_Pair = tuple[End, End]
_Kind = End | Literal["uses", "within", "ftp data", "nothing"]
"""What a connection is: at an end here it is used by somebody else; or it uses something elsewhere, or neither."""

PRIVILEGED = 1024
EPHEMERAL = 32768
"""Where ports that a connection gets by itself begin on most systems; some begin lower."""
FTP_DATA = 20


@dataclass(slots=True)
class Peer:
    """Somebody at the other end, and how often; for a listener itself, since when."""

    first: float
    last: float
    connections: int = 0
    unanswered: int = 0
    """How many of them had no answer when they were first seen."""
    programs: list[str] = field(default_factory=list)
    """Here, at our end."""


def is_loopback(address: str) -> bool:
    return address != ANY and ipaddress.ip_address(address).is_loopback


class Seen:
    """Fed with looks, in order.

    Args:
        is_bridge: whether the box reaches a service of the estate there: by its agent, or at a published port.
    """

    def __init__(self, is_bridge: Callable[[End], bool] = lambda end: False) -> None:
        self.looks = 0
        self.first = self.last = 0.0
        self.is_cut = False
        """Whether a look held more than we take."""
        self.listening: dict[End, Peer] = {}
        self.uses: dict[End, Peer] = {}
        """By where it is offered, elsewhere or by the bridge."""
        self.used: dict[tuple[End, str], Peer] = {}
        """By where it is offered here, and the address of who uses it."""
        self.within = 0
        """Connections whose both ends are in the box."""
        self.ftp_data = 0
        """Connections from or to the port from which an FTP server sends files."""
        self.left_out = 0
        """Sightings above DISCOVER_PEERS_MAX."""
        self._is_bridge = is_bridge
        self._open: dict[_Pair, _Kind] = {}
        self._own: set[str] = set()

    def add(self, look: Look, now: float) -> None:
        """One more look, at this moment (unix seconds)."""
        self.looks += 1
        self.first = self.first or now
        self.last = now
        self.is_cut |= look.is_cut
        self._own |= {sock.own.address for sock in look.sockets} - {ANY}
        for sock in look.sockets:
            if sock.other is None and not self._is_bridge(sock.own):
                self._note(self.listening, sock.own, sock, now, is_new=False)
        before, self._open = self._open, {}
        for sock in look.sockets:
            if sock.other is not None:
                self._connection(sock, sock.other, before, now)

    def _connection(self, sock: Socket, other: End, before: Mapping[_Pair, _Kind], now: float) -> None:
        pair = (sock.own, other)
        is_new = pair not in before
        # What it was taken for at first it stays: a listener may leave while its connections last.
        kind = self._open[pair] = before[pair] if not is_new else self._kind(sock, other)
        if isinstance(kind, End):
            self._note(self.used, (kind, other.address), sock, now, is_new=is_new)
        elif kind == "uses":
            self._note(self.uses, other, sock, now, is_new=is_new)
        elif kind == "within":
            self.within += is_new
        elif kind == "ftp data":
            self.ftp_data += is_new

    def _kind(self, sock: Socket, other: End) -> _Kind:
        if self._is_bridge(other):
            return "uses"
        if self._is_bridge(sock.own):
            return "nothing"  # the bridge's end of such a one
        listener = self._listener(sock, other)
        if is_loopback(other.address) or other.address in self._own:
            return "within" if listener is None else "nothing"
        if FTP_DATA in (sock.own.port, other.port):
            return "ftp data"
        return "uses" if listener is None else listener

    def _listener(self, sock: Socket, other: End) -> End | None:
        """Where the other side connected to; None when it was our side that connected."""
        if sock.state == "asking":
            return None
        for end in (sock.own, End(ANY, sock.own.port)):
            if end in self.listening:
                return end
        # Nobody listens there any more; or it is inetd's, which may take one connection at a time.
        was_asked = sock.state == "answering" or (sock.own.port < PRIVILEGED and other.port >= EPHEMERAL)
        return sock.own if was_asked else None

    def _note(self, peers: dict[K, Peer], key: K, sock: Socket, now: float, *, is_new: bool) -> None:
        peer = peers.get(key)
        if peer is None:
            if len(peers) >= limits.DISCOVER_PEERS_MAX:
                self.left_out += 1
                return
            peer = peers[key] = Peer(now, now)
        peer.last = now
        peer.connections += is_new
        peer.unanswered += is_new and sock.state == "asking"
        if sock.program and sock.program not in peer.programs and len(peer.programs) < limits.DISCOVER_PROGRAMS_KEPT:
            peer.programs.append(sock.program)
