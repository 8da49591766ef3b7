"""I/O: one token, many machines at a running gateway: one of them is the host, the operator sees the others."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import trio

from agents.control.joining import JoinOptions, join
from bridge.identity.identity_file import load_identity
from inventory.errors import AnswerIsNo
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import wait_connected
from tests.support.town import Town

GUESTS = 50


async def race(token: str, homes: list[Path]) -> tuple[list[Path], list[str]]:
    """All of them at once: who got in, and what the others were told."""
    joined: list[Path] = []
    refused: list[str] = []

    async def guest(home: Path) -> None:
        try:
            await join(token, home, JoinOptions(), version="1")
            joined.append(home)
        except AnswerIsNo as exc:
            refused.append(exc.what)

    async with trio.open_nursery() as nursery:
        for home in homes:
            nursery.start_soon(guest, home)
    return joined, refused


@pytest.fixture
def town(estate: Estate, each_registry: str) -> Town:
    estate.init()
    estate.start_gateway()
    return Town(estate)


def test_c19_fifty_machines_at_a_running_gateway_make_one_identity(estate: Estate, town: Town) -> None:
    token = town.ok(OPERATOR, "host", "add", "vm1")
    homes = [estate.home(f"copy{number}") for number in range(GUESTS)]
    joined, refused = trio.run(partial(race, token, homes))
    assert len(joined) == 1
    assert refused == ["token refused"] * (GUESTS - 1), "and they learn nothing else"
    shown = json.loads(town.ok(OPERATOR, "-o", "json", "host", "show", "vm1"))
    assert shown["key"] == load_identity(joined[0] / "identity.pem").leaf.key
    assert len(shown["refusals"]) == GUESTS - 1, "the operator sees every one of them"
    assert all(refusal["source"].startswith("127.0.0.1:") for refusal in shown["refusals"])
    assert sum(home.joinpath("identity.pem").exists() for home in homes) == 1


def test_c20_a_spent_token_is_refused_however_it_is_written(estate: Estate, town: Town) -> None:
    token = town.ok(OPERATOR, "host", "add", "vm1").strip()
    town.ok("vm1", "agent", "join", token, "--addresses", estate.next_slice())
    key = load_identity(estate.home("vm1") / "identity.pem").leaf.key
    spellings = [token, f" {token}", f"{token}\n\n", f"{token}=", token.swapcase(), token.upper(), f"{token} {token}"]
    for number, spelling in enumerate(spellings):
        code, out, words = town.command(f"thief{number}", "agent", "join", spelling)
        assert code in (1, 64), f"{spelling!r}: {out}{words}"
        assert "token" in words and "Traceback" not in words
        assert not (estate.home(f"thief{number}") / "identity.pem").exists()
    assert town.command("vm1", "agent", "join", token)[0] == 0, "its own home has joined already: nothing to do"
    assert load_identity(estate.home("vm1") / "identity.pem").leaf.key == key
    shown = json.loads(town.ok(OPERATOR, "-o", "json", "host", "show", "vm1"))
    assert shown["key"] == key
    assert shown["refusals"]
    estate.start_agent("vm1")
    wait_connected(estate, "vm1")
