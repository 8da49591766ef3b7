"""Estates and policies for tests of the policy: a few hosts, services and rules, by hand or at random."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from inventory.authority.entries import PolicyBody, RevokeBody
from inventory.authority.state import AuthorityState
from inventory.model import Client, Host, Instance
from inventory.policy_rules import Effect, Rule
from inventory.snapshot import Snapshot, Touched

NOON = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC, a Friday."""

WORDS = ["a", "ab", "abc", "b", "ba", "db", "db-1", "x"]
USERS = ["ann", "bob", None]
WINDOWS = [
    "Fri 00:00-12:00",
    "22:00-04:00",
    "Mon-Thu 00:00-24:00",
    "Sat,Sun 08:00-20:00 Europe/Berlin",
    "Thu 23:00-09:00",
]
DATES = ["2027-01-14", "2027-01-15", "2027-03-31"]


def rule(name: str, effect: Effect, sources: str, to: str, **fields: object) -> Rule:
    """`sources` and `to` are words separated by spaces."""
    values: dict[str, object] = {
        "name": name,
        "effect": effect,
        "sources": tuple(sources.split()),
        "to": tuple(to.split()),
    }
    return Rule(**{**values, **fields})  # type: ignore[arg-type]


def instance(service: str, host: str, *, target: str = "127.0.0.1:9000", port: int = 80, **fields: object) -> Instance:
    return Instance(service=service, host=host, target=target, port=port, **fields)  # type: ignore[arg-type]


def revocation(host: str, reason: str = "stolen", keys: tuple[str, ...] = ()) -> RevokeBody:
    return RevokeBody(spiffe_id=f"spiffe://t.internal/host/{host}", keys=keys, reason=reason)


def authority(
    hosts: Iterable[Host],
    instances: Iterable[Instance] = (),
    *,
    denies: Iterable[Rule] = (),
    revoked: Iterable[RevokeBody] = (),
    clients: Iterable[Client] = (),
) -> AuthorityState:
    bodies = list(revoked)
    return AuthorityState(
        number=1,
        trust_domain="t.internal",
        namespace="bridge.internal",
        hosts={host.name: host for host in hosts},
        clients={client.name: client for client in clients},
        instances={i.id: i for i in instances},
        revoked_identities={body.spiffe_id: body for body in bodies},
        revoked_keys=frozenset(key for body in bodies for key in body.keys),
        policy=PolicyBody(denies=tuple(denies), allow_root="0" * 64, allow_count=0, source_hash="0" * 64),
    )


def snapshot(
    hosts: Iterable[Host],
    instances: Iterable[Instance] = (),
    rules: Iterable[Rule] = (),
    *,
    revoked: Iterable[RevokeBody] = (),
    reported: Mapping[str, tuple[Instance, ...]] | None = None,
    clients: Iterable[Client] = (),
) -> Snapshot:
    every = list(rules)
    denies = [r for r in every if r.effect == "deny"]
    return Snapshot(
        authority=authority(hosts, instances, denies=denies, revoked=revoked, clients=clients),
        allows=tuple(r for r in every if r.effect == "allow"),
        reported=reported or {},
    )


def touched(old: Snapshot, new: Snapshot) -> Touched:
    """What differs, found by comparing everything."""

    def differing(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
        return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

    a, b = old.authority, new.authority
    ill = {i.split("/")[1] for i in differing(old.health, new.health)}
    hosts = differing(old.presence, new.presence) | differing(old.reported, new.reported) | ill
    revoked = {
        sid.removeprefix("spiffe://t.internal/") for sid in differing(a.revoked_identities, b.revoked_identities)
    }
    keys = {f"host/{name}" for name in differing(a.hosts, b.hosts)}
    keys |= {f"client/{name}" for name in differing(a.clients, b.clients)}
    keys |= {f"service/{i}" for i in differing(a.instances, b.instances)} | {f"revoke/{name}" for name in revoked}
    return Touched(frozenset(hosts), frozenset(keys | differing(a.numbers, b.numbers)))


def random_snapshot(rng: random.Random) -> Snapshot:
    """Small on purpose: names, labels and patterns out of few words, so that rules do meet."""
    hosts = [_random_host(rng, name) for name in rng.sample(_host_names(rng), 4)]
    instances = [_random_instance(rng, rng.choice(hosts).name, n) for n in range(rng.randrange(1, 7))]
    rules = [_random_rule(rng, f"rule {n}") for n in range(rng.randrange(1, 7))]
    revoked = [revocation(rng.choice(hosts).name)] if rng.random() < 0.2 else []
    reported = {host.name: (_random_instance(rng, host.name, 9),) for host in hosts if rng.random() < 0.3}
    names = rng.sample(WORDS, rng.randrange(3))
    clients = [Client(name=name, gateways=("gw1",), labels=_random_labels(rng)) for name in names]
    return snapshot(hosts, instances, rules, revoked=revoked, reported=reported, clients=clients)


def _host_names(rng: random.Random) -> list[str]:
    return [*WORDS, *(f"{rng.choice(WORDS)}.{word}" for word in WORDS)]


def _random_labels(rng: random.Random) -> dict[str, str]:
    return {rng.choice("kl"): rng.choice(["a", "ab", "1.2", "A"]) for _ in range(rng.randrange(3))}


def _random_host(rng: random.Random, name: str) -> Host:
    serves = tuple(rng.sample(WORDS, rng.randrange(3)))
    return Host(name=name, labels=_random_labels(rng), site=rng.choice([None, "a", "ab"]), serves=serves)


def _random_instance(rng: random.Random, host: str, number: int) -> Instance:
    target = f"127.0.0.1:{9000 + number}"
    return instance(rng.choice(WORDS), host, target=target, labels=_random_labels(rng), port=rng.choice([80, 81]))


def _random_word(rng: random.Random) -> str:
    return rng.choice([*WORDS, "*", "?", "a*", "*b", "d?", "db-*", "*a*", "a?c"])


def _random_dotted(rng: random.Random) -> str:
    one = _random_word(rng)
    return rng.choice([one, "**", f"{one}.{_random_word(rng)}", f"**.{one}", f"{one}.**"])


def _random_label(rng: random.Random) -> str:
    return f"label:{rng.choice('klm')}={rng.choice(['a', 'ab', '1.2', '*', 'a*', '1*', '?'])}"


def _random_subject(rng: random.Random) -> str:
    kind = rng.choice(["host", "host", "label", "site", "service", "client"])
    if kind == "label":
        return _random_label(rng)
    return f"{kind}:{_random_dotted(rng) if kind in ('host', 'client') else _random_word(rng)}"


def _random_target(rng: random.Random) -> str:
    return _random_label(rng) if rng.random() < 0.3 else _random_word(rng)


def _random_rule(rng: random.Random, name: str) -> Rule:
    return Rule(
        name=name,
        effect="deny" if rng.random() < 0.3 else "allow",
        sources=tuple(_random_subject(rng) for _ in range(rng.randrange(1, 4))),
        to=tuple(_random_target(rng) for _ in range(rng.randrange(1, 4))),
        user=tuple(rng.sample(["ann", "bob"], rng.randrange(1, 3))) if rng.random() < 0.3 else (),
        when=rng.choice(WINDOWS) if rng.random() < 0.3 else None,
        until=rng.choice(DATES) if rng.random() < 0.2 else None,
        mode="observe" if rng.random() < 0.15 else "enforce",
    )
