"""I/O: the leases that this process holds in Consul: keys locked by sessions, which delete them when they end.

Consul ends a session 10 seconds after its last renewal at the earliest and twice its time to live at the latest. So a
lease of a process that died may be seen for that long. While the process lives, a lease lasts as long as was said: the
registry deletes what has lapsed whenever it is used, and a watch wakes for it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trio
from consul.exceptions import NotFound

from inventory.registries.consul_http import TrioConsul, answer
from inventory.registries.consul_wire import LEASES, Entry, fresh_flags

SESSION_MIN, SESSION_MAX = 10, 86400
"""Seconds a session may live without renewal, as Consul allows."""

Transact = Callable[[list[dict[str, Any]]], Awaitable[bool]]
"""Makes these operations or none; False when one of them fails."""


@dataclass(frozen=True, slots=True)
class _Held:
    value: bytes
    until: float
    session: str


class OwnLeases:
    def __init__(self, consul: TrioConsul, prefix: str, transact: Transact) -> None:
        self._consul = consul
        self._prefix = prefix + LEASES
        self._transact = transact
        self._held: dict[str, _Held] = {}
        self._sessions: dict[int, str] = {}
        """Leases that live equally long share a session, so renewing one renews Consul's end of all of them; until
        when each of them counts is our own business."""
        self._one_at_a_time = trio.Lock()

    async def hold(self, key: str, value: bytes, ttl: float) -> None:
        until = trio.current_time() + ttl
        async with self._one_at_a_time:
            session = await self._session(min(max(math.ceil(ttl), SESSION_MIN), SESSION_MAX))
            held = self._held.get(key)
            if held is None or (held.value, held.session) != (value, session):
                # Deleted first: it may be a predecessor's, whose session has not ended yet.
                name = self._prefix + key
                lock = {"Verb": "lock", "Key": name, "Value": value, "Session": session, "Flags": fresh_flags()}
                await self._transact([{"Verb": "delete", "Key": name}, lock])
            self._held[key] = _Held(value, until, session)

    async def _session(self, ttl: int) -> str:
        """A live session with this time to live, renewed now."""
        session = self._sessions.get(ttl)
        if session is not None:
            try:
                await answer(self._consul.session.renew(session))
            except NotFound:
                del self._sessions[ttl]
            else:
                return session
        # Without checks it ends by its time alone, and not because the Consul agent that we asked restarts.
        made = await answer(
            self._consul.session.create("meshbridge", checks=[], lock_delay=0, behavior="delete", ttl=ttl)
        )
        self._sessions[ttl] = str(made)
        return self._sessions[ttl]

    async def release(self, key: str) -> None:
        async with self._one_at_a_time:
            await self._drop([key])

    async def drop_lapsed(self) -> None:
        """Deletes the leases whose time is over."""
        if self.until_next_lapse() > 0:
            return
        async with self._one_at_a_time:
            now = trio.current_time()
            await self._drop([key for key, held in self._held.items() if held.until <= now])

    async def _drop(self, keys: list[str]) -> None:
        for key in keys:
            held = self._held.get(key)
            if held is None:
                continue
            name = self._prefix + key
            # Only while it is ours; and forgotten only then, or the session would keep it alive for ever.
            await self._transact(
                [{"Verb": "check-session", "Key": name, "Session": held.session}, {"Verb": "delete", "Key": name}]
            )
            self._held.pop(key, None)

    def seen(self, live: Mapping[str, Entry]) -> None:
        """What Consul says is there: a lease that it has lost is written again with the next renewal."""
        for key, held in list(self._held.items()):
            entry = live.get(self._prefix + key)
            is_as_held = entry is not None and (entry.value or b"", entry.session) == (held.value, held.session)
            if not is_as_held and not self._one_at_a_time.locked():
                del self._held[key]

    def until_next_lapse(self) -> float:
        deadlines = (held.until for held in self._held.values())
        return max(0.0, min(deadlines, default=math.inf) - trio.current_time())

    async def end(self) -> None:
        """Ends all of them now."""
        for session in self._sessions.values():
            await answer(self._consul.session.destroy(session))
