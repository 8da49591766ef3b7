"""I/O: a registry that is killed at any moment keeps every acknowledged change, whole, and nothing half (F03)."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from inventory.authority import read_log, verify_log
from inventory.registries.embedded import open_embedded
from tests.support.registry_writer import BATCH

LOOPS = 20


def killed_writer(path: Path, chance: random.Random) -> int:
    """Runs a writer, kills it at a random moment, and returns the last number that it acknowledged (0: none)."""
    command = [sys.executable, "-m", "tests.support.registry_writer", "append", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline() for _ in range(chance.choice([0, 1, 2, 5, 20]))]
        # The moment of the kill is the thing under test: while it starts, creates its file, or within a transaction.
        time.sleep(chance.uniform(0, 0.3) if not acknowledged else chance.uniform(0, 0.005))
        writer.kill()
        acknowledged += writer.stdout.readlines()
    complete = [line for line in acknowledged if line.endswith("\n")]
    return int(complete[-1]) if complete else 0


async def check_whole(path: Path, at_least: int) -> int:
    """The registry opens, verifies, has all that was acknowledged, and only whole transactions."""
    async with open_embedded(path) as registry:
        state = verify_log(await read_log(registry))
        records, _ = await registry.read("")
    assert state.number >= at_least, f"acknowledged up to {at_least}, found {state.number}"
    assert state.number % BATCH == 0
    numbers = range(1, state.number + 1)
    expected = {f"log/{n:012d}" for n in numbers} | {f"source/{n}" for n in numbers if n % BATCH == 1}
    assert records.keys() == expected | ({"head"} if state.number else set())
    return state.number


async def test_f03_no_acknowledged_entry_is_lost_and_none_is_partial(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "registry.db"
    last = 0
    for loop in range(LOOPS):
        if loop % 5 == 0:
            path = tmp_path / f"registry-{loop}.db"
            last = 0
        acknowledged = killed_writer(path, chance)
        last = await check_whole(path, max(acknowledged, last))
    assert last > 0
