"""I/O: the addresses behind the targets of this host's instances. Names are looked up here, beside the data path: a
resolver that is slow or away stalls no stream, and the last answer stays good until there is another one.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from bridge import limits
from inventory.endpoints import parse_endpoint
from inventory.errors import InputError, Unavailable

Address = tuple[int, tuple[str, int]]
"""Family, and what connect(2) takes."""
Lookup = Callable[[str, int], Awaitable[Address]]
"""Raises OSError."""


async def look_up(host: str, port: int) -> Address:
    """The first address of a name. Raises OSError."""
    found: list[Any] = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    return int(family), (address[0], address[1])


class Targets:
    """Known as a whole by `know`, asked by `address`, kept up to date by `run`."""

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        self._literal: dict[str, Address] = {}
        self._names: dict[str, tuple[str, int]] = {}
        self._found: dict[str, Address] = {}
        self._reasons: dict[str, str] = {}
        self._changed = trio.Event()

    def know(self, targets: Iterable[str]) -> None:
        """Exactly these, from now on."""
        literal: dict[str, Address] = {}
        names: dict[str, tuple[str, int]] = {}
        reasons: dict[str, str] = {}
        for target in set(targets):
            try:
                endpoint = parse_endpoint(target)
            except InputError as exc:
                reasons[target] = exc.what
                continue
            try:
                version = ipaddress.ip_address(endpoint.host).version
                literal[target] = (socket.AF_INET6 if version == 6 else socket.AF_INET, (endpoint.host, endpoint.port))
            except ValueError:
                names[target] = (endpoint.host, endpoint.port)
        is_news = bool(names.keys() - self._names.keys())
        self._literal, self._names = literal, names
        for target in self._found.keys() - names.keys():
            del self._found[target]
        self._reasons = {**{target: why for target, why in self._reasons.items() if target in names}, **reasons}
        if is_news:
            self._changed.set()

    def address(self, target: str) -> Address:
        """Where to connect now. Raises Unavailable."""
        known = self._literal.get(target) or self._found.get(target)
        if known is None:
            raise Unavailable(self._reasons.get(target, f"the name in {target} was not looked up yet"))
        return known

    async def run(self) -> None:
        """Look up the names until cancelled; sleeps as long as there is none."""
        while True:
            self._changed = trio.Event()
            for target, (host, port) in list(self._names.items()):
                await self._look_up(target, host, port)
            with trio.move_on_after(limits.TARGET_LOOKUP_INTERVAL if self._names else float("inf")):
                await self._changed.wait()

    async def _look_up(self, target: str, host: str, port: int) -> None:
        reason = f"the name in {target} was not resolved within {limits.TARGET_LOOKUP_TIMEOUT:.0f} s"
        with trio.move_on_after(limits.TARGET_LOOKUP_TIMEOUT):
            try:
                found = await self._lookup(host, port)
                if target in self._names:
                    self._found[target] = found
                    self._reasons.pop(target, None)
                return
            except OSError as exc:
                reason = f"the name in {target} cannot be resolved: {exc.strerror or exc}"
        if target in self._names:
            self._reasons[target] = reason
