"""Pure: when a look is worth reading the records, and which pieces are old. Against a real Consul: tests/e2e."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import trio
import trio.testing

from inventory.registries import consul_wire as wire
from inventory.registries.consul_chunks import ORPHANED_AFTER, ChunkSweep
from inventory.registries.consul_store import ConsulStore


class Store:
    prefix = "p/"

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.records: dict[str, wire.Manifest] = {}
        self.reads = 0
        self.removed: list[str] = []

    def add(self, value: bytes, *, record: str | None = None) -> str:
        manifest = wire.make_manifest(value)
        self.there.add(manifest.id)
        if record is not None:
            self.records[record] = manifest
        return manifest.id

    async def chunk_ids(self) -> set[str]:
        return set(self.there)

    async def read(self, trees: Sequence[str]) -> dict[str, Any]:
        self.reads += 1
        entries = [wire.Entry(key=f"p/{wire.REVISION}", modify_index=9)]
        for key, manifest in self.records.items():
            encoded = msgspec.json.encode(manifest)
            entries.append(wire.Entry(key=f"p/record/{key}=", value=encoded, flags=wire.LARGE))
        return {entry.key: entry for entry in entries}

    async def remove_orphan(self, found: str, *, unchanged_since: int) -> bool:
        assert unchanged_since == 9
        self.there.remove(found)
        self.removed.append(found)
        return True


async def test_records_are_read_only_for_what_is_old_and_not_known(autojump_clock: trio.testing.MockClock) -> None:
    store = Store()
    sweep = ChunkSweep(cast(ConsulStore, store))
    store.add(b"used", record="policy/1")
    orphan = store.add(b"orphan")
    for _ in range(3):
        assert await sweep.sweep() == 0
        await trio.sleep(ORPHANED_AFTER / 4)
    assert store.reads == 0
    await trio.sleep(ORPHANED_AFTER / 4)
    young = store.add(b"young")
    assert await sweep.sweep() == 1
    assert (store.reads, store.removed) == (1, [orphan])
    await trio.sleep(ORPHANED_AFTER / 2)
    assert await sweep.sweep() == 0 and store.reads == 1, "what is in use is known, the other is young"
    await trio.sleep(ORPHANED_AFTER / 2)
    assert await sweep.sweep() == 1 and store.removed == [orphan, young]
