"""I/O: one token raced for by many keys in several processes, one of them killed, makes exactly one identity (C19)."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from inventory.authority import Enrolment, Refusal
from inventory.registries.embedded import open_embedded
from tests.support.registry_writer import KEYS

PROCESSES = 5
INVITES = 4


def spender(path: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.registry_writer", "spend", str(path), name, str(INVITES)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def kill_at_some_moment(process: subprocess.Popen[str], chance: random.Random) -> None:
    time.sleep(chance.uniform(0, 0.05))  # the moment of the kill is the thing under test
    process.kill()
    process.communicate()


async def outcome(path: Path, number: int) -> tuple[Enrolment, list[Refusal]]:
    """Who got invite `number`, and who was refused. Checks that both records of the winner agree."""
    async with open_embedded(path) as registry:
        records, _ = await registry.read("")
    spent = records[f"spent/invite-{number}"].value
    assert records[f"enrolled/host/vm{number}"].value == spent
    refused = [r.value for key, r in records.items() if key.startswith(f"refused/invite-{number}/")]
    return msgspec.json.decode(spent, type=Enrolment), [msgspec.json.decode(value, type=Refusal) for value in refused]


async def test_c19_fifty_keys_in_five_processes_make_one_identity(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    processes = [spender(path, str(number)) for number in range(PROCESSES)]
    for process in processes:
        go(process)
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert out == "done\n" and process.returncode == 0
    for number in range(INVITES):
        winner, refused = await outcome(path, number)
        assert {r.source for r in refused} | {winner.source} == {
            f"{process}-{key}" for process in range(PROCESSES) for key in range(KEYS)
        }
        assert len(refused) == PROCESSES * KEYS - 1
        assert all(f"from {winner.source} by key {winner.key}" in r.reason for r in refused)


async def test_c19_killing_spenders_makes_no_second_identity(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "registry.db"
    processes = [spender(path, str(number)) for number in range(3)]
    for process in processes:
        go(process)
    for process in processes[1:]:
        kill_at_some_moment(process, chance)
    out, _ = processes[0].communicate(timeout=60)
    assert out == "done\n"
    for number in range(INVITES):
        winner, refused = await outcome(path, number)
        assert winner.source not in {r.source for r in refused}
        assert len({r.source for r in refused}) == len(refused)
