"""I/O: certificates of a few seconds: streams stay open over several of them, new tunnels have the new one, and a kill
at any moment leaves a key with its own certificate."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any

import pytest

from bridge.identity.identity_file import load_identity
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, start_pair, status
from tests.support.traffic import Backend, ask, eventually, hold, is_alive, session

pytestmark = pytest.mark.slow
LIFETIME = "6s"
ROTATIONS = 2
KILLS = 6


def ends(estate: Estate, home: str) -> Any:
    return status(estate, home).get("certificate_ends")


def rotated(estate: Estate, *homes: str) -> None:
    before = {home: ends(estate, home) for home in homes}
    for home in homes:
        eventually(lambda home=home: ends(estate, home) not in (None, before[home]), what=f"{home} has a new one")


def test_f44_certificates_rotate_under_streams(estate: Estate) -> None:
    with Backend("web") as web, Backend("held", hold) as server:
        services = {"web": web.target, "hold": server.target}
        pair = start_pair(estate, services, init=("--certificate-lifetime", LIFETIME))
        hold_at, web_at = pair.place("hold"), pair.place("web")
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(session(*hold_at)) for _ in range(50)]
            for _ in range(ROTATIONS):
                rotated(estate, SERVER, CLIENT, OPERATOR)
                assert all(is_alive(sock) for sock in streams), "a stream was dropped"
                assert ask(*web_at) == "web"
                newest = ends(estate, SERVER)
                eventually(
                    lambda newest=newest: (
                        ask(*web_at) == "web"
                        and any(
                            t["peer"] == f"host:{SERVER}" and t["peer_certificate_ends"] >= newest
                            for t in status(estate, CLIENT)["tunnels"]
                        )
                    ),
                    what="a tunnel with the new certificate",
                )


def test_f05_a_kill_during_rotation_leaves_a_pair(estate: Estate, seed: int) -> None:
    rng = random.Random(seed)
    estate.init("--certificate-lifetime", "5s")
    estate.start_gateway()
    estate.add_host(SERVER)
    identity = estate.home(SERVER) / "identity.pem"
    seen = {load_identity(identity).leaf.serial}
    for _ in range(KILLS):
        estate.start_agent(SERVER)
        rotated(estate, SERVER)
        threading.Event().wait(rng.uniform(0.0, 3.0))  # somewhere before, in or after the next one
        estate.kill9(SERVER)
        seen.add(load_identity(identity).leaf.serial)  # raises when key and certificate do not belong together
    assert len(seen) == KILLS + 1
