import itertools
import math

import pytest

from bridge.policy import decide as module
from bridge.policy.decide import Permit, Refusal, Subject, decide, parse_subject_name
from inventory.errors import InputError
from inventory.model import Client, Host
from inventory.snapshot import Snapshot
from tests.support.estates import NOON, authority, instance, revocation, rule, snapshot

HOSTS = [
    Host(name="web", labels={"os": "linux"}, site="dc1", serves=("shop",)),
    Host(name="aix1", labels={"os": "aix"}),
]
INSTANCES = [
    instance("ledger", "aix1", labels={"tier": "db"}),
    instance("ledger", "web", target="127.0.0.1:2", labels={"tier": "web"}),
    instance("cards", "aix1", target="127.0.0.1:3"),
]
WEB = Subject("host", "web")


def ask(*rules, subject=WEB, service="ledger", now=NOON, user=None, **options):
    return decide(snapshot(HOSTS, INSTANCES, rules, **options), subject, service, now=now, user=user)


def allow(name="a", sources="host:web", to="ledger", **fields):
    return rule(name, "allow", sources, to, **fields)


def deny(name="d", sources="host:web", to="ledger", **fields):
    return rule(name, "deny", sources, to, **fields)


def test_the_default_is_no():
    answer = ask()
    assert answer == Refusal(rule=None, reason="no rule allows host:web to reach ledger", subject=WEB, service="ledger")


def test_an_allow_permits():
    answer = ask(allow())
    assert answer == Permit(rule="a", subject=WEB, service="ledger", expires_at=None, needs_user=False, observed=())


def test_h19_deny_wins_whatever_the_order():
    rules = [allow(), allow("b", "host:**", "*"), deny("d2", "label:os=linux", "l*"), deny()]
    for order in itertools.permutations(rules):
        answer = ask(*order)
        assert isinstance(answer, Refusal) and answer.rule == "d" and answer.reason == "rule 'd' denies it"


def test_c03_no_spelling_of_a_name_gets_past_a_deny():
    everyone = allow("a", "host:**", "*")
    for spelling in ("Ledger", "LEDGER", "ledger."):
        assert isinstance(ask(everyone, deny("d", "host:Web", spelling)), Refusal)
        assert isinstance(ask(everyone, service=spelling), Refusal)
    assert isinstance(ask(everyone, subject=Subject("host", "WEB")), Refusal)
    shouting = [Host(name="web", labels={"OS": "AIX"})]
    made = snapshot(shouting, [instance("x", "web")], [everyone, deny("d", "label:os=aix", "x")])
    assert isinstance(decide(made, WEB, "x", now=NOON), Refusal)


def test_c02_policy_names_are_equal_or_refused():
    for spelling in ("host:WEB", "host:web.", "HOST:web"):
        assert isinstance(ask(allow(sources=spelling)), Permit)
    for spelling in ("host:web..", "host:\uff57eb", "host:w\u0435b", "host:.web"):
        with pytest.raises(InputError):
            allow(sources=spelling)


def test_c04_patterns_are_no_regular_expressions():
    made = snapshot(
        [Host(name="axb"), Host(name="a.b")],
        [instance("s", "axb")],
        [allow("a", "host:a.b", "s"), allow("b", "host:a.?", "s")],
    )
    assert isinstance(decide(made, Subject("host", "axb"), "s", now=NOON), Refusal)
    assert isinstance(decide(made, Subject("host", "a.b"), "s", now=NOON), Permit)


def test_c12_patterns_end_where_labels_end():
    made = snapshot([Host(name="db.xprod")], [instance("s", "db.xprod")], [allow("a", "host:*.prod", "s")])
    assert isinstance(decide(made, Subject("host", "db.xprod"), "s", now=NOON), Refusal)


def test_c12_the_permit_is_for_the_name_that_was_decided():
    answer = ask(allow("a", "host:w*", "led*"))
    assert isinstance(answer, Permit) and (answer.subject, answer.service) == (WEB, "ledger")


