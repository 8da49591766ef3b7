"""C46: the product's answer equals that of a slow reference evaluator, on random policies, estates and requests.

`MESHBRIDGE_EXAMPLES=1000000` runs as many pairs of policy and request; without it a few thousand.
"""

import os
import random
from dataclasses import replace
from typing import Any

import pytest

from bridge.policy.decide import Permit, Subject, decide
from bridge.policy.explain import explain
from bridge.policy.permits import PermitCache
from inventory.snapshot import Snapshot
from inventory.visibility import visible
from tests.support.estates import NOON, USERS, WORDS, random_snapshot, touched
from tests.support.reference_policy import may

EXAMPLES = int(os.environ.get("MESHBRIDGE_EXAMPLES", "3000"))
REQUESTS_PER_POLICY = 10


def random_request(rng: random.Random, snapshot: Snapshot) -> tuple[Subject, str, float, str | None]:
    known = [Subject("host", name) for name in snapshot.authority.hosts]
    known += [Subject("client", name) for name in snapshot.authority.clients]
    subject = rng.choice([*known, Subject("client", rng.choice(WORDS)), Subject("host", "stranger")])
    service = rng.choice([*snapshot.services, *snapshot.services, rng.choice(WORDS)])
    return subject, service, NOON + rng.uniform(-2, 4) * 86400, rng.choice(USERS)


