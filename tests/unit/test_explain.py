from bridge.policy.decide import Permit, Refusal, Subject
from bridge.policy.explain import explain
from inventory.model import Client, Host
from tests.support.estates import NOON, instance, revocation, rule, snapshot

HOSTS = [Host(name="web"), Host(name="db", draining="moving")]
INSTANCES = [
    instance("ledger", "db", labels={"tier": "db"}),
    instance("ledger", "db", target="127.0.0.1:2", draining="old version"),
]
WEB = Subject("host", "web")


def said(*rules, subject=WEB, service="ledger", user=None, hosts=HOSTS, **options):
    made = snapshot(hosts, INSTANCES, rules, **options)
    return explain(made, subject, service, now=NOON, user=user)


def test_the_rule_that_decided_comes_first():
    explanation = said(
        rule("other", "allow", "host:db", "ledger"),
        rule("yes", "allow", "host:web", "ledger"),
        rule("far", "allow", "host:x", "y"),
    )
    assert isinstance(explanation.decision, Permit)
    assert explanation.lines() == [
        "allowed: host:web may reach ledger by rule 'yes'",
        "instance ledger/db/127.0.0.1:2 is draining: old version",
        "host db, which serves ledger, is draining: moving",
        "allow 'yes' applies",
        "allow 'other' does not apply: its from is host:db, which host:web is not",
    ]


def test_nearest_misses_come_first_and_say_what_is_missing():
    explanation = said(
        rule("a far", "allow", "host:web", "cards", user=("bob",), when="Sat 10:00-11:00"),
        rule("b label", "allow", "host:web", "label:tier=db"),
        rule("c user", "allow", "host:web", "ledger", user=("bob",)),
        rule("d window", "allow", "host:web", "ledger", when="Sat 10:00-11:00"),
        rule("e observed", "deny", "host:web", "ledger", mode="observe"),
        rule("f from", "deny", "host:a host:b host:c host:d", "ledger"),
    )
    assert isinstance(explanation.decision, Refusal)
    assert [remark.rule for remark in explanation.rules] == [
        "e observed",
        "f from",
        "b label",
        "c user",
        "d window",
        "a far",
    ]
    words = {remark.rule: "; ".join(remark.missing) for remark in explanation.rules}
    assert words["b label"] == "1 of 2 instances do not carry label:tier=db: ledger/db/127.0.0.1:2"
    assert words["c user"] == "it is for bob, and the user is unknown"
    assert words["d window"] == "it holds only Sat 10:00-11:00"
    assert words["e observed"] == "it is only observed"
    assert words["f from"] == "its from is host:a, host:b, host:c and 1 more, which host:web is not"
    assert words["a far"] == "its to is cards, which ledger is not; it holds only Sat 10:00-11:00"


def test_unknown_names_are_said_with_the_nearest():
    explanation = said(subject=Subject("host", "wbe"), service="legder")
    assert explanation.remarks == (
        "host wbe is not known here (is web meant?)",
        "nothing serves legder here (is ledger meant?)",
    )


def test_rules_about_a_service_that_nothing_serves_are_still_shown():
    explanation = said(rule("r", "allow", "host:web", "later"), service="later")
    assert isinstance(explanation.decision, Refusal)
    assert [str(remark) for remark in explanation.rules] == ["allow 'r' applies"]
    assert explanation.remarks == ("nothing serves later here",)


def test_revoked_and_draining_hosts_are_named():
    assert "host web is revoked: stolen" in said(revoked=[revocation("web", "stolen")]).remarks
    draining = [Host(name="web", draining="update"), HOSTS[1]]
    assert "host web is draining: update" in said(hosts=draining).remarks
    serving_only = [Host(name="web", draining="update", serving_only=True), HOSTS[1]]
    assert "host web is draining: update" not in said(hosts=serving_only).remarks, "its own programs go on"


def test_clients_and_empty_policies():
    lpar = [Client(name="lpar7", gateways=("gw1",), labels={"os": "zos"})]
    explanation = said(subject=Subject("client", "lpar7"), clients=lpar)
    assert explanation.rules == ()
    assert (
        explanation.lines()[0]
        == "refused: client:lpar7 may not reach ledger: no rule allows client:lpar7 to reach ledger"
    )
    stranger = said(subject=Subject("client", "lpar8"), clients=lpar)
    assert stranger.lines()[:2] == [
        "refused: client:lpar8 may not reach ledger: client lpar8 is not known here",
        "client lpar8 is not known here (is lpar7 meant?): see `meshbridge client list`",
    ]
    allowed = said(rule("r", "allow", "label:os=zos", "ledger"), subject=Subject("client", "lpar7"), clients=lpar)
    assert allowed.lines()[0] == "allowed: client:lpar7 may reach ledger by rule 'r'"


def test_a_star_that_stops_at_a_dot_is_said():
    hosts = [Host(name="web.dc1"), HOSTS[1]]
    explanation = said(rule("r", "allow", "host:*", "ledger"), subject=Subject("host", "web.dc1"), hosts=hosts)
    assert "(* stays inside one label, ** spans several)" in str(explanation.rules[0])


def test_many_rules_are_counted():
    explanation = said(*(rule(f"r{n}", "allow", f"host:h{n}", "ledger") for n in range(50)))
    assert len(explanation.rules) == 20 and explanation.left_out == 30
    assert explanation.lines()[-1] == "30 more rules came close"


def test_hostile_names_are_escaped():
    explanation = said(service="\x1b[31m\n")
    assert all("\x1b" not in line and "\n" not in line for line in explanation.lines())
