import math
import random
import time

import pytest

from bridge.policy import permits as module
from bridge.policy.decide import Permit, Refusal, Subject, decide
from bridge.policy.permits import PermitCache
from inventory.model import Host
from tests.support.estates import NOON, authority, instance, revocation, rule, snapshot

HOSTS = [Host(name="web"), Host(name="db")]
INSTANCES = [instance("ledger", "db")]
WEB = Subject("host", "web")
ALLOW = rule("a", "allow", "host:web", "ledger")


def cache_of(*rules):
    return PermitCache(snapshot(HOSTS, INSTANCES, rules))


def test_an_answer_is_found_again():
    cache = cache_of(ALLOW)
    first = cache.get(WEB, "ledger", None, NOON)
    assert isinstance(first, Permit)
    assert cache.get(Subject("host", "web"), "ledger", None, NOON + 1e6) is first
    assert cache.get(WEB, "ledger", "bob", NOON) is first


def test_users_are_told_apart_where_a_rule_asks():
    cache = cache_of(rule("a", "allow", "host:web", "ledger", user=("bob",)))
    assert isinstance(cache.get(WEB, "ledger", "bob", NOON), Permit)
    assert isinstance(cache.get(WEB, "ledger", "ann", NOON), Refusal)
    assert isinstance(cache.get(WEB, "ledger", None, NOON), Refusal)


def test_an_answer_ends_when_it_says_so_and_does_not_hold_before_it_was_made():
    cache = cache_of(rule("a", "allow", "host:web", "ledger", when="Fri 07:00-10:00"))
    answer = cache.get(WEB, "ledger", None, NOON)
    assert isinstance(answer, Permit)
    assert isinstance(cache.get(WEB, "ledger", None, answer.expires_at - 0.001), Permit)
    assert isinstance(cache.get(WEB, "ledger", None, answer.expires_at), Refusal)
    assert isinstance(cache.get(WEB, "ledger", None, NOON - 2 * 3600), Refusal)


def test_c31_every_change_that_matters_is_decided_again():
    cache = cache_of(ALLOW)
    made = cache.snapshot

    def answer():
        return cache.get(WEB, "ledger", None, NOON)

    assert isinstance(answer(), Permit)
    cache.update(made.evolved(authority=authority(HOSTS, INSTANCES, denies=[rule("d", "deny", "host:web", "*")])))
    assert answer().rule == "d"
    cache.update(made)
    assert isinstance(answer(), Permit)
    cache.update(made.evolved(authority=authority(HOSTS, INSTANCES, revoked=[revocation("web")])))
    assert isinstance(answer(), Refusal)
    cache.update(made.evolved(allows=()))
    assert isinstance(answer(), Refusal)
    cache.update(made)
    assert isinstance(answer(), Permit)
    cache.update(made.evolved(authority=authority(HOSTS, [])))
    assert "not known" in answer().reason


def test_a_change_of_an_instance_label_is_decided_again():
    cache = cache_of(ALLOW, rule("d", "deny", "host:web", "label:tier=db"))
    assert isinstance(cache.get(WEB, "ledger", None, NOON), Permit)
    labelled = (instance("ledger", "db", target="127.0.0.1:2", labels={"tier": "db"}),)
    cache.update(cache.snapshot.evolved(reported={"db": labelled}))
    assert cache.get(WEB, "ledger", None, NOON).rule == "d"


def test_c46_an_error_is_a_refusal_and_is_not_remembered(monkeypatch):
    cache = cache_of(ALLOW)
    for broken in ("open_case", "weigh"):
        with monkeypatch.context() as patch:
            patch.setattr(module, broken, lambda *args: 1 / 0)
            answer = cache.get(WEB, "ledger", None, NOON)
            assert isinstance(answer, Refusal) and "ZeroDivisionError" in answer.reason
    assert isinstance(cache.get(WEB, "ledger", None, math.nan), Refusal)
    assert isinstance(cache.get(WEB, "ledger", None, NOON), Permit)
    assert isinstance(cache.get(WEB, "ledger", None, math.nan), Refusal)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "PERMITS_CACHED", 10)
    monkeypatch.setattr(module, "PERMIT_USERS_CACHED", 5)
    hosts = [Host(name=f"h{n}") for n in range(50)]
    cache = PermitCache(snapshot(hosts, [instance("s", "h0")], [rule("a", "allow", "host:*", "s", user=("bob",))]))
    for host in hosts:
        assert isinstance(cache.get(Subject("host", host.name), "s", "bob", NOON), Permit)
    for n in range(100):
        cache.get(Subject("host", "h1"), "s", f"user{n}", NOON)
    assert len(cache._kept) <= 10
    assert all(len(kept.answers) <= 5 for kept in cache._kept.values())


@pytest.mark.slow
def test_a_decision_is_fast_with_10000_rules():
    """Design 12: 5 µs remembered, 50 µs cold. Medians, with room for a busy machine."""
    rng = random.Random(3)
    hosts = [Host(name=f"web-{n}.dc{n % 5}", labels={"role": f"r{n % 50}"}) for n in range(300)]
    instances = [instance(f"s{n}", hosts[n % 300].name) for n in range(3000)]

    def source():
        n = rng.randrange(300)
        return rng.choice([f"host:web-{n}.dc{n % 5}", f"host:web-{n}*.dc*", f"label:role=r{n % 50}"])

    def target():
        return f"s{rng.randrange(3000)}" + rng.choice(["", "", "", "*"])

    rules = [rule(f"r{n}", "allow" if n % 10 else "deny", source(), target()) for n in range(10_000)]
    made = snapshot(hosts, instances, rules)
    cache = PermitCache(made)
    assert made.index is not None
    questions = [(Subject("host", rng.choice(hosts).name), f"s{rng.randrange(3000)}") for _ in range(1000)]

    def timed():
        spent = []
        for subject, service in questions:
            began = time.perf_counter()
            cache.get(subject, service, None, NOON)
            spent.append(time.perf_counter() - began)
        return sorted(spent)[len(spent) // 2]

    cold, remembered = timed(), timed()
    assert cold < 200e-6
    assert remembered < 20e-6
    assert all(cache.get(s, n, None, NOON) == decide(made, s, n, now=NOON) for s, n in questions[:50])
