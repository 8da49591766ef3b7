"""Pure: health held host by host is the same as one mapping of all."""

from __future__ import annotations

import random

import pytest

from inventory.health import HealthByHost, host_of
from inventory.model import Health

UP, DOWN = Health(state="passing"), Health(state="failing")
WEB, DB = "web/vm1/127.0.0.1:80", "db/vm2/[::1]:80"


def test_health_is_found_by_the_instance_alone() -> None:
    held = HealthByHost({WEB: UP, DB: DOWN})
    assert held[WEB] == UP and held.get(DB) == DOWN and held.get("db/vm9/x") is None and held.get("x") is None
    assert held == {WEB: UP, DB: DOWN} and len(held) == 2 and set(held) == {WEB, DB}
    assert held.on("vm1") == {WEB: UP} and held.on("vm9") == {} and host_of("x") == ""


def test_another_hosts_health_is_the_same_object_after_a_change() -> None:
    held = HealthByHost({WEB: UP, DB: DOWN})
    after = held.with_host("vm1", {WEB: DOWN})
    assert after == {WEB: DOWN, DB: DOWN} and held[WEB] == UP
    assert after.on("vm2") is held.on("vm2")
    assert held.changed({WEB: None}).on("vm2") is held.on("vm2")
    assert held.changed({}) is held and held.without(["vm9"]) is held
    assert held.without(["vm1"]) == {DB: DOWN} and held.with_host("vm2", {}) == {WEB: UP}


@pytest.mark.parametrize("seed", range(20))
def test_changes_add_up_as_in_one_mapping(seed: int) -> None:
    rng = random.Random(seed)
    held, plain = HealthByHost(), dict[str, Health]()
    for _ in range(50):
        changes = {f"s{rng.randrange(3)}/h{rng.randrange(3)}/t": rng.choice([UP, DOWN, None]) for _ in range(3)}
        held = held.changed(changes)
        plain.update({i: health for i, health in changes.items() if health is not None})
        for gone in [i for i, health in changes.items() if health is None]:
            plain.pop(gone, None)
        assert held == plain
