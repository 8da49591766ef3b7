import pytest

from inventory.model import Client, Host, Service
from inventory.policy_index import PolicyIndex, bits_of
from tests.support.estates import NOON, instance, rule


def names(index, mask):
    return [index.rules[bit].rule.name for bit in bits_of(mask)]


def test_bits():
    assert list(bits_of(0)) == []
    assert list(bits_of(0b101001)) == [0, 3, 5]
    assert list(bits_of(1 << 9999 | 1)) == [0, 9999]


def test_rules_are_found_by_every_kind_of_subject():
    index = PolicyIndex(
        [
            rule("host", "allow", "host:a", "x"),
            rule("glob", "allow", "host:a*", "x"),
            rule("label", "allow", "label:os=a*", "x"),
            rule("site", "allow", "site:dc1", "x"),
            rule("service", "allow", "service:web", "x"),
            rule("client", "allow", "client:a", "x"),
        ]
    )
    assert names(index, index.from_host(Host(name="a"))) == ["host", "glob"]
    assert names(index, index.from_host(Host(name="b", labels={"OS": "AIX"}, site="dc1"))) == ["label", "site"]
    assert names(index, index.from_host(Host(name="c", serves=("web",)))) == ["service"]
    assert names(index, index.from_client(Client(name="a", gateways=("gw1",)))) == ["client"]


def test_another_entry_under_the_same_name_is_looked_at_again():
    index = PolicyIndex([rule("r", "allow", "site:dc1", "x")])
    assert index.from_host(Host(name="a")) == 0
    assert index.from_host(Host(name="a", site="dc1")) == 1
    assert index.to_service(Service(name="y", port=1)) == 0


def test_c46_a_label_on_some_instances_only_counts_for_denies():
    index = PolicyIndex(
        [rule("allow", "allow", "host:**", "label:t=a*"), rule("deny", "deny", "host:**", "label:t=a*")]
    )
    both = (instance("s", "h", labels={"t": "a1"}), instance("s", "h", labels={"t": "a2"}))
    some = (*both, instance("s", "h"))
    assert names(index, index.to_instances("s", both)) == ["allow", "deny"]
    assert names(index, index.to_instances("s", some)) == ["deny"]
    assert names(index, index.to_instances("s", ())) == []


def test_two_label_targets_are_not_one():
    """Each target must be carried by all; that every instance carries one of them is not enough."""
    index = PolicyIndex([rule("allow", "allow", "host:**", "label:t=a label:u=b")])
    mixed = (instance("s", "h", labels={"t": "a"}), instance("s", "h", labels={"u": "b"}))
    assert index.to_instances("s", mixed) == 0


def test_times():
    index = PolicyIndex(
        [
            rule("always", "allow", "host:a", "x"),
            rule("until", "allow", "host:a", "x", until="2027-01-15"),
            rule("ended", "allow", "host:a", "x", until="2027-01-14"),
            rule("window", "allow", "host:a", "x", when="07:00-09:00"),
            rule("both", "allow", "host:a", "x", when="daily 00:00-24:00", until="2027-01-15"),
        ]
    )
    midnight = NOON + 16 * 3600
    assert [c.in_force(NOON) for c in index.rules] == [
        (True, None),
        (True, midnight),
        (False, None),
        (True, NOON + 3600),
        (True, midnight),
    ]
    # Backwards as well: a clock may be put right.
    assert index.rules[3].in_force(NOON - 7200) == (False, NOON - 3600)
    assert index.rules[3].in_force(NOON) == (True, NOON + 3600)


@pytest.mark.parametrize(("effect", "holds"), [("allow", False), ("deny", True)])
def test_c46_a_window_that_cannot_be_read_never_allows_and_always_denies(effect, holds):
    index = PolicyIndex([rule("r", effect, "host:a", "x", when="10:00-11:00 Europe/Atlantis")])
    assert index.rules[0].in_force(NOON) == (holds, None)
