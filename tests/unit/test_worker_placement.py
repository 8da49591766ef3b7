"""Pure: what differs, told one after the other, leaves a worker with what the whole would have."""

from __future__ import annotations

import random
from collections.abc import Mapping

import msgspec
import pytest

from agents.workers import messages as m
from agents.workers.placement import Placed, changed, placed
from inventory.health import HealthByHost
from inventory.model import Health, Host, Instance, Presence
from inventory.snapshot import Snapshot
from tests.support.estates import authority, instance

HOSTS = [Host(name=f"h{n}", serves=("web", "db")) for n in range(4)]


def some_instances(rng: random.Random, host: str) -> tuple[Instance, ...]:
    ports = rng.sample(range(9000, 9004), rng.randrange(3))
    return tuple(instance(rng.choice(["web", "db"]), host, target=f"127.0.0.1:{port}") for port in ports)


def any_placed(rng: random.Random, before: Placed) -> Placed:
    """One host is otherwise, or all are."""
    everything = rng.random() < 0.3
    names = [host.name for host in HOSTS] if everything else [rng.choice(HOSTS).name]
    presence = {} if everything else dict(before.presence)
    reported = {} if everything else dict(before.reported)
    health = HealthByHost() if everything else before.health
    for name in names:
        presence.pop(name, None)
        if rng.random() < 0.7:
            presence[name] = Presence(host=name, online=rng.random() < 0.5)
        reported.pop(name, None)
        if rng.random() < 0.8:
            reported[name] = some_instances(rng, name)
        ill = {i.id: Health(state=rng.choice(["passing", "failing"])) for i in reported.get(name, ())}
        health = health.with_host(name, ill)
    return Placed(before.revision + 1, presence, reported, health)


def sent(message: m.ToWorker) -> m.ToWorker:
    """As it comes out of the socketpair: nothing in it is the same object any more."""
    return msgspec.json.decode(msgspec.json.encode(message), type=m.ToWorker)


def state(snapshot: Snapshot) -> tuple[object, ...]:
    def plain(mapping: Mapping[str, object]) -> dict[str, object]:
        return dict(sorted(mapping.items()))

    offers = {host.name: snapshot.offers(host.name) for host in HOSTS}
    placement = (plain(snapshot.presence), plain(snapshot.reported), plain(snapshot.health), snapshot.revision)
    return (*placement, plain(snapshot.services), offers)


@pytest.mark.parametrize("seed", range(40))
def test_what_differs_adds_up_to_the_whole(seed: int) -> None:
    rng = random.Random(seed)
    start = Snapshot(authority=authority(HOSTS))
    start.prepare()
    before, by_changes = Placed(), start
    for _ in range(6):
        now = any_placed(rng, before)
        change = now.since(before)
        if change is not None:
            message = sent(change)
            assert isinstance(message, m.PlacementChanged)
            by_changes = changed(by_changes, message)
            before = now
        whole = sent(before.whole())
        assert isinstance(whole, m.Placement)
        assert state(by_changes) == state(placed(start, whole))
        if change is not None and rng.random() < 0.3:  # a new worker may hear the whole and then what is in it
            assert state(changed(placed(start, whole), message)) == state(by_changes)


def test_only_what_differs_is_said() -> None:
    one, other = instance("web", "h0"), instance("web", "h1")
    first = Placed(
        1,
        {"h0": Presence(host="h0", online=True), "h1": Presence(host="h1", online=True)},
        {"h0": (one,), "h1": (other,)},
        HealthByHost({one.id: Health(state="passing"), other.id: Health(state="passing")}),
    )
    again = Placed(2, dict(first.presence), dict(first.reported), HealthByHost(dict(first.health)))
    assert again.since(first) is None
    ill = Placed(3, {"h0": first.presence["h0"]}, {"h0": (one,)}, HealthByHost({one.id: Health(state="failing")}))
    change = ill.since(first)
    assert change is not None
    assert change.presence == {"h1": None} and change.reported == {"h1": None}
    assert change.health == {one.id: Health(state="failing"), other.id: None}
