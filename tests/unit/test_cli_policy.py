"""I/O: the policy commands: what is refused stays out, what is applied comes back word by word, and is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.operating.policy import matching_nothing
from inventory.authority.bodies import ClientBody
from inventory.model import Client
from tests.support.authority import Chain, gateway, imported
from tests.support.cli import CommandLine, copy_of, operator_home
from tests.support.estates import rule

POLICY = """\
# who reads what
[[allow]]
name = "billing reads"
from = ["host:billing-*"]
to = ["ledger"]

[[allow]]
name = "batch at night"
from = ["label:role=batch"]
to = ["ledger"]
user = ["batch"]
when = "Mon-Fri 22:00-04:00 Europe/Berlin"
until = 2027-03-31

[[deny]]
name = "nothing old"
from = ["label:os=aix"]
to = ["ledger"]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    op = operator_home(tmp_path_factory.mktemp("made"))
    op.ok("host", "add", "billing-1")
    op.ok("host", "add", "night", "--label", "role=batch")
    op.ok("host", "add", "old", "--label", "os=aix", "--label", "role=batch")
    op.ok("host", "add", "vm1")
    op.ok("service", "add", "ledger", "--host", "vm1", "--target", "127.0.0.1:9000")
    return op


@pytest.fixture
def op(made: CommandLine, tmp_path: Path) -> CommandLine:
    return copy_of(made, tmp_path)


def test_check_needs_no_estate(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "nowhere")
    (tmp_path / "p.toml").write_text(POLICY)
    assert "3 rules, 2 allow, 1 deny" in cli.ok("policy", "check", str(tmp_path / "p.toml")).err
    assert cli.ok("-o", "json", "policy", "check", "-", input=POLICY).json == {
        "ok": True,
        "rules": 3,
        "allow": 2,
        "deny": 1,
        "observed": 0,
        "unmatched": None,
    }


TYPOS = """
[[allow]]
name = "slips"
from = ["host:biling-1", "host:billing-*"]
to = ["legder", "ledger", "mail"]
"""


def test_check_warns_by_name_of_what_the_estate_does_not_have(op: CommandLine) -> None:
    said = op.ok("policy", "check", "-", input=TYPOS).err
    assert "note: allow 'slips': no host is host:biling-1 (yet)" in said
    assert "note: allow 'slips': no service is legder (yet)" in said
    assert "good: 1 rule" in said and "billing-*" not in said
    unmatched = ["no host is host:biling-1", "no service is legder", "no service is mail"]
    checked = op.ok("-o", "json", "policy", "check", "-", input=TYPOS).json
    assert checked["ok"] is True and checked["unmatched"] == [f"allow 'slips': {text}" for text in unmatched]
    assert op.ok("-o", "json", "policy", "apply", "-", input=TYPOS).json["unmatched"] == checked["unmatched"]


def test_check_is_good_where_the_estate_cannot_be_read(op: CommandLine) -> None:
    (op.home / "registry.db").write_bytes(b"no database" * 1000)
    said = op.ok("policy", "check", "-", input=TYPOS).err
    assert "not compared with the estate" in said and "good: 1 rule" in said


def test_what_a_gateway_imports_is_in_the_estate() -> None:
    known = ClientBody(client=Client(name="lpar7", gateways=("gw1",)))
    state = Chain(gateway("gw1"), imported("mail", "gw1", labels={"tier": "back"}), known).state
    rules = (rule("a", "allow", "client:*", "mail"), rule("b", "allow", "client:*", "label:tier=back"))
    assert matching_nothing(rules, state) == []
    assert matching_nothing([rule("c", "deny", "client:*", "label:tier=front")], state) != []


def test_check_lists_every_problem(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "nowhere")
    said = cli.refused(64, "policy", "check", "-", input=POLICY.replace('"ledger"', '"led ger"') + "[[permit]]\n")
    assert said.count("led ger") == 3
    assert "permit" in said
    assert "stdin" in said


def test_what_was_applied_comes_back_word_by_word(op: CommandLine) -> None:
    result = op.ok("policy", "apply", "-", "-m", "first", input=POLICY)
    assert "added    billing reads" in result.err
    assert op.ok("policy", "show").out == POLICY
    shown = op.json("policy", "show")
    assert shown["source"] == POLICY
    assert [rule["name"] for rule in shown["rules"]] == ["nothing old", "billing reads", "batch at night"]
    assert shown["rules"][0]["from"] == ["label:os=aix"]
    assert op.json("policy", "log")[-1]["message"] == "first"


