"""I/O: a Consul that answers nothing, whose token is revoked, or that is killed again and again while changes are made:
the gateway says which within seconds, what works goes on, and it knows the final state soon after."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.consul_server import ConsulServer, documented_policy, new_consul, options
from tests.support.estate import OPERATOR, Estate
from tests.support.pair import start_pair, status
from tests.support.traffic import Backend, Load, eventually

SAID_WITHIN = 12.0
"""Seconds until `status` says that Consul answers nothing; 9.3 of them are the watch's."""
BACK_WITHIN = 5.0
KILLS = 2


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    with new_consul(estate.path, estate) as server:
        yield server


def registry_warning(estate: Estate) -> str:
    return next((w["text"] for w in status(estate, OPERATOR)["warnings"] if w["code"] == "registry"), "")


def seconds_until(found: Callable[[], object], what: str) -> float:
    began = time.monotonic()
    eventually(found, what=what, timeout=30)
    return time.monotonic() - began


def test_f52_what_is_wrong_is_said_and_what_works_goes_on(estate: Estate, own_consul: ConsulServer, seed: int) -> None:
    rng = random.Random(seed)
    place = own_consul.place()
    assert place.token_file is not None
    with Backend("one") as one:
        pair = start_pair(estate, {"web": one.target}, init=("--registry", "consul", *options(place)))
        with Load(*pair.place("web"), clients=2, rate=40) as load:
            # It takes connections and answers none of them.
            assert own_consul.process is not None
            os.kill(own_consul.process.pid, signal.SIGSTOP)
            said = seconds_until(lambda: "does not answer within 9 s" in registry_warning(estate), "a mute Consul")
            os.kill(own_consul.process.pid, signal.SIGCONT)
            back = seconds_until(lambda: not registry_warning(estate), "a Consul that speaks again")
            print(f"a Consul that answers nothing: said after {said:.1f} s, followed again after {back:.1f} s")
            assert said < SAID_WITHIN and back < BACK_WITHIN

            # Its token is revoked, and replaced while everything runs.
            own_consul.revoke(place)
            said = seconds_until(lambda: place.token_file in registry_warning(estate), "a token refused, by its file")
            done = estate.cli(OPERATOR, "host", "add", "vm8")
            assert done.returncode == 69 and place.token_file in done.stderr
            _, secret = own_consul.new_token(documented_policy(place.prefix))
            Path(place.token_file).write_text(secret)
            back = seconds_until(lambda: not registry_warning(estate), "the new token is used")
            print(f"a revoked token: said after {said:.1f} s, the one in its place is used after {back:.1f} s")
            assert said < SAID_WITHIN and back < BACK_WITHIN

            # Killed, and started again, with changes before and after: no final state is missed.
            for number in range(KILLS):
                for _ in range(rng.randint(1, 3)):
                    pair.town.ok(OPERATOR, "host", "add", "changed", "--replace", "--label", f"round={rng.random()}")
                own_consul.stop(kill=True)
                time.sleep(rng.uniform(0.0, 1.0))  # somewhere in a watch, a wait or a retry
                own_consul.start()
                pair.town.ok(OPERATOR, "host", "add", f"last{number}")
                took = seconds_until(
                    lambda n=number: f"last{n}" in {row["name"] for row in status(estate, OPERATOR)["hosts"]},
                    "the last change",
                )
                assert took < BACK_WITHIN
        assert not load.failures, load.failures[:3]
    print(f"{load.total} requests, none failed")
