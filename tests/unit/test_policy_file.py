import pytest

from inventory.loading.policy_file import RULES_MAX, load_policy, parse_policy
from inventory.loading.problems import LoadingError
from inventory.policy_rules import Rule

FULL = b"""\
[[allow]]
name = "billing reads the ledger"
from = ["host:billing-*", "label:role=batch", "site:dc1", "client:lpar7", "service:invoices"]
to   = ["ledger", "label:tier=db"]
user = ["batch"]
when = "Mon-Fri 22:00-04:00 Europe/Berlin"
until = 2027-03-31
mode = "enforce"

[[deny]]
name = "nothing old reaches card data"
from = ["label:os=aix"]
to   = ["cards"]
"""

RULE = 'name = "r"\nfrom = ["host:a"]\nto = ["b"]\n'


def problems_of(text):
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(LoadingError) as caught:
        parse_policy(data)
    assert caught.value.exit_code == 64
    return caught.value.problems


def problem_of(text):
    found = problems_of(text)
    assert len(found) == 1, found
    return found[0]


def test_every_field_is_read():
    allow, deny = parse_policy(FULL).rules
    assert allow == Rule(
        name="billing reads the ledger",
        effect="allow",
        sources=("host:billing-*", "label:role=batch", "site:dc1", "client:lpar7", "service:invoices"),
        to=("ledger", "label:tier=db"),
        user=("batch",),
        when="Mon-Fri 22:00-04:00 Europe/Berlin",
        until="2027-03-31",
    )
    assert deny == Rule(name="nothing old reaches card data", effect="deny", sources=("label:os=aix",), to=("cards",))
    assert parse_policy(FULL).source == FULL.decode()


def test_a_file_without_rules_allows_nothing():
    for data in (b"", b"# nothing yet\n"):
        assert parse_policy(data).rules == ()


def test_until_may_be_a_string_and_not_a_time():
    text = f'[[allow]]\n{RULE}until = "2027-03-31"\n'
    assert parse_policy(text.encode()).rules[0].until == "2027-03-31"
    for value in (
        "2027-03-31T10:00:00Z",
        "2027-03-31T10:00:00",
        "10:00:00",
        "20270331",
        '"soon"',
        '"2027-02-30"',
        "true",
    ):
        found = problem_of(f"[[allow]]\n{RULE}until = {value}\n")
        assert found.key == "allow[0].until"
        assert found.hint in ("write it like 2027-03-31", "write until = 2027-03-31")


def test_every_problem_is_collected_with_its_place():
    found = problems_of(
        """\
[[allow]]
name = "one"
from = ["host:a", "hots:b", 3]
to = []
modus = "observe"

[[allow]]
from = "host:a"
to = ["a b"]
when = "always"

[[deny]]
name = "three"
from = ["label:os"]
to = ["x"]
mode = "enfroce"
user = ["*"]
"""
    )
    places = [(problem.line, problem.key) for problem in found]
    assert places == [
        (1, "allow[0]"),
        (1, "allow[0].from[2]"),
        (1, "allow[0].to"),
        (7, "allow[1]"),
        (7, "allow[1].from"),
        (7, "allow[1].to[0]"),
        (7, "allow[1].when"),
        (12, "deny[0].mode"),
        (12, "deny[0].from[0]"),
        (12, "deny[0].user[0]"),
    ]
    assert str(found[0]) == "policy.toml:1: allow[0]: unknown field 'modus' (is mode meant?)"
    assert str(found[7]) == "policy.toml:12: deny[0].mode: unknown mode 'enfroce' (is enforce meant?)"
    text = str(LoadingError(found))
    assert text.startswith("policy.toml: 10 problems\n") and len(text.splitlines()) == 11


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        (f"[[allow]]\n{RULE}action = 'x'\n", "allow[0]", "unknown field 'action'"),
        (f"[[alow]]\n{RULE}", "alow", "unknown table"),
        ("version = 2\n", "version", "unknown table"),
        (f'[[allow]]\n{RULE}mode = "audit"\n', "allow[0].mode", "unknown mode 'audit'"),
        (f"[[allow]]\n{RULE}mode = true\n", "allow[0].mode", "is not a string"),
        (
            '[[allow]]\nname = "r"\nfrom = []\nto = ["b"]\n',
            "allow[0].from",
            "is empty: it would mean nobody and nothing",
        ),
        (
            '[[allow]]\nname = "r"\nfrom = ["host:a"]\nto = []\n',
            "allow[0].to",
            "is empty: it would mean nobody and nothing",
        ),
        ('[[deny]]\nname = "r"\nfrom = ["host:"]\nto = ["b"]\n', "deny[0].from[0]", "a label is empty"),
        ('[[deny]]\nfrom = ["host:a"]\nto = ["b"]\n', "deny[0]", "name is missing"),
        ('[[deny]]\nname = "r"\nto = ["b"]\n', "deny[0]", "from is missing"),
        (f"[allow]\n{RULE}", "allow", "is not a list of tables"),
        ('allow = ["x"]\n', "allow", "is not a list of tables"),
        (f"[[allow]]\n{RULE}[[deny]]\n{RULE}", "deny[0].name", "'r' is the name of allow[0] already"),
    ],
)
def test_h19_each_mistake_has_its_own_message(text, key, what):
    found = problem_of(text)
    assert found.key == key
    assert what in found.what
    assert found.hint or "label is empty" in what


