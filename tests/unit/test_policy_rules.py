import msgspec
import pytest

from inventory.errors import InputError
from inventory.model import Client, Host, Instance
from inventory.policy_rules import (
    Rule,
    parse_label_pair,
    parse_subject,
    parse_target,
    parse_until,
    parse_user,
)

HOST = Host(name="db-1.prod", labels={"os": "aix7.2", "Role": "Batch"}, site="dc1", serves=("ledger", "cards"))


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("host:db-*.prod", True),
        ("host:**", True),
        ("host:*", False),
        ("label:os=aix*", True),
        ("label:os=aix", False),
        ("label:role=batch", True),
        ("label:none=*", False),
        ("site:dc?", True),
        ("site:dc2", False),
        ("service:ledger", True),
        ("service:c*", True),
        ("service:invoices", False),
        ("client:**", False),
    ],
)
def test_subjects_match_by_what_was_signed(text, matches):
    assert parse_subject(text).matches_host(HOST) is matches


def test_a_client_is_no_host_and_a_host_no_client():
    lpar7 = Client(name="lpar7", gateways=("gw1",), labels={"tier": "batch"})
    assert parse_subject("client:lpar*").matches_client(lpar7)
    assert not parse_subject("host:**").matches_client(lpar7)
    assert not parse_subject("label:os=*").matches_client(lpar7)
    assert parse_subject("label:tier=*").matches_client(lpar7)
    assert not parse_subject("site:*").matches_host(Host(name="a"))


def test_c03_rules_are_folded_to_one_spelling():
    upper = Rule(name="r", effect="deny", sources=("HOST:Db.Prod", "Label:OS=AIX"), to=("Cards", "LABEL:Tier=DB*"))
    lower = Rule(name="r", effect="deny", sources=("host:db.prod", "label:os=aix"), to=("cards", "label:tier=db*"))
    assert upper == lower
    assert parse_subject("label:os=aix").matches_host(Host(name="a", labels={"OS": "AIX"}))


def test_label_targets_need_all_for_an_allow_and_any_for_a_deny():
    target = parse_target("label:tier=db*")
    some = Instance(service="s", host="a", target="127.0.0.1:1", port=1, labels={"tier": "db1"})
    other = Instance(service="s", host="a", target="127.0.0.1:2", port=1)
    assert target.matches("s", (some,), "allow") and target.matches("s", (some,), "deny")
    assert not target.matches("s", (some, other), "allow") and target.matches("s", (some, other), "deny")
    assert not target.matches("s", (other,), "allow") and not target.matches("s", (other,), "deny")
    assert not target.matches("s", (), "allow") and not target.matches("s", (), "deny")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "db",
        "host",
        "host:",
        "host:a b",
        "host:-a",
        "host:10.0.0.1",
        "host:localhost",
        "host:a/b",
        "user:bob",
        "label:os",
        "label:=aix",
        "label:os=",
        "label:o*=aix",
        "label:os=a/b",
        "label:os=a=b",
        "label:os=.a",
        "label:os=a**",
        "site:a.b",
        "service:a.b",
        "service:**",
        "os=aix",
    ],
)
def test_bad_subjects_are_refused(text):
    with pytest.raises(InputError):
        parse_subject(text)


@pytest.mark.parametrize("text", ["", "a.b", "host:a", "label:tier", "a b", "8080", "**", "service:a"])
def test_bad_targets_are_refused(text):
    with pytest.raises(InputError):
        parse_target(text)


def test_label_pairs():
    assert parse_label_pair("OS=Aix7.2") == ("os", "aix7.2")
    for text in ("os", "os=", "=aix", "os=a*", "os=a b", "o/s=a", "os=" + "a" * 64, "_os=a", "os=-a", "ös=a"):
        with pytest.raises(InputError):
            parse_label_pair(text)


def test_h19_a_rule_without_subject_or_target_is_refused():
    with pytest.raises(InputError, match="from is empty"):
        Rule(name="r", effect="allow", sources=(), to=("a",))
    with pytest.raises(InputError, match="to is empty"):
        Rule(name="r", effect="allow", sources=("host:a",), to=())


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": " a"},
        {"name": "a\nb"},
        {"name": "a\u202eb"},
        {"name": "a" * 121},
        {"user": ("*",)},
        {"user": ("",)},
        {"when": ""},
        {"when": "x" * 101},
        {"until": "2027-02-30"},
        {"sources": ("host:a",) * 1001},
    ],
)
def test_a_rule_is_good_from_birth(fields):
    values = {"name": "r", "effect": "allow", "sources": ("host:a",), "to": ("b",)}
    with pytest.raises(InputError):
        Rule(**{**values, **fields})


def test_a_rule_survives_its_encoding():
    rule = Rule(
        name="r", effect="deny", sources=("Host:A",), to=("b",), user=("bob",), until="2027-03-31", mode="observe"
    )
    assert msgspec.json.decode(msgspec.json.encode(rule), type=Rule) == rule


@pytest.mark.parametrize("change", [b'"effect":"permit"', b'"effect":"allow","mode":"off"', b'"effect":"allow","x":1'])
def test_h19_unknown_words_in_an_encoded_rule_are_refused(change):
    data = b'{"name":"r","effect":"allow","sources":["host:a"],"to":["b"]}'.replace(b'"effect":"allow"', change)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=Rule)


def test_until_is_the_end_of_the_day_in_utc():
    assert parse_until("1970-01-01") == 86400
    for text in ("1970-1-1", "19700101", "tomorrow", "2027-W01-1", "", "9999-12-31"):
        with pytest.raises(InputError):
            parse_until(text)


def test_users_are_exact_names():
    for text in ("bob", "CORP\\bob", "bob@corp", "svc-1$", "1000"):
        assert parse_user(text) == text
    for text in ("", "b*", "b?b", "b b", "b\n", "ü", "a" * 65):
        with pytest.raises(InputError):
            parse_user(text)
