"""I/O: what a gateway says of Consul's catalog when it writes it, cannot, or leaves it to another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import trio
import trio.testing

from agents.catalog.writer import CatalogWriter
from bridge.metrics import NoMetrics
from inventory.errors import Unavailable
from inventory.registries.consul_catalog import ConsulCatalog
from inventory.registries.consul_catalog_wire import Mark
from inventory.snapshot import Snapshot


class Elsewhere:
    """A catalog that another gateway writes, as soon as it can be asked at all."""

    def __init__(self) -> None:
        self.mark = Mark("t.internal", "0123456789abcdef")
        self.writer = ""
        self.requests = 0
        self.back = trio.Event()

    async def acquire(self, stands_by: Callable[[], None]) -> None:
        if not self.back.is_set():
            raise Unavailable("Consul cannot be reached")
        self.writer = "gw2"
        stands_by()
        await trio.sleep_forever()

    async def release(self) -> None:
        pass


async def test_a_gateway_that_leaves_the_catalog_to_another_has_no_complaint_of_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    elsewhere = Elsewhere()
    writer = CatalogWriter(cast(ConsulCatalog, elsewhere), cast(Callable[[], Snapshot], Elsewhere), NoMetrics())
    nursery.start_soon(writer.run)
    await trio.sleep(5)
    assert [found["code"] for found in writer.warnings()] == ["catalog"]
    elsewhere.back.set()
    await trio.sleep(60)
    assert writer.status()["catalog"]["writer"] == "gw2"
    assert writer.warnings() == []
