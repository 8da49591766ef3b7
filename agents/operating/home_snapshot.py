"""I/O: what a home knows, as one snapshot, with nothing running: for commands that explain and look.

In the operator's home that is the registry, verified; in an agent's, what it was last told, verified again.
"""

from __future__ import annotations

from pathlib import Path

from agents.estate import Home, inspect, load_config
from agents.knowledge.known import PLACEMENT_FILE, Known
from agents.knowledge.placement import PlacementFile, decode_placement
from agents.knowledge.placement_rows import load_rows
from agents.operating.policy import read_policy
from inventory.errors import MeshError
from inventory.health import HealthByHost
from inventory.home import read_file
from inventory.snapshot import Snapshot


async def load_snapshot(home: Path) -> Snapshot:
    """Raises MeshError when the home holds no estate, or what it knows does not verify."""
    config = load_config(home)
    if not Home(home).registry.exists() and config.role == "host":
        return Known.load(home, config.genesis).snapshot
    async with inspect(home) as (_, registry, log):
        allows = (await read_policy(registry, log.state)).allows
        placed = load_placement(home)
        return Snapshot(
            authority=log.state,
            allows=allows,
            presence=placed.presence,
            reported=placed.reported,
            health=HealthByHost(placed.health),
        )


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