@pytest.mark.parametrize("pattern", ["db-*-prod", "*-a-*", "a*b"])
def test_h19_a_star_in_the_middle_is_a_star(pattern):
    text = f'[[allow]]\nname = "r"\nfrom = ["host:{pattern}"]\nto = ["{pattern}"]\n'
    assert parse_policy(text.encode()).rules[0].to == (pattern,)


@pytest.mark.parametrize("pattern", ["a**b", "**a", "a.*"])
def test_h19_a_star_where_it_means_nothing_is_refused(pattern):
    assert problem_of(f'[[allow]]\nname = "r"\nfrom = ["host:a"]\nto = ["{pattern}"]\n').key == "allow[0].to[0]"


def test_h19_overlapping_allow_and_deny_are_both_kept():
    text = f"[[allow]]\n{RULE}[[deny]]\n{RULE}".replace('"r"', '"allowed"', 1)
    assert [rule.effect for rule in parse_policy(text.encode()).rules] == ["allow", "deny"]


def test_h19_100000_rules_have_their_own_message():
    assert "20001 rules, at most 20000" in problem_of("[[allow]]\n" * (RULES_MAX + 1)).what
    assert "100000 rules, at most 20000" in problem_of("allow = [" + "{}," * 100_000 + "]\n").what


def test_h31_a_byte_order_mark_and_windows_line_ends_are_accepted():
    data = b"\xef\xbb\xbf" + FULL.replace(b"\n", b"\r\n")
    assert parse_policy(data).rules == parse_policy(FULL).rules


def test_a_list_too_long_to_be_sent_as_one_rule_is_refused():
    many = ", ".join(f'"host:a{n}"' for n in range(1001))
    assert "1001 entries" in problem_of(f'[[allow]]\nname = "r"\nfrom = [{many}]\nto = ["b"]\n').what


def test_names_that_differ_in_case_only_are_duplicates():
    text = f"[[allow]]\n{RULE}[[allow]]\n{RULE.replace(chr(34) + 'r', chr(34) + 'R')}"
    assert problem_of(text).key == "allow[1].name"


def test_lines_are_left_out_where_the_text_does_not_show_them():
    found = problem_of('allow = [{name = "r", from = ["host:a"], to = ["b c"]}]\n')
    assert found.line is None and str(found).startswith("policy.toml: allow[0].to[0]: ")


def test_foreign_text_in_messages_is_escaped():
    for text in (
        '[[allow]]\n"\\u001b[31m" = 1\n',
        '"\\u202e" = 1\n',
        '[[allow]]\nname = "\\u001b"\nfrom=["\\u001b"]\nto=["\\u001b"]\n',
    ):
        message = str(LoadingError(problems_of(text)))
        assert "\x1b" not in message and "\u202e" not in message


def test_a_policy_is_read_from_a_file(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_bytes(FULL)
    assert len(load_policy(path).rules) == 2
    path.write_bytes(b"[[allow]]\n")
    with pytest.raises(LoadingError, match=r"policy.toml:1: allow\[0\]: name is missing"):
        load_policy(path)
