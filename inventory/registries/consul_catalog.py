"""I/O: Consul's catalog as one estate sees and changes it, and the lock that lets one gateway at a time change it.

The lock is a key below the registry's prefix, held by a session that deletes it when it ends. Every transaction wants
the key to be held by that session still, so a gateway that was stopped for a minute writes nothing that is old.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import trio
from consul import base
from consul.exceptions import NotFound

from inventory.errors import InternalError, Unavailable
from inventory.names import shown
from inventory.registries import consul_catalog_wire as wire
from inventory.registries import consul_wire
from inventory.registries.consul_http import answer
from inventory.registries.consul_store import ConsulStore
from inventory.strict_json import decode

LOCK = "catalog/writer"
SESSION_TTL = 10
"""Seconds after its last renewal, and twice that at the latest, until Consul gives the lock of a dead gateway away; its
least."""
LOCK_WAIT = 30
"""Seconds for which Consul holds back the question who has the lock; it adds up to a sixteenth."""
LOCK_PAUSE = 0.5
"""After an answer to it that brought nothing, so that no Consul makes us ask in a loop."""

_ASKABLE = re.compile(r"[a-z0-9][a-z0-9._-]*", re.ASCII)

T = TypeVar("T")


class Holder(msgspec.Struct, frozen=True):
    """What the lock's key says."""

    gateway: str


class LockLost(Unavailable):
    """Another gateway may be writing by now."""


class Names(NamedTuple):
    """Of services in the whole catalog."""

    known: frozenset[str]
    number: int
    """X-Consul-Index. Another one as soon as any service is registered, changed or removed; not when a check is."""


class ConsulCatalog:
    def __init__(self, store: ConsulStore, mark: wire.Mark, gateway: str) -> None:
        self.mark = mark
        self.requests = 0
        """Asked so far."""
        self.writer = ""
        """Name of the gateway that writes, as far as is known."""
        self._consul = store.consul
        self._http = store.consul.http
        self._lock = store.prefix + LOCK
        self._gateway = gateway
        self._session = ""
        self._ours = (("node-meta", f"{wire.DOMAIN}:{mark.domain}"), ("node-meta", f"{wire.ESTATE}:{mark.estate}"))

    # --- the lock -----------------------------------------------------------------------------------------------------

    async def acquire(self, stands_by: Callable[[], None]) -> None:
        """Waits until this gateway may write; `stands_by` is told each time that another one is seen to."""
        while not await self._is_held():
            holder, index = await self._holder()
            while holder is not None:
                self.writer = holder
                stands_by()
                holder, index = await self._holder(index=index)
                await trio.sleep(LOCK_PAUSE)
            await self._try_lock()

    async def _is_held(self) -> bool:
        if not self._session:
            return False
        try:
            await self.renew()
        except LockLost:
            return False
        return self.writer == self._gateway

    async def renew(self) -> None:
        """Raises LockLost."""
        self.requests += 1
        try:
            await answer(self._consul.session.renew(self._session))
        except NotFound:
            self._session = self.writer = ""
            raise LockLost("Consul has ended our session", hint="it is begun anew") from None

    async def _try_lock(self) -> None:
        await self.release()
        self.requests += 2
        # Without checks it ends by its time alone, and not because the Consul agent that we asked restarts.
        made = await answer(
            self._consul.session.create(
                "meshbridge catalog", checks=[], lock_delay=0, behavior="delete", ttl=SESSION_TTL
            )
        )
        self._session = str(made)
        value = msgspec.json.encode(Holder(self._gateway))
        lock = {"Verb": "lock", "Key": self._lock, "Value": value, "Session": self._session}
        outcome = await self._http.ask("PUT", _kv_outcome, "/v1/txn", (), consul_wire.encode_operations([lock]))
        if outcome.failed is None:
            self.writer = self._gateway
        else:
            await self.release()

    async def _holder(self, *, index: int = 0) -> tuple[str | None, int]:
        wait: tuple[tuple[str, str], ...] = ()
        if index:
            wait = (("index", str(index)), ("wait", f"{LOCK_WAIT}s"))
        waits = LOCK_WAIT * 17 / 16 if index else 0.0
        return await self._get(_holder, f"/v1/kv/{self._lock}", wait, waits=waits)

    async def release(self) -> None:
        session, self._session, self.writer = self._session, "", ""
        if session:
            self.requests += 1
            await answer(self._consul.session.destroy(session))

    # --- reading ------------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[wire.Found]:
        """Those with our mark."""
        return await self._get(_body(wire.read_nodes), "/v1/catalog/nodes", self._ours)

    async def checks(self) -> list[wire.Found]:
        """All that are on nodes with our mark."""
        return await self._get(_body(wire.read_checks), "/v1/health/state/any", self._ours)

    async def names(self) -> Names:
        return await self._get(_names, "/v1/catalog/services")

    async def names_on_our_nodes(self) -> frozenset[str]:
        return (await self._get(_names, "/v1/catalog/services", self._ours)).known

    async def services(self, name: str) -> list[wire.Found]:
        """All of one name, on whatever nodes."""
        return await self._get(_body(wire.read_services), f"/v1/catalog/service/{_in_path(name)}")

    async def node(self, name: str) -> list[wire.Found]:
        """All that is there under the name of one node, whoever's it is."""
        found = await self._get(_body(wire.read_node), f"/v1/catalog/node/{_in_path(name)}")
        return found + await self._get(_body(wire.read_checks), f"/v1/health/node/{_in_path(name)}")

    async def _get(
        self,
        read: Callable[[base.Response], T],
        path: str,
        params: Sequence[tuple[str, str]] = (),
        *,
        waits: float = 0.0,
    ) -> T:
        self.requests += 1
        return await self._http.ask("GET", read, path, params, waits=waits)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, operations: Sequence[bytes]) -> wire.Outcome:
        """One transaction: all of them or none.

        Raises:
            LockLost: this gateway is not the one that writes any more.
            Unavailable: no answer; they may have been made or not.
        """
        self.requests += 1
        body = wire.encode_transaction(self._lock, self._session, operations)
        outcome = await self._http.ask("PUT", _outcome, "/v1/txn", (), body)
        if any(failure.operation < 0 for failure in outcome.failures):
            self._session = self.writer = ""
            raise LockLost("another gateway writes the catalog", hint="nothing to do")
        if not outcome.failures and len(outcome.versions) > len(operations):
            raise Unavailable("Consul says of more entries than were written that they were")
        return outcome


