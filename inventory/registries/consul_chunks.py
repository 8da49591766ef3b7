"""I/O: pieces of large values in Consul that no record speaks of, left by a command that was killed, are removed.

A writer that is still at work looks just like one that was killed: its pieces are there before their record. So pieces
have to be seen without one for ORPHANED_AFTER, a writer's transaction fails when its pieces have gone, and they are
removed only while nothing has changed since the records were looked at. Between them no record ever lacks its pieces.
"""

from __future__ import annotations

import trio

from inventory.registries import consul_wire as wire
from inventory.registries.consul_store import ConsulStore

ORPHANED_AFTER = 3600.0
"""Seconds. The longest write has 43 pieces, each within ANSWER_TIMEOUT: seven minutes."""


class ChunkSweep:
    """One look now and then (`sweep`). It costs a listing of keys, and reads the records only when that has shown
    something old that is not known to be in use."""

    def __init__(self, store: ConsulStore) -> None:
        self._store = store
        self._in_use: frozenset[str] = frozenset()
        self._since: dict[str, float] = {}
        """When each id that is not known to be in use was seen first."""

    async def sweep(self) -> int:
        """How many values' pieces were removed.

        Raises:
            InputError, Unavailable: as for reading.
        """
        now = trio.current_time()
        there = await self._store.chunk_ids()
        self._since = {found: self._since.get(found, now) for found in there - self._in_use}
        old = {found for found, since in self._since.items() if now - since >= ORPHANED_AFTER}
        if not old:
            return 0
        entries = await self._store.read([wire.REVISION, wire.RECORDS])
        manifests = (wire.read_manifest(entry) for entry in entries.values() if entry.flags & wire.LARGE)
        self._in_use = frozenset(manifest.id for manifest in manifests)
        revision = entries[self._store.prefix + wire.REVISION].modify_index
        removed = 0
        for orphan in sorted(old - self._in_use):
            if not await self._store.remove_orphan(orphan, unchanged_since=revision):
                break  # somebody changed something: looked at again another time
            removed += 1
        return removed
