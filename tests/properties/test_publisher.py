"""Pure: what a gateway tells a host: nothing that is none of its affair, and all that its decisions need (C46).

Random estates follow one another; after each change the host is sent what `update_for` says it lacks, now and then over
a new control stream.
"""

from __future__ import annotations

import dataclasses
import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agents.control.messages import Update
from agents.control.publisher import EstateView, Sent, for_everybody, update_for
from agents.knowledge.known import Known
from agents.knowledge.placement import PlacementFile
from bridge.policy.decide import Permit, Subject, decide
from inventory.authority import (
    AdmissionBody,
    AuthorityState,
    Body,
    ClientBody,
    GatewayBody,
    HostBody,
    ImportBody,
    InstanceBody,
    PublishBody,
    ReachBody,
    RevokeBody,
    SignedEntry,
    Slice,
    entry_key,
    verify_log,
)
from inventory.authority.entries import Entry
from inventory.health import HealthByHost
from inventory.imports import instance_of, place_of
from inventory.model import Admission, Client, Health, Host, Import, Instance, Presence, Publication
from inventory.model import Gateway as GatewayEntry
from inventory.policy_document import PolicyDocument, PolicySlicer, build, verify_document
from inventory.snapshot import Snapshot, Touched
from inventory.visibility import Visible, visible
from tests.support.authority import Chain, gateway, reach, revoke
from tests.support.estates import NOON, instance, random_snapshot, rule, snapshot

STEPS = 4


def any_snapshot(rng: random.Random) -> Snapshot:
    made = random_snapshot(rng) if rng.random() < 0.5 else crowded_snapshot(rng)
    return with_imports(made, rng) if rng.random() < 0.5 else made


def with_imports(made: Snapshot, rng: random.Random) -> Snapshot:
    """Two gateways that bring in services, some of which hosts serve as well; and say more than they may."""
    wanted = [
        Import(
            service=rng.choice(["a", "ab", "db", "x", "y"]),
            gateway=rng.choice(["gw1", "gw2"]),
            source=rng.choice(["web", "api"]),
            labels=rng.choice([{}, {"k": "p"}, {"k": "a"}]),
            port=rng.choice([None, 80]),
        )
        for _ in range(rng.randrange(1, 4))
    ]
    found = [instance_of(one, f"10.0.0.{rng.randrange(1, 4)}:80", port=80) for one in wanted for _ in range(2)]
    distinct = [i for _, i in sorted({i.id: i for i in found}.items())]
    reported = {place: tuple(i for i in distinct if i.host == place) for place in {i.host for i in found}}
    kept = {one.id: one for one in wanted if rng.random() < 0.9}
    gateways = {name: GatewayEntry(name=name, address="10.0.0.1:1") for name in {one.gateway for one in wanted}}
    authority = dataclasses.replace(made.authority, imports=kept, gateways=gateways)
    return made.evolved(authority=authority, reported={**made.reported, **reported})


def crowded_snapshot(rng: random.Random) -> Snapshot:
    """Two services on several hosts each, and rules about what their instances are like."""
    hosts = [Host(name=name, serves=tuple(rng.sample("xy", rng.randrange(3)))) for name in rng.sample("abcd", 3)]
    instances = [
        instance(
            rng.choice("xy"), rng.choice(hosts).name, target=f"127.0.0.1:{9000 + n}", labels={"k": rng.choice("pq")}
        )
        for n in range(rng.randrange(2, 5))
    ]
    rules = [
        rule(
            f"rule {n}",
            "deny" if rng.random() < 0.3 else "allow",
            rng.choice(["host:a", "host:b", "host:*", "service:x"]),
            rng.choice(["label:k=p", "label:k=q", "label:k=*", "x", "y"]),
        )
        for n in range(rng.randrange(1, 4))
    ]
    return snapshot(hosts, instances, rules)


def lower(labels: dict[str, str]) -> dict[str, str]:
    return {key: value.lower() for key, value in labels.items()}


def canonical_host(host: Host) -> Host:
    return msgspec.structs.replace(host, labels=lower(host.labels))


def canonical_client(client: Client) -> Client:
    return msgspec.structs.replace(client, labels=lower(client.labels))


def canonical_instance(instance: Instance) -> Instance:
    return msgspec.structs.replace(instance, labels=lower(instance.labels))


