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
from agents.control.publisher import Sent, update_for
from inventory.model import Host
from inventory.snapshot import Snapshot
from inventory.visibility import visible
from tests.properties.test_publisher import Gateway, any_snapshot, with_hosts
from tests.support.estates import instance, revocation, touched

STEPS = 6
LATE = 0.3
"""How often a host is not told before the next change."""


def nudged(goal: Snapshot, rng: random.Random) -> Snapshot:
    """Like `goal` but for one host or what is placed on it."""
    authority = goal.authority
    host = authority.hosts[rng.choice(sorted(authority.hosts))]
    match rng.randrange(4):
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
    sent = {name: Sent() for name in names}
    hearers = {name: Hearer(name) for name in names}
    for hearer in hearers.values():
        audience.join(hearer)
    due = set(names)
    for _ in range(STEPS):
        for name in sorted(due):
            if rng.random() < LATE:
                continue
            due.remove(name)
            told, wanted = audience.next_update(hearers[name]), update_for(name, audience.view, sent[name])
            assert told == wanted, (name, told, wanted)
        for name in names:
            if name not in due:
                assert update_for(name, audience.view, sent[name]) is None, "who is not due lacks nothing"
                seen = visible(audience.view.snapshot, name).hosts
                assert {h for h in audience.view.snapshot.authority.hosts if audience.sees(hearers[name], h)} == seen
        before = gateway.view
        if rng.random() < 0.6:
            rng.choice([gateway.nudge, gateway.say_again])()
        else:
            goal = nudged(goal, rng) if rng.random() < 0.7 else any_snapshot(rng)
            kept = {n: goal.authority.hosts.get(n) or Host(name=n) for n in names[:2]}
            everything = goal.evolved(authority=with_hosts(goal, kept))
            gateway.become(everything, new_policy=None if rng.random() < 0.3 else False)
        known = touched(before.snapshot, gateway.snapshot)
        due |= {hearer.host for hearer in audience.follow(gateway.view, known if rng.random() < 0.9 else None)}
        if rng.random() < 0.3:
            audience.forget_places()
        name = rng.choice(names)
        if rng.random() < 0.2:
            audience.leave(hearers[name])
            hearers[name], sent[name] = Hearer(name), Sent()
            audience.join(hearers[name])
            due.add(name)