def test_label_targets():
    assert isinstance(ask(allow(to="label:tier=*")), Permit)
    assert isinstance(ask(allow(to="label:tier=db")), Refusal)
    assert isinstance(ask(allow(), deny(to="label:tier=db")), Refusal)
    assert isinstance(ask(allow(), deny(to="label:tier=none")), Permit)


def test_unknown_and_revoked_subjects_are_refused_with_the_reason():
    everyone = allow("a", "host:** client:**", "*")
    assert ask(everyone, subject=Subject("host", "stranger")).reason == "host stranger is not known here"
    revoked = ask(everyone, revoked=[revocation("web", "stolen")])
    assert revoked.reason == "host web is revoked: stolen" and revoked.rule is None
    assert "service 'none' is not known here" in ask(everyone, service="none").reason


def test_a_client_is_matched_by_client_and_label_rules_only():
    lpar = Subject("client", "web")
    known = [Client(name="web", gateways=("gw1",), labels={"OS": "zOS"})]
    assert isinstance(ask(allow("a", "host:** site:* service:*", "*"), subject=lpar, clients=known), Refusal)
    assert isinstance(ask(allow("a", "client:we?", "*"), subject=lpar, clients=known), Permit)
    assert isinstance(ask(allow("a", "label:os=zos", "*"), subject=lpar, clients=known), Permit)
    denied = ask(allow("a", "client:**", "*"), deny("d", "label:os=z*", "*"), subject=lpar, clients=known)
    assert isinstance(denied, Refusal) and denied.rule == "d"
    assert ask(allow("a", "client:**", "*"), subject=lpar).reason == "client web is not known here"


def test_what_a_host_is_like_comes_from_its_signed_entry():
    """Instances that a host reports, with whatever labels, change nothing about what it may reach (C10)."""
    claims = {"web": (instance("shop", "web", labels={"os": "aix", "role": "batch"}),)}
    assert isinstance(ask(allow("a", "label:role=batch service:cards", "ledger"), reported=claims), Refusal)
    assert isinstance(ask(allow("a", "service:shop", "ledger")), Permit)


def test_observed_rules_are_reported_and_change_nothing():
    answer = ask(allow(), deny(mode="observe"), allow("x", mode="observe"), deny("y", to="cards", mode="observe"))
    assert isinstance(answer, Permit) and answer.observed == ("d", "x")
    answer = ask(allow(mode="observe"))
    assert isinstance(answer, Refusal) and answer.observed == ("a",)
    assert answer.reason == "no rule allows host:web to reach ledger: of rule 'a', it is only observed"


def test_users():
    batch = allow(user=("batch", "ann"))
    assert isinstance(ask(batch, user="batch"), Permit)
    for user in ("bob", None):
        answer = ask(batch, user=user)
        assert isinstance(answer, Refusal) and answer.needs_user
    assert ask(batch, user="bob").reason.endswith("of rule 'a', it is for ann, batch, and the user is 'bob'")


def test_c46_an_unknown_user_is_denied_by_a_deny_for_some_users():
    rules = [allow(), deny(user=("bob",))]
    assert isinstance(ask(*rules, user="ann"), Permit)
    assert isinstance(ask(*rules, user="bob"), Refusal)
    unknown = ask(*rules)
    assert isinstance(unknown, Refusal) and unknown.needs_user
    assert unknown.reason == "rule 'd' denies it to some users, and the user is unknown"


@pytest.mark.parametrize(
    ("rules", "needs_user"),
    [
        ([allow()], False),
        ([allow(), allow("b", user=("bob",))], False),
        ([allow("b", user=("bob",))], True),
        ([allow(), deny(user=("bob",))], True),
        ([allow("b", user=("bob",)), deny(user=("bob",))], False),
        ([allow("b", user=("bob",)), deny()], False),
        ([allow("b", user=("bob",), when="Sat 10:00-11:00")], False),
    ],
)
def test_needs_user(rules, needs_user):
    assert ask(*rules).needs_user is needs_user


