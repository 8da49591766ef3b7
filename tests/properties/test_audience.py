"""Pure: hosts that are told by following each change are told exactly what comparing all with all would say (C46).

One gateway goes through random estates. Every host has two control streams: on one it is told by an `Audience` that
knows what each change touched, on the other by `update_for`. They are told at the same moments, some of them late.
"""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agents.control.audience import Audience, Hearer
from agents.control.publisher import EstateView, Sent, update_for
from inventory.imports import place_of
from inventory.model import Client, Host
from inventory.snapshot import Snapshot, Touched
from inventory.visibility import visible
from tests.properties.test_publisher import Gateway, any_snapshot, with_hosts
from tests.support.estates import instance, revocation, touched

STEPS = 6
LATE = 0.3
"""How often a host is not told before the next change."""


class Hosts:
    """Every host's two control streams."""

    def __init__(self, names: list[str], audience: Audience) -> None:
        self.audience = audience
        self.hearers: dict[str, Hearer] = {}
        self.sent: dict[str, Sent] = {}
        self.due: set[str] = set()
        """Who may lack something."""
        for name in names:
            self.come(name)

    def come(self, name: str) -> None:
        """On a new control stream."""
        if name in self.hearers:
            self.audience.leave(self.hearers[name])
        self.hearers[name], self.sent[name] = Hearer(name), Sent()
        self.audience.join(self.hearers[name])
        self.due.add(name)

    def check_sight(self, name: str) -> None:
        snapshot = self.audience.view.snapshot
        places = {place_of(one.gateway) for one in snapshot.authority.imports.values()}
        seen = {host for host in {*snapshot.authority.hosts, *places} if self.audience.sees(self.hearers[name], host)}
        assert seen == visible(snapshot, name).hosts

    def follow(self, view: EstateView, touched: Touched | None, rng: random.Random) -> None:
        """Between two steps of it hosts ask, leave and come."""
        for hearer in self.audience.follow(view, touched):
            if hearer is not None:
                self.due.add(hearer.host)
            if rng.random() < 0.3:
                self.check_sight(rng.choice(sorted(self.hearers)))
            if rng.random() < 0.05:
                self.come(rng.choice(sorted(self.hearers)))


def nudged(goal: Snapshot, rng: random.Random) -> Snapshot:
    """Like `goal` but for one host or what is placed on it."""
    authority = goal.authority
    host = authority.hosts[rng.choice(sorted(authority.hosts))]
    match rng.randrange(5):
        case 4:
            clients = dict(authority.clients)
            name = rng.choice(["a", "b"])
            if clients.pop(name, None) is None:
                clients[name] = Client(name=name, gateways=("gw1",), labels=rng.choice([{}, {"k": "a"}]))
            return goal.evolved(authority=replace(authority, clients=clients))
        case 0:
            labels = {"k": rng.choice(["a", "1.2", "p"])}
            changed = msgspec.structs.replace(host, labels=labels, draining=rng.choice([None, "soon"]))
            return goal.evolved(authority=replace(authority, hosts={**authority.hosts, host.name: changed}))
        case 1:
            kept = dict(authority.revoked_identities)
            body = revocation(host.name)
            if kept.pop(body.spiffe_id, None) is None:
                kept[body.spiffe_id] = body
            return goal.evolved(authority=replace(authority, revoked_identities=kept))
        case 2:
            changed = msgspec.structs.replace(host, serves=tuple(rng.sample(["a", "ab", "x", "y"], 2)))
            return goal.evolved(authority=replace(authority, hosts={**authority.hosts, host.name: changed}))
        case _:
            placed = instance(rng.choice(["a", "x"]), host.name, labels={"k": rng.choice("pq")})
            instances = {i: one for i, one in authority.instances.items() if i != placed.id}
            if len(instances) == len(authority.instances) or rng.random() < 0.5:
                instances[placed.id] = placed
            return goal.evolved(authority=replace(authority, instances=instances))


@given(st.integers(0, 2**32))
def test_following_says_exactly_what_comparing_all_would(seed: int) -> None:
    rng = random.Random(seed)
    gateway = Gateway(rng)
    goal = any_snapshot(rng)
    gateway.become(goal)
    audience = Audience(gateway.view)
    names = sorted(goal.authority.hosts)
    hosts = Hosts(names, audience)
    for _ in range(STEPS):
        for name in sorted(hosts.due):
            if rng.random() < LATE:
                continue
            hosts.due.remove(name)
            told = audience.next_update(hosts.hearers[name])
            wanted = update_for(name, audience.view, hosts.sent[name])
            assert told == wanted, (name, told, wanted)
        for name in names:
            if name not in hosts.due:
                assert update_for(name, audience.view, hosts.sent[name]) is None, "who is not due lacks nothing"
                hosts.check_sight(name)
        before = gateway.view
        if rng.random() < 0.6:
            rng.choice([gateway.nudge, gateway.say_again])()
        else:
            goal = nudged(goal, rng) if rng.random() < 0.7 else any_snapshot(rng)
            kept = {n: goal.authority.hosts.get(n) or Host(name=n) for n in names[:2]}
            everything = goal.evolved(authority=with_hosts(goal, kept))
            gateway.become(everything, new_policy=None if rng.random() < 0.3 else False)
        known = touched(before.snapshot, gateway.snapshot)
        hosts.follow(gateway.view, known if rng.random() < 0.9 else None, rng)
        if rng.random() < 0.3:
            audience.forget_places()
        if rng.random() < 0.2:
            hosts.come(rng.choice(names))
