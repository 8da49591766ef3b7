"""Pure: what a host makes of two gateways, step by step, against an obvious merge of all that each of them said.

Both gateways serve one log, one of them now and then a step behind; each holds some of the hosts. Control streams begin
anew, links come and go.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agents.control.messages import Update
from agents.control.publisher import EstateView, Sent, update_for
from agents.knowledge.known import Known
from agents.knowledge.placement import PlacementFile
from bridge.policy.decide import Permit, Subject, decide
from inventory.authority import Slice, verify_log
from inventory.health import HealthByHost, host_of
from inventory.model import Health, Host, Instance, Presence
from inventory.snapshot import Snapshot
from tests.properties.test_publisher import Gateway, any_snapshot, key_of, with_hosts
from tests.support.authority import gateway as gateway_body
from tests.support.estates import NOON

STEPS = 6
NAMES = ("gw1", "gw2")


@dataclass
class Said:
    """All that one gateway said, as plain as can be."""

    keys: set[str] = field(default_factory=set)
    presence: dict[str, Presence] = field(default_factory=dict)
    reported: dict[str, tuple[Instance, ...]] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    linked: bool = True

    def hear(self, update: Update, hosts: set[str]) -> None:
        """`hosts`: those that the operator signed, as far as the listener knows now."""
        if update.full:
            self.__init__()  # type: ignore[misc]
        self.linked = True
        self.keys |= {key_of(signed) for signed in update.entries}
        self.keys -= set(update.dropped)
        put(self.presence, update.presence, hosts)
        put(self.reported, {h: i or None for h, i in update.reported.items()}, hosts)
        for instance_id, health in update.health.items():
            put(self.health, {instance_id: health}, {instance_id} if host_of(instance_id) in hosts else set())


def put(said: dict, news: dict, known: set[str]) -> None:  # type: ignore[type-arg]
    for key, value in news.items():
        if value is None or key not in known:
            said.pop(key, None)
        else:
            said[key] = value


def merged(said: dict[str, Said]) -> tuple[dict[str, Presence], dict[str, tuple[Instance, ...]], dict[str, Health]]:
    """Of each host one gateway's word: of those that we hear, then of the others: who holds it, who says it is here,
    who knows of it. Of two alike the one that has its report, then the first by name."""
    presence, reported, health = {}, {}, {}
    hosts = {h for s in said.values() for h in (*s.presence, *s.reported, *map(host_of, s.health))}
    for host in hosts:
        order = []
        for name, s in said.items():
            here = s.presence.get(host)
            mine = {i: state for i, state in s.health.items() if host_of(i) == host}
            holds, online = here is not None and name in here.gateways, here is not None and here.online
            steps = [holds, online, here is not None]
            rank = steps.index(True) if True in steps else 3
            blind = 0 if s.linked or here is None else 1
            order.append((here is None, blind, rank, not (s.reported.get(host) or mine), name))
        best = said[min(order)[-1]]
        if (here := best.presence.get(host)) is not None:
            holding = [n for n in sorted(said) if (p := said[n].presence.get(host)) is not None and n in p.gateways]
            heard = [n for n in holding if said[n].linked]
            presence[host] = msgspec.structs.replace(here, gateways=tuple(heard or holding))
        if host in best.reported:
            reported[host] = best.reported[host]
        health.update({i: state for i, state in best.health.items() if host_of(i) == host})
    return presence, reported, health


class Listener:
    """A host that hears two gateways."""

    def __init__(self, name: str, estate: Gateway, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.sent = {gateway: Sent() for gateway in NAMES}
        self.said = {gateway: Said() for gateway in NAMES}
        start = Slice.start(estate.chain.log[0], estate.chain.fingerprint)
        self.known = Known.start(start, (), PlacementFile())

    def listen(self, gateway: str, view: EstateView) -> None:
        update = update_for(self.name, view, self.sent[gateway])
        if update is None:
            return
        self.known = self.known.updated(gateway, update, at=NOON)
        self.said[gateway].hear(update, set(self.known.snapshot.authority.hosts))

    def link(self, names: frozenset[str]) -> None:
        self.known = self.known.linked(names)
        for name, said in self.said.items():
            said.linked = name in names

    def check(self) -> None:
        snapshot = self.known.snapshot
        presence, reported, health = merged(self.said)
        assert snapshot.presence == presence
        assert snapshot.reported == reported
        assert dict(snapshot.health) == health
        fresh = Snapshot(
            authority=snapshot.authority,
            allows=snapshot.allows,
            presence=presence,
            reported=reported,
            health=HealthByHost(health),
        )
        assert snapshot.services == fresh.services, "what was carried over is what is worked out anew"
        seen = self.said["gw1"].keys | self.said["gw2"].keys
        held = {key for key in self.known.slice.entries if key != "policy" and not key.startswith("revoke/")}
        assert held <= seen, "nothing is kept that no gateway lets us see"


def held_by(name: str, view: EstateView, hosts: set[str], rng: random.Random) -> EstateView:
    """The same estate as a gateway knows it that holds only these hosts; of some of the others it has heard."""
    snapshot = view.snapshot
    presence = {
        host: msgspec.structs.replace(here, gateways=(name,) if host in hosts else ())
        for host, here in snapshot.presence.items()
        if host in hosts or rng.random() < 0.5
    }
    reported = {host: mine for host, mine in snapshot.reported.items() if host in presence}
    health = HealthByHost({i: state for i, state in snapshot.health.items() if host_of(i) in presence})
    placed = snapshot.evolved(presence=presence, reported=reported, health=health)
    return EstateView(placed, view.latest, view.slicer, view.everybody)


@given(st.integers(0, 2**32))
def test_two_gateways_heard_step_by_step_are_the_obvious_merge_of_what_each_said(seed: int) -> None:
    rng = random.Random(seed)
    estate = Gateway(rng)
    estate.state = verify_log(estate.chain.add(*map(gateway_body, NAMES)), estate.state)
    first = any_snapshot(rng)
    me = rng.choice(sorted(first.authority.hosts))
    estate.become(first)
    listener = Listener(me, estate, rng)
    before = estate.view
    for _ in range(STEPS):
        views = {"gw1": estate.view, "gw2": before if rng.random() < 0.3 else estate.view}
        for name in rng.sample(NAMES, 2):
            hosts = {h for h in views[name].snapshot.presence if rng.random() < 0.6}
            listener.listen(name, held_by(name, views[name], hosts, rng))
            listener.check()
        if rng.random() < 0.3:
            listener.link(frozenset(name for name in NAMES if rng.random() < 0.6))
            listener.check()
        if rng.random() < 0.3:
            name = rng.choice(NAMES)
            listener.sent[name] = Sent()  # a new control stream
        before = estate.view
        goal = any_snapshot(rng)
        names = {me: goal.authority.hosts.get(me) or Host(name=me)}
        estate.become(goal.evolved(authority=with_hosts(goal, names)))


@given(st.integers(0, 2**32))
def test_c46_with_two_gateways_a_host_decides_as_if_it_knew_all_that_they_know(seed: int) -> None:
    rng = random.Random(seed)
    estate = Gateway(rng)
    estate.state = verify_log(estate.chain.add(*map(gateway_body, NAMES)), estate.state)
    first = any_snapshot(rng)
    me = rng.choice(sorted(first.authority.hosts))
    estate.become(first)
    listener = Listener(me, estate, rng)
    for _ in range(STEPS):
        view = estate.view
        for name in rng.sample(NAMES, 2):
            listener.listen(name, view)
        mine = listener.known.snapshot
        for service in view.snapshot.services:
            whole = decide(view.snapshot, Subject("host", me), service, now=NOON)
            ours = decide(mine, Subject("host", me), service, now=NOON)
            assert isinstance(whole, Permit) == isinstance(ours, Permit), (service, whole, ours)
        goal = any_snapshot(rng)
        names = {me: goal.authority.hosts.get(me) or Host(name=me)}
        estate.become(goal.evolved(authority=with_hosts(goal, names)))
        if rng.random() < 0.4:
            listener.sent[rng.choice(NAMES)] = Sent()