def test_windows_and_end_dates():
    # 08:00 UTC on Friday 2027-01-15.
    inside = ask(allow(when="Fri 07:00-10:00"))
    assert isinstance(inside, Permit) and inside.expires_at == NOON + 2 * 3600
    outside = ask(allow(when="Fri 09:00-10:00"))
    assert isinstance(outside, Refusal) and outside.expires_at == NOON + 3600
    assert outside.reason.endswith("of rule 'a', it holds only Fri 09:00-10:00")
    ended = ask(allow(until="2027-01-14"))
    assert isinstance(ended, Refusal) and ended.expires_at is None
    assert ended.reason.endswith("of rule 'a', it ended with 2027-01-14")
    last_day = ask(allow(until="2027-01-15"))
    assert isinstance(last_day, Permit) and last_day.expires_at == NOON + 16 * 3600


def test_a_deny_that_is_to_come_is_counted_in_the_permits_end():
    answer = ask(allow(), deny(when="Fri 09:00-10:00"))
    assert isinstance(answer, Permit) and answer.expires_at == NOON + 3600
    assert isinstance(ask(allow(), deny(when="Fri 09:00-10:00"), now=answer.expires_at), Refusal)


def test_c31_a_permit_is_lost_when_the_policy_no_longer_gives_it():
    before = snapshot(HOSTS, INSTANCES, [allow(), allow("b", to="cards")])
    assert isinstance(decide(before, WEB, "ledger", now=NOON), Permit)
    for after in (
        before.evolved(allows=()),
        before.evolved(authority=authority(HOSTS, INSTANCES, denies=[deny()])),
        before.evolved(authority=authority(HOSTS, INSTANCES, revoked=[revocation("web")])),
        before.evolved(authority=authority(HOSTS[1:], INSTANCES)),
    ):
        assert isinstance(decide(after, WEB, "ledger", now=NOON), Refusal)


def test_c31_each_target_is_decided_by_itself():
    made = snapshot(HOSTS, INSTANCES, [allow()])
    assert isinstance(decide(made, WEB, "ledger", now=NOON), Permit)
    assert isinstance(decide(made, WEB, "cards", now=NOON), Refusal)


def test_draining_refuses_nothing_here():
    """Live streams of a draining host are left to end: a permit is not lost by it."""
    draining = [Host(name="web", draining="kernel update"), HOSTS[1]]
    assert isinstance(decide(snapshot(draining, INSTANCES, [allow()]), WEB, "ledger", now=NOON), Permit)


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError(), KeyError("x"), OSError()])
def test_c46_an_error_while_evaluating_is_a_refusal(monkeypatch, error):
    def broken(*args):
        raise error

    made = snapshot(HOSTS, INSTANCES, [allow()])
    for name in ("open_case", "weigh", "_user_matches"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            answer = decide(made, WEB, "ledger", now=NOON)
            assert isinstance(answer, Refusal) and type(error).__name__ in answer.reason


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_c46_a_time_that_is_none_is_a_refusal(now):
    assert isinstance(ask(allow(when="daily 00:00-24:00"), now=now), Refusal)


def test_c46_no_policy_is_no_permission():
    made = snapshot(HOSTS, INSTANCES, [])
    empty = Snapshot(made.authority.__class__(hosts=made.authority.hosts, instances=made.authority.instances))
    assert isinstance(decide(empty, WEB, "ledger", now=NOON), Refusal)


def test_hostile_service_names_are_refused_and_escaped():
    for name in ("", "ledger\n", "\x1b[31m", "*", "l*", "ledger\0", "a" * 100_000, "../ledger"):
        answer = ask(allow("a", "host:**", "*"), service=name)
        assert isinstance(answer, Refusal) and "\x1b" not in answer.reason and len(answer.reason) < 300


def test_subjects_are_written_as_in_rules():
    assert parse_subject_name("web1") == parse_subject_name("host:Web1") == Subject("host", "web1")
    assert str(parse_subject_name("client:lpar7")) == "client:lpar7"
    for text in ("", "host:", "label:os=aix", "host:a*", "a b"):
        with pytest.raises(InputError):
            parse_subject_name(text)
