"""I/O: the agent's home is on a file system that fills up: it serves on, says so, keeps every file whole, and saves by
itself as soon as there is space."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.knowledge.known import Known
from bridge.identity.identity_file import load_identity
from tests.support.estate import Estate, allow
from tests.support.pair import CLIENT, start_pair, status
from tests.support.traffic import Backend, ask, eventually

pytestmark = pytest.mark.root


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of 256 KiB at this place."""
    path.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "meshbridge-test", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Everything that is free, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def warnings(estate: Estate) -> dict[str, str]:
    return {w["code"]: w["text"] for w in status(estate, CLIENT).get("warnings", ())}


def check_files(home: Path) -> None:
    """Nothing empty, nothing half written, nothing forgotten. `lock` is not read by anybody."""
    for file in home.iterdir():
        if file.is_file() and file.name not in ("lock", "ballast"):
            assert file.stat().st_size > 0, f"{file.name} is empty"
            assert not file.name.endswith(".tmp"), f"{file.name} was left"
    load_identity(home / "identity.pem")
    Known.load(home, json.loads((home / "domain.json").read_text())["genesis"])
    for line in (home / "flows.jsonl").read_text().splitlines():
        json.loads(line)


def saved_policy(home: Path) -> int:
    genesis = json.loads((home / "domain.json").read_text())["genesis"]
    return Known.load(home, genesis).snapshot.authority.policy_number or 0


def test_f26_a_full_disk_costs_what_was_to_be_saved_and_nothing_else(estate: Estate) -> None:
    home = estate.home(CLIENT)
    with small_disk(home), estate, Backend("web") as web:
        pair = start_pair(estate, {"web": web.target})
        place = pair.place("web")
        assert eventually(lambda: ask(*place)) == "web"
        before = int(status(estate, CLIENT)["policy_number"])
        eventually(lambda: saved_policy(home) == before, what="the policy on disk")
        eventually(lambda: (home / "flows.jsonl").exists())

        fill(home / "ballast")
        estate.apply_policy(allow(f"host:{CLIENT}", "web", name="while the disk is full"))
        text = eventually(lambda: warnings(estate).get("save"), what="a warning")
        assert "no space left" in text and str(home) in text and "free space" in estate.cli(CLIENT, "doctor").stdout
        for _ in range(20):
            assert ask(*place) == "web", "serving goes on"
        check_files(home)
        assert saved_policy(home) == before

        estate.kill9(CLIENT)
        estate.start_agent(CLIENT)
        assert pair.place("web") == place
        assert eventually(lambda: ask(*place)) == "web", "it starts on a full disk too"
        eventually(lambda: warnings(estate).get("save"), what="a warning again")
        check_files(home)

        (home / "ballast").unlink()
        eventually(lambda: "save" not in warnings(estate), timeout=15, what="it saves by itself")
        assert saved_policy(home) > before
        check_files(home)
        estate.terminate(CLIENT)