def policies(count: int) -> list[int]:
    return list(range(max(1, count // REQUESTS_PER_POLICY)))


def test_c46_decisions_equal_those_of_a_reference_evaluator() -> None:
    permitted = 0
    for seed in policies(EXAMPLES):
        rng = random.Random(seed)
        snapshot = random_snapshot(rng)
        for _ in range(REQUESTS_PER_POLICY):
            subject, service, now, user = random_request(rng, snapshot)
            answer = decide(snapshot, subject, service, now=now, user=user)
            expected = may(snapshot, subject, service, now, user)
            assert isinstance(answer, Permit) is expected, (seed, str(subject), service, now, user, answer)
            permitted += expected
    # The comparison says something only while both answers occur.
    assert permitted > EXAMPLES / 50


def test_the_cache_answers_as_decide_does_while_time_and_policy_change() -> None:
    for seed in policies(EXAMPLES // 3):
        rng = random.Random(seed)
        snapshot = random_snapshot(rng)
        cache = PermitCache(snapshot)
        for _ in range(REQUESTS_PER_POLICY * 3):
            if rng.random() < 0.1:
                other = random_snapshot(rng)
                snapshot = rng.choice(
                    [other, snapshot.evolved(reported=other.reported), snapshot.evolved(allows=other.allows)]
                )
                cache.update(snapshot)
            subject, service, now, user = random_request(rng, snapshot)
            # Few distinct moments, so that answers are found again, and not always forwards.
            now = NOON + (now - NOON) // 20000 * 20000
            expected = decide(snapshot, subject, service, now=now, user=user)
            assert cache.get(subject, service, user, now) == expected, seed


def test_an_answer_holds_until_it_says_that_it_may_change() -> None:
    for seed in policies(EXAMPLES // 3):
        rng = random.Random(seed)
        snapshot = random_snapshot(rng)
        subject, service, now, user = random_request(rng, snapshot)
        answer = decide(snapshot, subject, service, now=now, user=user)
        end = answer.expires_at if answer.expires_at is not None else now + 30 * 86400
        assert end > now
        for _ in range(4):
            later = rng.uniform(now, end)
            if later < end:
                assert may(snapshot, subject, service, later, user) is isinstance(answer, Permit), seed


def test_needs_user_says_whether_the_user_makes_a_difference() -> None:
    for seed in policies(EXAMPLES // 3):
        rng = random.Random(seed)
        snapshot = random_snapshot(rng)
        subject, service, now, user = random_request(rng, snapshot)
        answers = {may(snapshot, subject, service, now, name) for name in ("ann", "bob", "someone else")}
        answer = decide(snapshot, subject, service, now=now, user=user)
        assert answer.needs_user is (len(answers) == 2), seed


def test_explain_names_what_decided() -> None:
    for seed in policies(EXAMPLES // 3):
        rng = random.Random(seed)
        snapshot = random_snapshot(rng)
        subject, service, now, user = random_request(rng, snapshot)
        explanation = explain(snapshot, subject, service, now=now, user=user)
        assert explanation.decision == decide(snapshot, subject, service, now=now, user=user)
        applied = {remark.rule: remark.effect for remark in explanation.rules if not remark.missing}
        if explanation.decision.rule is not None:
            assert explanation.decision.rule in applied, seed
        elif not explanation.remarks:
            assert not applied, seed


def slice_of(snapshot: Snapshot, host: str) -> Snapshot:
    """What the host would work from if it were sent only what it may see."""
    seen = visible(snapshot, host)
    authority = snapshot.authority
    return Snapshot(
        authority=replace(
            authority,
            hosts={name: entry for name, entry in authority.hosts.items() if name in seen.hosts},
            clients={name: entry for name, entry in authority.clients.items() if name in seen.clients},
            instances={key: i for key, i in authority.instances.items() if i.service in seen.services},
        ),
        allows=tuple(snapshot.allows[index] for index in seen.allow_indices),
        reported={name: items for name, items in snapshot.reported.items() if name in seen.hosts},
    )


def test_c46_a_host_decides_on_its_slice_as_on_the_whole() -> None:
    for seed in policies(EXAMPLES // 3):
        rng = random.Random(seed)
        snapshot = random_snapshot(rng)
        asking, _, now, user = random_request(rng, snapshot)
        if asking.kind == "client" or snapshot.host(asking.name) is None:
            continue
        own = slice_of(snapshot, asking.name)
        for service in snapshot.services:
            whole = decide(snapshot, asking, service, now=now, user=user)
            assert isinstance(decide(own, asking, service, now=now, user=user), Permit) is isinstance(whole, Permit)


def test_c46_the_destination_decides_on_its_slice_as_on_the_whole() -> None:
    for seed in policies(EXAMPLES // 3):
        rng = random.Random(seed)
        snapshot = random_snapshot(rng)
        for service in snapshot.services.values():
            destination = slice_of(snapshot, service.instances[0].host)
            clients = [Subject("client", name) for name in snapshot.authority.clients]
            for subject in [*clients, *(Subject("host", name) for name in snapshot.authority.hosts)]:
                whole = decide(snapshot, subject, service.name, now=NOON, user="ann")
                part = decide(destination, subject, service.name, now=NOON, user="ann")
                assert isinstance(part, Permit) is isinstance(whole, Permit), (seed, subject, service.name)


@pytest.mark.parametrize("seed", range(60))
def test_an_evolved_snapshot_equals_one_made_anew(seed: int) -> None:
    rng = random.Random(seed)
    snapshot = random_snapshot(rng)
    for _ in range(6):
        # Everything derived is there to be carried over.
        for host in snapshot.authority.hosts:
            visible(snapshot, host)
        other = random_snapshot(rng)
        mixed = replace(snapshot.authority, instances=other.authority.instances)
        changes: dict[str, Any] = rng.choice(
            [
                {"reported": other.reported},
                {"authority": replace(other.authority, policy=snapshot.authority.policy)},
                {"authority": other.authority},
                {"authority": mixed, "allows": other.allows},
                {"revision": 7},
            ]
        )
        known = touched(snapshot, replace(snapshot, **changes)) if rng.random() < 0.5 else None
        snapshot = snapshot.evolved(known, **changes)
        anew = Snapshot(snapshot.authority, snapshot.allows, reported=snapshot.reported)
        assert snapshot.services == anew.services
        assert snapshot.rules == anew.rules
        for host in anew.authority.hosts:
            assert visible(snapshot, host) == visible(anew, host)
            assert snapshot.host_revoked(host) == anew.host_revoked(host)
        assert {name: snapshot.offers(name) for name in anew.authority.hosts} == {
            name: anew.offers(name) for name in anew.authority.hosts
        }