class Gateway:
    """A registry and what a gateway makes of it: signed entries, placement, and the view that is published."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.chain = Chain()
        self._document: PolicyDocument | None = None
        self.state = self.chain.state
        self.snapshot = Snapshot(authority=self.state)

    def become(self, goal: Snapshot, *, new_policy: bool | None = None) -> None:
        """Sign and report what it takes to be like `goal`; its policy now and then, if nothing is said about it."""
        state = self.state
        bodies: list[Body] = []
        hosts = {name: canonical_host(host) for name, host in goal.authority.hosts.items()}
        bodies += [HostBody(host=host) for name, host in hosts.items() if state.hosts.get(name) != host]
        bodies += [HostBody(host=host, removed=True) for name, host in state.hosts.items() if name not in hosts]
        instances = {i.id: canonical_instance(i) for i in goal.authority.instances.values()}
        bodies += [InstanceBody(instance=i) for i in instances.values() if state.instances.get(i.id) != i]
        bodies += [InstanceBody(instance=i, removed=True) for i in state.instances.values() if i.id not in instances]
        gateways = goal.authority.gateways.values()
        bodies += [GatewayBody(gateway=g) for g in gateways if state.gateways.get(g.name) != g]
        imports = goal.authority.imports
        bodies += [ImportBody(imported=one) for one in imports.values() if state.imports.get(one.id) != one]
        bodies += [ImportBody(imported=one, removed=True) for i, one in state.imports.items() if i not in imports]
        clients = {name: canonical_client(one) for name, one in goal.authority.clients.items()}
        bodies += [ClientBody(client=one) for name, one in clients.items() if state.clients.get(name) != one]
        bodies += [ClientBody(client=c, removed=True) for name, c in state.clients.items() if name not in clients]
        somewhere = [name for name in hosts if self._rng.random() < 0.2]  # told to nobody (see `check_affair`)
        bodies += [reach(name, self._rng.choice(["gw1", "gw2"])) for name in somewhere]
        bodies += [ReachBody(reach=one, removed=True) for name, one in state.reaches.items() if name not in hosts]
        bodies += [
            AdmissionBody(admission=Admission(client=name, sources=(f"10.{len(state.numbers)}.0.0/16",)))
            for name in clients
        ]
        bodies += [PublishBody(publication=Publication(service="a", host=name, port=81)) for name in somewhere]
        bodies += self._revocations(goal)
        self._rng.shuffle(bodies)
        if new_policy is None:
            new_policy = self._rng.random() < 0.5
        if self._document is None or new_policy:
            policy, self._document = build(goal.rules, "text", random_bytes=self._rng.randbytes)
            bodies.append(policy)
        self.state = verify_log(self.chain.add(*bodies), state)
        self._place(goal)

    def _revocations(self, goal: Snapshot) -> list[Body]:
        state = self.state
        new = [body for sid, body in goal.authority.revoked_identities.items() if sid not in state.revoked_identities]
        lifted = [
            RevokeBody(spiffe_id=sid, keys=body.keys, reason=body.reason, lifted=True)
            for sid, body in state.revoked_identities.items()
            if sid not in goal.authority.revoked_identities
        ]
        return [*new, *lifted]

    def _place(self, goal: Snapshot) -> None:
        rng, state = self._rng, self.state
        assert self._document is not None and state.policy is not None
        reported = {h: tuple(map(canonical_instance, mine)) for h, mine in goal.reported.items()}
        ids = [*state.instances, *(i.id for mine in reported.values() for i in mine)]
        self.snapshot = self.snapshot.evolved(
            authority=state,
            allows=verify_document(state.policy, self._document),
            presence={h: Presence(host=h, online=rng.random() < 0.7) for h in state.hosts if rng.random() < 0.8},
            reported=reported,
            health=HealthByHost(
                {i: Health(state=rng.choice(["passing", "failing"])) for i in ids if rng.random() < 0.7}
            ),
            revision=self.snapshot.revision + 1,
        )

    def say_again(self) -> None:
        """The operator signs something that changes no name: another gateway, another reason, or the same again."""
        rng, state = self._rng, self.state
        bodies: list[Body] = [gateway(rng.choice(["gw1", "gw2"]), f"10.0.0.1:{rng.randrange(1, 99)}")]
        bodies += [HostBody(host=host) for host in state.hosts.values()]
        bodies += [InstanceBody(instance=i) for i in state.instances.values()]
        again = [i for mine in self.snapshot.reported.values() for i in mine if i.host in state.hosts]
        bodies += [InstanceBody(instance=i) for i in again]
        bodies += [ImportBody(imported=one) for one in state.imports.values()]
        bodies += [ImportBody(imported=one, removed=True) for one in state.imports.values()]
        bodies += [reach(host, f"gw{rng.randrange(1, 3)}") for host in state.hosts]
        bodies += [
            msgspec.structs.replace(body, reason=f"{len(self.chain.log)}") for body in state.revocations.values()
        ]
        bodies.append(revoke("gw1") if "gw1" in state.gateways else gateway("gw1"))
        self.state = verify_log(self.chain.add(rng.choice(bodies), rng.choice(bodies)), state)
        now, before = self.snapshot, state.numbers
        keys = frozenset(key for key, number in self.state.numbers.items() if before.get(key) != number)
        self.snapshot = now.evolved(Touched(keys=keys), authority=self.state, revision=now.revision + 1)

    def nudge(self) -> None:
        """One host says something else."""
        rng, now = self._rng, self.snapshot
        imports = sorted(now.authority.imports.items())
        host = rng.choice([*sorted(now.authority.hosts), *(place_of(one.gateway) for _, one in imports)])
        mine = list(now.reported.get(host, ()))
        changes: dict[str, object] = {}
        match rng.randrange(4):
            case 0:
                presence = Presence(host=host, online=rng.random() < 0.5)
                changes["presence"] = {**now.presence, host: presence}
            case 1:
                ill = {i.id: Health(state=rng.choice(["passing", "failing"])) for i in now.offers(host)}
                changes["health"] = now.health.with_host(host, ill)
            case 2 if mine:
                mine.remove(rng.choice(mine))
                changes["reported"] = {**now.reported, host: tuple(mine)}
            case _ if host not in now.authority.hosts:
                wanted = rng.choice([one for _, one in imports if place_of(one.gateway) == host])
                new = instance_of(wanted, f"10.0.0.{rng.randrange(1, 4)}:80", port=rng.choice([80, 81]))
                there = sorted((*(i for i in mine if i.id != new.id), new), key=lambda i: i.id)
                changes["reported"] = {**now.reported, host: tuple(there)}
            case _:
                entry = now.authority.hosts[host]
                service = rng.choice([*entry.serves, "x"])
                labels = {"k": rng.choice("pq")} if rng.random() < 0.5 else {}
                new = instance(service, host, target=f"127.0.0.1:{rng.randrange(9100, 9105)}", labels=labels)
                mine = [i for i in mine if i.id != new.id]
                changes["reported"] = {**now.reported, host: (*mine, new)}
        self.snapshot = now.evolved(Touched(hosts=frozenset([host])), **changes, revision=now.revision + 1)

    @property
    def view(self) -> EstateView:
        assert self._document is not None
        latest: dict[str, SignedEntry] = {key_of(signed): signed for signed in self.chain.log}
        return EstateView(self.snapshot, latest, PolicySlicer(self._document), for_everybody(self.snapshot.authority))


def key_of(signed: SignedEntry) -> str:
    return entry_key(msgspec.json.decode(signed.payload, type=Entry).body)


class Listener:
    """One host: what it was sent, what it made of it, and every name it ever heard."""

    def __init__(self, name: str, gateway: Gateway) -> None:
        self.name = name
        self.gateway = gateway
        self.sent = Sent()
        start = Slice.start(gateway.chain.log[0], gateway.chain.fingerprint)
        self.known = Known.start(start, (), PlacementFile())
        self.heard: set[str] = set()

    def listen(self) -> None:
        update = update_for(self.name, self.gateway.view, self.sent)
        if update is None:
            return
        assert update_for(self.name, self.gateway.view, self.sent) is None, "nothing is sent twice"
        seen = visible(self.gateway.snapshot, self.name)
        self.check_affair(update, seen, {*seen.hosts, self.name})
        self.known = self.known.updated("gw1", update, at=NOON)

    def check_affair(self, update: Update, seen: Visible, hosts: set[str]) -> None:
        for key in map(key_of, update.entries):
            kind, _, name = key.partition("/")
            if kind == "host":
                assert name in hosts or key in self.heard, key
            elif kind == "service":
                service, host, _ = name.split("/")
                assert (service in seen.services and host in hosts) or key in self.heard, key
            elif kind == "import":
                service, through = name.split("/")
                assert (service in seen.services and place_of(through) in hosts) or key in self.heard, key
            elif kind == "client":
                assert name in seen.clients or key in self.heard, key
            elif kind == "revoke":
                host = name.removeprefix("host/")
                assert host in hosts or f"host/{host}" in self.heard, key
            else:
                assert key in ("domain", "policy") or kind in ("operator", "gateway"), key
            self.heard.add(key)
        assert {leaf.index for leaf in update.leaves or ()} <= set(seen.allow_indices)
        assert {h for h, presence in update.presence.items() if presence is not None} <= seen.hosts
        for host, mine in update.reported.items():
            assert not mine or (host in hosts and {i.service for i in mine} <= seen.services)
        told = {i for i, health in update.health.items() if health is not None}
        assert {i.split("/")[0] for i in told} <= seen.services
        assert {i.split("/")[1] for i in told} <= hosts

    def decisions(self) -> list[tuple[Subject, str]]:
        """Every question this host may have to answer: may I, and may they come to me."""
        whole = self.gateway.snapshot
        mine = {i.service for i in whole.offers(self.name)}
        asked = [(Subject("host", self.name), service) for service in whole.services]
        asked += [(Subject("client", name), service) for name in whole.authority.clients for service in mine]
        return asked + [(Subject("host", other), service) for other in whole.authority.hosts for service in mine]


@given(st.integers(0, 2**32))
def test_c46_a_host_is_told_what_is_its_affair_and_decides_as_if_it_knew_all(seed: int) -> None:
    rng = random.Random(seed)
    gateway = Gateway(rng)
    first = any_snapshot(rng)
    me = rng.choice(sorted(first.authority.hosts))
    gateway.become(first)
    listener = Listener(me, gateway)
    for _ in range(STEPS):
        listener.listen()
        for subject, service in listener.decisions():
            for user in (None, "ann"):
                whole = decide(gateway.snapshot, subject, service, now=NOON, user=user)
                mine = decide(listener.known.snapshot, subject, service, now=NOON, user=user)
                assert isinstance(whole, Permit) == isinstance(mine, Permit), (subject, service, user, whole, mine)
                if isinstance(whole, Permit):
                    assert whole == mine
        goal = any_snapshot(rng)
        names = {me: goal.authority.hosts.get(me) or Host(name=me)}
        gateway.become(goal.evolved(authority=with_hosts(goal, names)))
        if rng.random() < 0.4:
            listener.sent = Sent()  # a new control stream: everything again, and what is not in it is gone


def with_hosts(goal: Snapshot, more: dict[str, Host]) -> AuthorityState:
    return dataclasses.replace(goal.authority, hosts={**goal.authority.hosts, **more})


@given(st.integers(0, 2**32))
def test_a_full_update_leaves_the_same_as_all_the_small_ones(seed: int) -> None:
    """Whoever was away comes to know exactly what the others know, and forgets what they forgot."""
    rng = random.Random(seed)
    gateway = Gateway(rng)
    first = any_snapshot(rng)
    me = rng.choice(sorted(first.authority.hosts))
    gateway.become(first)
    listener = Listener(me, gateway)
    listener.listen()
    for _ in range(2):
        goal = any_snapshot(rng)
        gateway.become(goal)
        listener.listen()
    fresh = Listener(me, gateway)
    fresh.heard = listener.heard
    fresh.listen()
    ours, theirs = listener.known.snapshot, fresh.known.snapshot
    assert ours.authority.hosts == theirs.authority.hosts
    assert ours.authority.clients == theirs.authority.clients
    assert ours.authority.instances == theirs.authority.instances
    assert ours.authority.policy == theirs.authority.policy and set(ours.allows) == set(theirs.allows)
    assert (ours.presence, ours.reported, ours.health) == (theirs.presence, theirs.reported, theirs.health)
    assert set(theirs.authority.revoked_identities) <= set(ours.authority.revoked_identities)
