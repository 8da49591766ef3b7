"""I/O: commands and the gateway are killed in the middle of many changes: what was acknowledged is there (F03).

    operator ──┐
    operator ──┼── registry ── gateway ── vm1, whose agent sees all of it
    (killed)   ┘              (killed)

An operator's last word is the exit code 0; the policy is whole, so of that the last acknowledged one, or a later one
that had not been acknowledged yet, is in force.
"""

from __future__ import annotations

import json
import random
import sys
import time

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import join, status
from tests.support.processes import RunningProcess
from tests.support.town import Town
from tests.support.traffic import eventually

ROUNDS = 4
AT_LEAST = 10
"""Changes that are waited for in a round, so that every kill falls among many."""


def acknowledged(process: RunningProcess) -> list[str]:
    process.stdout.join(10)
    return process.stdout.path.read_text().splitlines()


@pytest.mark.slow
@pytest.mark.usefixtures("each_registry")
def test_f03_every_acknowledged_change_is_there_after_every_kill(estate: Estate, seed: int) -> None:
    chance = random.Random(seed)
    town = Town(estate)
    estate.init()
    estate.start_gateway()
    join(estate, "vm1")
    estate.start_agent("vm1")
    said: list[str] = []
    for number in range(ROUNDS):
        operators = [
            estate.start(
                f"operator-{number}{letter}",
                [
                    sys.executable,
                    "-m",
                    "tests.support.operator_at_work",
                    str(estate.home(OPERATOR)),
                    f"r{number}{letter}",
                ],
            )
            for letter in "ab"
        ]
        for operator in operators:
            eventually(lambda o=operator: o.stdout.count >= AT_LEAST or not o.running, timeout=30)
            assert operator.running, operator.stderr.tail()
        time.sleep(chance.uniform(0, 0.05))  # the moment of the kill is the thing under test
        victims = [OPERATOR, *operators]
        for victim in chance.sample(victims, 3):
            if isinstance(victim, RunningProcess):
                victim.kill9()
                said += acknowledged(victim)
            else:
                estate.kill9(OPERATOR)
        estate.start_gateway()
        check(town, said)
    number = status(estate, OPERATOR)["authority_number"]
    print(f"{len(said)} acknowledged changes, all there; the log ends at {number}")
    eventually(
        lambda: status(estate, "vm1").get("policy_number") == status(estate, OPERATOR)["policy_number"],
        what="the agent has the policy that is in force",
        timeout=20,
    )


def check(town: Town, said: list[str]) -> None:
    hosts = {host["name"] for host in json.loads(town.ok(OPERATOR, "-o", "json", "host", "list"))}
    services = {service["service"] for service in json.loads(town.ok(OPERATOR, "-o", "json", "service", "list"))}
    messages = {entry["message"] for entry in json.loads(town.ok(OPERATOR, "-o", "json", "policy", "log"))}
    for line in said:
        kind, name, *_ = line.split()
        there = {"host": hosts, "service": services, "policy": messages}[kind]
        assert name in there, f"lost: {line}"
    assert town.ok(OPERATOR, "policy", "show")
