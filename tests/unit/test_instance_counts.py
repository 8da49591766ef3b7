"""Pure: instances counted by following changes are as many as when all are counted."""

from __future__ import annotations

import random

import pytest

from agents.instance_counts import InstanceCounts
from inventory.health import HealthByHost
from inventory.model import Health, Host
from tests.support.estates import instance, random_snapshot, snapshot, touched


def test_instances_are_counted_by_service_and_state() -> None:
    up, ill = instance("web", "vm1"), instance("web", "vm1", target="127.0.0.1:9001")
    leaving = instance("web", "vm1", target="127.0.0.1:9002", draining="soon")
    made = snapshot([Host(name="vm1")], [up, ill, leaving]).evolved(
        health=HealthByHost({up.id: Health(state="passing"), ill.id: Health(state="failing")})
    )
    assert InstanceCounts().count(made) == {("web", "passing"): 1, ("web", "failing"): 1, ("web", "draining"): 1}


@pytest.mark.parametrize("seed", range(40))
def test_following_is_as_counting_all(seed: int) -> None:
    rng = random.Random(seed)
    now, counts = random_snapshot(rng), InstanceCounts()
    counts.count(now)
    for _ in range(5):
        other = random_snapshot(rng)
        ids = [i.id for service in other.services.values() for i in service.instances]
        before, now = (
            now,
            other.evolved(health=HealthByHost({i: Health(state="failing") for i in ids if rng.random() < 0.5})),
        )
        what = touched(before, now)
        counts.touched(None if rng.random() < 0.1 else what.hosts | what.named)
        if rng.random() < 0.7:
            assert counts.count(now) == InstanceCounts().count(now)
