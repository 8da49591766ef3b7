"""I/O: what a home knows, as one snapshot, with nothing running: for commands that explain and look.

In the operator's home that is the registry, verified, or while it is away what the gateway keeps of it; in an agent's,
what it was last told, verified again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from agents.estate import Home, HomeConfig, inspect, load_config
from agents.knowledge.known import PLACEMENT_FILE, Known
from agents.knowledge.placement import PlacementFile, decode_placement
from agents.knowledge.placement_rows import load_rows
from agents.knowledge.verified_log import VerifiedLog
from agents.operating.policy import read_policy
from inventory.authority import AuthorityState
from inventory.errors import MeshError, Unavailable
from inventory.health import HealthByHost
from inventory.home import read_file
from inventory.registries.embedded import open_embedded
from inventory.registries.interface import Registry
from inventory.snapshot import Snapshot


async def load_estate(home: Path) -> AuthorityState | None:
    """All that operators signed, as far as this home can know; None when it cannot: an agent's is told its part only,
    and where there is no home there is no estate. Raises MeshError when what it knows cannot be read or verified."""
    if not Home(home).config.exists():
        return None
    config = load_config(home)
    if not Home(home).registry.exists() and config.role == "host":
        return None
    async with _inspect(home, config) as (_, log):
        return log.state


async def load_snapshot(home: Path) -> Snapshot:
    """Raises MeshError when the home holds no estate, or what it knows does not verify."""
    config = load_config(home)
    if not Home(home).registry.exists() and config.role == "host":
        return Known.load(home, config.genesis).snapshot
    async with _inspect(home, config) as (registry, log):
        allows = (await read_policy(registry, log.state)).allows
        placed = load_placement(home)
        return Snapshot(
            authority=log.state,
            allows=allows,
            presence=placed.presence,
            reported=placed.reported,
            health=HealthByHost(placed.health),
        )


@asynccontextmanager
async def _inspect(home: Path, config: HomeConfig) -> AsyncIterator[tuple[Registry, VerifiedLog]]:
    """The registry, or while it is away what the gateway of this home keeps of it."""
    async with AsyncExitStack() as stack:
        try:
            _, registry, log = await stack.enter_async_context(inspect(home))
        except Unavailable:
            if not Home(home).kept.exists():
                raise
            registry = await stack.enter_async_context(open_embedded(Home(home).kept))
            log = VerifiedLog(registry, config.genesis)
            await log.refresh()
        yield registry, log


def load_placement(home: Path) -> PlacementFile:
    """Where things were, as the node of this home last knew; nothing when there is no such file or it is damaged."""
    path = home / PLACEMENT_FILE
    try:
        rows = load_rows(home)
        if rows is not None:
            return rows
        return decode_placement(read_file(path)) if path.exists() else PlacementFile()
    except MeshError:
        return PlacementFile()
