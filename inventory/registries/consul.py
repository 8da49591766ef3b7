"""I/O: the registry in Consul: its KV below the estate's prefix, for any number of gateways.

How it lies there is in `consul_wire`, how requests travel in `consul_http`, and between them is `consul_store`. A
change is one transaction of Consul's, with a record's ModifyIndex as its version: Consul numbers all its changes, so
none ever comes back.

What is stored is not trusted: the authority log in it is signed, and verified by whoever reads it.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from inventory.errors import InputError, Unavailable
from inventory.names import shown
from inventory.registries import consul_wire as wire
from inventory.registries.consul_chunks import ChunkSweep
from inventory.registries.consul_leases import OwnLeases
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.consul_store import AGAIN, WATCH_LATE, ConsulStore, damaged
from inventory.registries.interface import CHANGES_MAX, Change, Conflict, Record, parse_key

WATCH_PAUSE = 0.2
"""After an answer to a watch that brought nothing, so that no Consul, and nothing before it, makes us ask in a loop."""
READ_TRIES = 3
"""A large value may be replaced between its manifest and its chunks."""
CLOSE_TIMEOUT = 3.0
"""To end our leases at the end of the process; without an answer Consul ends them by itself."""


class ConsulRegistry:
    """See `inventory.registries.interface.Registry` for the methods. Made by `open_consul`."""

    def __init__(self, store: ConsulStore) -> None:
        self.store = store
        self._prefix = store.prefix
        self._sweep = ChunkSweep(store)
        self._leases = OwnLeases(store.consul, store.prefix, self._try)

    # --- records ------------------------------------------------------------------------------------------------------

    async def read(self, prefix: str) -> tuple[Mapping[str, Record], int]:
        await self._leases.drop_lapsed()
        for _ in range(READ_TRIES):
            entries = await self.store.read([wire.LIVE, wire.RECORDS + prefix])
            records = await self._records(entries)
            if records is not None:
                found = {key: records[key] for key in sorted(records) if key.startswith(prefix)}
                return found, self._revision(entries)
        raise damaged(prefix)

    async def get(self, key: str) -> Record | None:
        stored = self._stored(key)
        for _ in range(READ_TRIES):
            entry = (await self.store.read([stored.removeprefix(self._prefix)])).get(stored)
            if entry is None:
                return None
            value = await self.store.value(entry)
            if value is not None:
                return Record(value, entry.modify_index)
        raise damaged(key)

    def _stored(self, key: str) -> str:
        return f"{self._prefix}{wire.RECORDS}{key}{wire.END}"

    async def _records(self, entries: Mapping[str, wire.Entry]) -> dict[str, Record] | None:
        """None when a large value was replaced meanwhile."""
        records = {}
        start = self._prefix + wire.RECORDS
        for stored, entry in entries.items():
            if stored.startswith(start) and stored.endswith(wire.END):  # what else is there is somebody else's
                value = await self.store.value(entry)
                if value is None:
                    return None
                records[stored.removeprefix(start).removesuffix(wire.END)] = Record(value, entry.modify_index)
        return records

    async def transact(self, changes: Sequence[Change]) -> int:
        if len({change.key for change in changes}) != len(changes):
            raise InputError("a transaction names a key twice")
        if len(changes) > CHANGES_MAX:
            what = f"a change of {len(changes)} records at once; Consul takes at most {CHANGES_MAX}"
            raise InputError(what, hint="do it in several smaller steps")
        await self._leases.drop_lapsed()
        manifests = {}
        for change in wire.too_large(changes):
            manifests[change.key] = await self.store.write_chunks(change.value or b"")
        operations = [wire.operation(self._stored(c.key), c, manifests.get(c.key)) for c in changes]
        counted = wire.write(self._prefix + wire.REVISION, b"")
        # Pieces that took too long to write may have been taken for a killed command's.
        room = wire.OPERATIONS_MAX - len(operations) - wire.OURS
        still_there = [wire.read(self._prefix + wire.last_chunk_key(m)) for m in list(manifests.values())[:room]]
        live = wire.read_tree(self._prefix + wire.LIVE)
        outcome = await self.store.change([*operations, counted, live, *still_there])
        if outcome.failed is None:
            return self._revision(outcome.entries)
        for manifest in manifests.values():
            await self.store.remove_chunks(manifest)
        raise await self._why(outcome.failed, changes)

    async def _why(self, failed: wire.Failure, changes: Sequence[Change]) -> Unavailable:
        """Told by what is there now, not by Consul's words for it: a conflict, or else a refusal."""
        if failed.operation >= len(changes) + 2:
            return Unavailable("a large value took too long to write", where=self.store.where, hint=AGAIN)
        for change in changes[failed.operation : failed.operation + 1]:
            record = await self.get(change.key)
            if change.expect is not None and change.expect != (record.version if record else 0):
                return Conflict(change.key)
        return Unavailable(
            f"Consul refuses the change: {shown(failed.what)}",
            where=self.store.where,
            hint="the token needs write access to this prefix: docs/consul.md",
        )

    def _revision(self, entries: Mapping[str, wire.Entry]) -> int:
        return wire.revision_of(entries, self._prefix)

    # --- watch --------------------------------------------------------------------------------------------------------

    async def watch(self, after_revision: int) -> int:
        # Every round begins with a question that does not wait, whose index the waiting one starts from. So an index
        # that went back (a restored snapshot, deletions that Consul has forgotten) is never carried on.
        # The waiting one wakes and decides nothing: a server that was cut off from the others, and does not know it
        # yet, answers it with what was.
        pause = 0.0
        while True:
            await self._leases.drop_lapsed()
            listed = await self.store.live(late=WATCH_LATE)
            self._leases.seen(listed.entries)
            revision = self._revision(listed.entries)
            if revision != after_revision:
                return revision
            with trio.move_on_after(self._leases.until_next_lapse()):
                await trio.sleep(pause)
                await self.store.live(index=listed.index, late=WATCH_LATE)
            pause = WATCH_PAUSE

    def nudge(self) -> None:
        """Nothing to do: Consul tells every watch at once."""

    async def tidy(self) -> int:
        return await self._sweep.sweep()

    # --- leases -------------------------------------------------------------------------------------------------------

    async def lease(self, key: str, value: bytes, ttl: float) -> None:
        parse_key(key)
        await self._leases.drop_lapsed()
        await self._leases.hold(key, value, ttl)

    async def release(self, key: str) -> None:
        await self._leases.release(key)

    async def leases(self, prefix: str) -> Mapping[str, bytes]:
        await self._leases.drop_lapsed()
        entries = (await self.store.live()).entries
        self._leases.seen(entries)
        start = self._prefix + wire.LEASES
        found = {key.removeprefix(start): entry.value or b"" for key, entry in entries.items() if key.startswith(start)}
        return {key: found[key] for key in sorted(found) if key.startswith(prefix)}

    async def _try(self, operations: list[dict[str, Any]]) -> bool:
        return (await self.store.change(operations)).failed is None

    async def end_leases(self) -> None:
        await self._leases.end()


@asynccontextmanager
async def open_consul(
    place: ConsulPlace, *, tls: ssl.SSLContext | None = None, accepts_moved: bool = False
) -> AsyncIterator[ConsulRegistry]:
    """The registry at `place`. Nothing is asked yet, so this works while Consul is away.

    Args:
        tls, accepts_moved: see `ConsulStore`.

    Raises:
        InputError: the token's file cannot be used.
        Unavailable: it cannot be read.
    """
    registry = ConsulRegistry(ConsulStore(place, tls, accepts_moved=accepts_moved))
    try:
        yield registry
    finally:
        # Must happen on cancellation too; a Consul that is away ends the sessions when it is back.
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            with suppress(Unavailable):
                await registry.end_leases()
            await registry.store.close()