def _in_path(name: str) -> str:
    """A name as part of a URL: `/`, `..` and `%` have another meaning there, and no name of ours has them (C11)."""
    if not is_askable(name):
        raise InternalError(f"{shown(name)} would become part of a URL")
    return name


def is_askable(name: str) -> bool:
    """Whether something of ours can have this name."""
    return _ASKABLE.fullmatch(name) is not None


def _body(read: Callable[[bytes], list[wire.Found]]) -> Callable[[base.Response], list[wire.Found]]:
    def reads(response: base.Response) -> list[wire.Found]:
        return read(response.body) if response.code == 200 else []

    return reads


def _names(response: base.Response) -> Names:
    if response.code != 200 or "X-Consul-Index" not in response.headers:
        raise ValueError("it lists no services")
    return Names(wire.read_names(response.body), int(response.headers["X-Consul-Index"]))


def _holder(response: base.Response) -> tuple[str | None, int]:
    if "X-Consul-Index" not in response.headers:
        raise ValueError("it has no index")
    index = max(int(response.headers["X-Consul-Index"]), 1)
    entries = consul_wire.read_listing(response.body) if response.code == 200 else {}
    for entry in entries.values():
        if entry.session:
            return decode(entry.value or b"", Holder, max_bytes=1024, what=LOCK).gateway, index
    return None, index


def _outcome(response: base.Response) -> wire.Outcome:
    if response.code == 404:
        raise ValueError("it knows no transactions")
    return wire.read_outcome(response.body)


def _kv_outcome(response: base.Response) -> consul_wire.Outcome:
    return consul_wire.read_outcome(response.body)