def test_apply_says_what_changes(op: CommandLine) -> None:
    op.ok("policy", "apply", "-", input=POLICY)
    after = POLICY.replace('user = ["batch"]\n', "").replace("nothing old", "nothing ancient")
    result = op.ok("-o", "json", "policy", "apply", "-", input=after)
    assert result.json["added"] == ["nothing ancient"]
    assert result.json["removed"] == ["nothing old"]
    assert result.json["changed"] == ["batch at night"]
    number = result.json["number"]
    again = op.ok("-o", "json", "policy", "apply", "-", input=after)
    assert again.json["number"] == number, "the very same text is not signed twice"
    assert "same rules" in again.err


@pytest.mark.parametrize(
    "text",
    [
        POLICY.replace("[[deny]]", "[[deny"),
        POLICY.replace("from =", "form ="),
        POLICY.replace('to = ["ledger"]', "to = []", 1),
        POLICY.replace("2027-03-31", "someday"),
        POLICY + POLICY,
        "\x00",
        "\ufeff[[allow",
    ],
)
def test_h19_a_bad_policy_changes_nothing(op: CommandLine, text: str) -> None:
    op.ok("policy", "apply", "-", input=POLICY)
    before = op.json("policy", "log")
    op.refused(64, "policy", "apply", "-", input=text)
    assert op.ok("policy", "show").out == POLICY
    assert op.json("policy", "log") == before


def test_a_file_that_is_not_there_is_named(op: CommandLine) -> None:
    assert "/nowhere/p.toml" in op.refused(64, "policy", "apply", "/nowhere/p.toml")


def test_before_the_first_policy_nothing_is_allowed(op: CommandLine) -> None:
    result = op.ok("policy", "show")
    assert result.out == ""
    assert "nothing is allowed" in result.err
    assert op("policy", "explain", "billing-1", "ledger").code == 1


def test_explain_answers_with_the_rule_and_the_exit_code(op: CommandLine) -> None:
    op.ok("policy", "apply", "-", input=POLICY)
    result = op("policy", "explain", "host:billing-1", "ledger.bridge.internal")
    assert result.code == 0
    assert "by rule 'billing reads'" in result.out
    result = op("-o", "json", "policy", "explain", "vm1", "ledger")
    assert result.code == 1
    assert result.json["allowed"] is False
    assert (result.json["subject"], result.json["service"], result.json["rule"]) == ("host:vm1", "ledger", None)
    assert result.json["reason"]
    assert op("policy", "explain", "vm9", "ledger").code == 1
    assert op("policy", "explain", "billing-1", "nonsense").code == 1
    assert op("policy", "explain", "what:vm1", "ledger").code == 64


def test_explain_at_a_time_and_for_a_user(op: CommandLine) -> None:
    op.ok("policy", "apply", "-", input=POLICY)
    night, noon = "2026-11-23T23:00+01:00", "2026-11-23T12:00+01:00"
    assert op("policy", "explain", "night", "ledger", "--at", night, "--user", "batch").code == 0
    assert op("policy", "explain", "night", "ledger", "--at", night).code == 1
    result = op("policy", "explain", "night", "ledger", "--at", noon, "--user", "batch")
    assert (result.code, "Mon-Fri" in result.out) == (1, True)
    assert op("policy", "explain", "night", "ledger", "--at", "2027-04-02T23:00+01:00", "--user", "batch").code == 1
    result = op("policy", "explain", "old", "ledger", "--at", night, "--user", "batch")
    assert (result.code, "'nothing old' denies it" in result.out) == (1, True)


def test_a_policy_whose_text_was_changed_in_the_registry_is_not_believed(op: CommandLine) -> None:
    import sqlite3

    op.ok("policy", "apply", "-", input=POLICY)
    with sqlite3.connect(op.home / "registry.db") as registry:
        change = "cast(replace(cast(value AS TEXT), 'billing-', 'b*') AS BLOB)"
        registry.execute(f"UPDATE records SET value = {change} WHERE key LIKE 'policy/%'")
    registry.close()
    assert "not the one that was signed" in op.refused(64, "policy", "show")
    assert "not the one that was signed" in op.refused(64, "policy", "explain", "billing-1", "ledger")
    op.ok("policy", "apply", "-", input=POLICY + "\n")
    assert op("policy", "explain", "billing-1", "ledger").code == 0


def test_apply_notes_what_is_not_in_the_estate_yet(op: CommandLine, tmp_path: Path) -> None:
    op.ok("host", "add", "vm2")
    text = '[[deny]]\nname = "cards"\nfrom = ["host:vm2", "host:nope"]\nto = ["wbe"]\n'
    applied = op.ok("policy", "apply", "-", input=text)
    assert "note: deny 'cards': no host is host:nope (yet)" in applied.err
    assert "note: deny 'cards': no service is wbe (yet)" in applied.err
    assert "host:vm2 (yet)" not in applied.err
