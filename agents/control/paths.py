"""I/O: paths through this gateway: two tickets, two hosts that connect with them, one splice.

A ticket is one use, TICKET_LIFETIME long, and bound to both hosts: it names a path and a side, under a MAC with a key
that lives as long as this process. The gateway sees which hosts talk, how much and when, and nothing of what they say.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from bridge import limits
from bridge.errors import PeerError

_SIDES = (b"a", b"b")


@dataclass(slots=True)
class _Path:
    id: int
    a: str
    b: str
    ends: float
    arrived: dict[bytes, socket.socket] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Joined:
    """A path whose two ends are here: the worker splices them."""

    id: int
    a: str
    b: str
    sockets: tuple[socket.socket, socket.socket]


class Paths:
    """Paths that were offered and not yet joined, and the hosts of those that were. Times are monotonic seconds.

    Args:
        join: has a worker splice a path; owns its sockets.
        most: how many paths there may be.
    """

    def __init__(self, join: Callable[[Joined], Awaitable[None]], *, most: int = limits.SPLICES_MAX) -> None:
        self._join = join
        self._most = most
        self._key = secrets.token_bytes(32)
        self._offered: dict[int, _Path] = {}
        self._next = 1
        self._closed: str | None = None
        self.joined: dict[int, tuple[str, str]] = {}

    def offer(self, a: str, b: str) -> tuple[str, str]:
        """Tickets for a path between two hosts: for `a`, who asked, and for `b`, who is asked to connect.

        Raises:
            PeerError: too many paths already.
        """
        self._forget_late()
        if self._closed is not None:
            raise PeerError(self._closed)
        if len(self._offered) + len(self.joined) >= self._most:
            raise PeerError(f"the gateway already carries {self._most} paths")
        if sum(1 for path in self._offered.values() if path.a == a) >= limits.PATHS_ASKED_MAX:
            raise PeerError(f"host {a} has asked for {limits.PATHS_ASKED_MAX} paths that it does not use")
        path = _Path(self._next, a, b, trio.current_time() + limits.TICKET_LIFETIME)
        self._next += 1
        self._offered[path.id] = path
        return self._ticket(path.id, b"a"), self._ticket(path.id, b"b")

    def waiting_for(self, host: str) -> list[tuple[str, str]]:
        """(who asked, ticket) of the paths to which `host` was asked to connect and has not come yet."""
        self._forget_late()
        waiting = [path for path in self._offered.values() if path.b == host and b"b" not in path.arrived]
        return [(path.a, self._ticket(path.id, b"b")) for path in waiting]

    def close(self, reason: str) -> None:
        """Offer no more paths; those that are offered or joined go on."""
        self._closed = reason

    def _ticket(self, path_id: int, side: bytes) -> str:
        plain = path_id.to_bytes(8, "big") + side
        mac = hmac.new(self._key, plain, hashlib.sha256).digest()[:16]
        return base64.urlsafe_b64encode(plain + mac).decode().rstrip("=")

    def _read(self, ticket: str) -> tuple[int, bytes]:
        try:
            data = base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4))
        except ValueError:
            data = b""
        path_id, side = int.from_bytes(data[:8], "big"), data[8:9]
        if len(data) != 25 or not hmac.compare_digest(self._ticket(path_id, side).encode(), ticket.encode()):
            raise PeerError("the ticket is not one of ours")
        return path_id, side

    def _place_of(self, ticket: str) -> tuple[_Path, bytes]:
        path_id, side = self._read(ticket)
        self._forget_late()
        path = self._offered.get(path_id)
        if path is None:
            raise PeerError("the ticket is used or too old")
        if side in path.arrived:
            raise PeerError("the ticket is used")
        return path, side

    async def arrive(self, ticket: str, sock: socket.socket) -> None:
        """A host connected with its ticket. Owns the socket from here on.

        Raises:
            PeerError: the ticket is wrong, too old, or used.
        """
        try:
            path, side = self._place_of(ticket)
        except PeerError:
            sock.close()
            raise
        path_id = path.id
        path.arrived[side] = sock
        if len(path.arrived) == len(_SIDES):
            del self._offered[path_id]
            self.joined[path_id] = (path.a, path.b)
            await self._join(Joined(path_id, path.a, path.b, (path.arrived[b"a"], path.arrived[b"b"])))

    def forget(self, gone: Callable[[str], bool]) -> list[int]:
        """Forget offers for hosts that are gone; the ids of joined paths that one of them is an end of."""
        for path in [path for path in self._offered.values() if gone(path.a) or gone(path.b)]:
            self._drop(path)
        return [path_id for path_id, (a, b) in self.joined.items() if gone(a) or gone(b)]

    def ended(self, path_id: int) -> None:
        self.joined.pop(path_id, None)

    def _forget_late(self) -> None:
        now = trio.current_time()
        for path in [p for p in self._offered.values() if p.ends < now]:
            self._drop(path)

    def _drop(self, path: _Path) -> None:
        del self._offered[path.id]
        for sock in path.arrived.values():
            sock.close()

    async def sweep(self) -> None:
        """Close those who wait in vain."""
        while True:
            await trio.sleep(limits.TICKET_LIFETIME / 4)
            self._forget_late()
