"""I/O: a gateway says in the registry what its keys are, so that operators elsewhere can seal to it: at its start, and
with each new certificate, for its word counts as long as that does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import trio

from agents.backoff import Backoff
from agents.estate import HomeConfig
from agents.knowledge.gateway_keys import own_keys, publish
from agents.supervisor import Latest
from bridge import limits
from bridge.identity.identity_file import Identity
from bridge.logs import get_logger
from inventory.errors import MeshError
from inventory.registries.interface import Registry

log = get_logger()


async def publish_keys(
    home: Path, config: HomeConfig, registry: Registry, identity: Callable[[], Identity], renewed: Latest
) -> None:
    """Until cancelled."""
    backoff = Backoff(rng=random.Random(), first=limits.REGISTRY_RETRY_FIRST, maximum=limits.REGISTRY_RETRY)
    while True:
        try:
            keys = await trio.to_thread.run_sync(own_keys, home, config.trust_domain, config.name)
            await publish(registry, keys, identity())
        except MeshError as exc:
            log.info("this gateway's keys are not published yet", reason=str(exc))
            await trio.sleep(backoff.next())
            continue
        backoff.reset()
        await renewed.asked()
