"""I/O: what has to be done in a registry now and then: what killed commands left in it is removed."""

from __future__ import annotations

import random

import trio

from bridge import limits
from bridge.logs import get_logger
from inventory.errors import MeshError
from inventory.registries.interface import Registry

log = get_logger()


async def keep_tidy(registry: Registry) -> None:
    """Until cancelled. Several gateways may do so at once: each at moments of its own."""
    while True:
        await trio.sleep(random.uniform(0.5, 1.5) * limits.REGISTRY_TIDY)
        try:
            removed = await registry.tidy()
        except MeshError as exc:
            log.info("the registry was not tidied", reason=str(exc))
            continue
        if removed:
            log.info("removed from the registry what a killed command left", count=removed)
