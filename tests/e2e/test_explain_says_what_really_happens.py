"""I/O: for random policies, `policy explain` and a real connection agree about every host and every service."""

from __future__ import annotations

import random

from tests.support.town import Town, allow, deny
from tests.support.traffic import Backend, RequestFailed, ask, eventually

HOSTS = ("app", "db1", "db2")
SUBJECTS = (
    *("host:app", "host:db1", "host:db?", "host:*", "label:role=web", "label:tier=d*", "site:dc2"),
    *("service:front", "service:*", "client:app"),
)
USERS = ("", "", "", 'user = ["someone-else"]', 'user = ["root", "daemon"]')
TIMES = ("", "", "", "until = 2020-01-01", "until = 2999-01-01", 'when = "daily 00:00-24:00"')
MODES = ("", "", "", 'mode = "observe"')
ROUNDS = 8


def test_reality_and_explanation_agree(town: Town, seed: int) -> None:
    rng = random.Random(seed)
    services = [town.name("matrix") for _ in range(4)]
    with Backend("served") as backend:
        for number, service in enumerate(services):
            label = ("--label", "tier=gold") if number % 2 else ()
            town.place(service, "db1" if number < 2 else "db2", backend.target, *label)
        for _ in range(ROUNDS):
            text = _random_policy(rng, services)
            town.policy(text)
            for host in HOSTS:
                for service in services:
                    told = _explained(town, host, service)
                    eventually(
                        lambda h=host, s=service, t=told: _reached(town, h, s) is t,
                        timeout=3,
                        what=f"{host} to {service}: explain says {told}, reality does not, under\n{text}",
                    )


def _random_policy(rng: random.Random, services: list[str]) -> str:
    targets = [*services, "matrix-*", "label:tier=gold", "*"]
    text = ""
    for number in range(rng.randint(0, 5)):
        rule = rng.choice([allow, allow, allow, deny])
        more = [line for line in map(rng.choice, (USERS, TIMES, MODES)) if line]
        text += rule(f"rule {number}", f'"{rng.choice(SUBJECTS)}"', f'"{rng.choice(targets)}"', *more)
    return text or "# nothing is allowed\n"


def _explained(town: Town, host: str, service: str) -> bool:
    """As the user who runs this test, whom the agent will attest."""
    import getpass

    return town.allowed(f"host:{host}", service, "--user", getpass.getuser())


def _reached(town: Town, host: str, service: str) -> bool:
    if not town.knows(host, service):
        return False
    try:
        return ask(*town.address(host, service)) == "served"
    except RequestFailed:
        return False
