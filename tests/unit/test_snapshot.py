import time

from inventory.health import HealthByHost
from inventory.model import Health, Host, Instance
from inventory.policy_index import PolicyIndex
from inventory.snapshot import Snapshot
from tests.support.estates import authority, instance, revocation, rule, snapshot

WEB = Host(name="web", serves=("shop",))
DB = Host(name="db", labels={"tier": "db"})


def ids(made, service):
    found = made.service(service)
    return [] if found is None else [i.id for i in found.instances]


def test_services_are_what_is_signed_and_what_hosts_may_report():
    made = snapshot(
        [WEB, DB],
        [instance("ledger", "db", port=81)],
        reported={
            "web": (instance("shop", "web"), instance("ledger", "web", target="127.0.0.1:1")),
            "db": (instance("ledger", "db", target="127.0.0.1:2", port=99),),
        },
    )
    assert ids(made, "shop") == ["shop/web/127.0.0.1:9000"]
    assert ids(made, "ledger") == ["ledger/db/127.0.0.1:2", "ledger/db/127.0.0.1:9000"]
    assert made.service("ledger").port == 81  # The signed instance decides.
    assert made.service("none") is None


def test_c10_a_host_reports_only_its_own_instances_of_services_it_may_serve():
    mine = instance("cards", "web")
    another = instance("shop", "web")
    made = snapshot([WEB, DB], reported={"web": (mine,), "db": (another,), "stranger": (instance("shop", "stranger"),)})
    assert made.services == {}
    assert not made.may_serve("web", "cards") and not made.may_serve("stranger", "shop")


def test_a_report_does_not_replace_what_is_signed():
    signed, claimed = instance("ledger", "db"), instance("ledger", "db", weight=99)
    made = snapshot([DB], [signed], reported={"db": (claimed,)})
    assert made.service("ledger").instances == (signed,)


def test_placing_an_instance_lets_the_host_serve():
    made = snapshot([DB], [instance("ledger", "db")])
    assert made.may_serve("db", "ledger") and not made.may_serve("db", "shop")


def test_revoked_and_unknown_hosts_serve_nothing():
    gone = instance("ledger", "gone")
    made = snapshot([WEB, DB], [instance("ledger", "db"), gone], revoked=[revocation("db")], reported={})
    assert made.services == {}
    assert not made.may_serve("db", "ledger") and not made.may_serve("gone", "ledger")


def test_is_revoked_names_the_reason():
    made = snapshot([DB], revoked=[revocation("db", "stolen", ("ab" * 32,)), revocation("old", "")])
    assert made.is_revoked(made.spiffe_id("db")) == made.host_revoked("db") == "stolen"
    assert made.is_revoked(made.spiffe_id("old")) == "no reason was given"
    assert made.is_revoked(made.spiffe_id("web"), "ab" * 32) == "its key was revoked"
    assert made.is_revoked(made.spiffe_id("web"), "cd" * 32) is None
    assert made.host_revoked("web") is None


def test_health_is_unknown_until_it_is_told():
    one = instance("ledger", "db")
    made = snapshot([DB], [one])
    assert made.health_of(one).state == "unknown"
    assert made.evolved(health=HealthByHost({one.id: Health(state="passing")})).health_of(one).state == "passing"


def test_unchanged_services_are_the_same_objects_after_a_change_elsewhere():
    old = snapshot([WEB, DB], [instance("ledger", "db")])
    before = old.services["ledger"]
    new = old.evolved(reported={"web": (instance("shop", "web"),)})
    assert new.services["ledger"] is before and "shop" in new.services and "shop" not in old.services


def test_a_change_costs_what_it_touches():
    hosts = [Host(name=f"h{n}", serves=(f"s{n}",)) for n in range(500)]
    made = snapshot(hosts, [instance(f"s{n % 500}", f"h{n % 500}", target=f"127.0.0.1:{n + 1}") for n in range(10_000)])
    assert len(made.services) == 500
    began = time.process_time()
    for n in range(20):
        made = made.evolved(reported={"h1": (instance("s1", "h1", target=f"127.0.0.2:{n + 1}"),)})
        assert len(made.services["s1"].instances) == 21
    assert (time.process_time() - began) / 20 < 0.02


def test_rules_are_indexed_once():
    made = snapshot([DB], rules=[rule("d", "deny", "host:a", "b"), rule("a", "allow", "host:a", "b")])
    assert [r.name for r in made.rules] == ["d", "a"]
    index = made.index
    assert made.evolved(revision=2).index is index
    assert made.evolved(allows=tuple(made.allows)).index is index
    assert made.evolved(allows=()).index is not index
    assert isinstance(made.index, PolicyIndex)


def test_a_snapshot_without_a_policy_has_no_rules():
    made = Snapshot(authority([DB]))
    assert made.rules == () and Snapshot(made.authority.__class__()).rules == ()


def test_the_order_of_instances_is_stable():
    items = [instance("ledger", "db", target=f"127.0.0.1:{n}") for n in (3, 1, 2)]
    forwards, backwards = snapshot([DB], items), snapshot([DB], items[::-1])
    assert forwards.services == backwards.services
    assert isinstance(forwards.service("ledger").instances[0], Instance)
