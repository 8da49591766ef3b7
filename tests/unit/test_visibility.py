from inventory.model import Client, Host
from inventory.visibility import Visible, visible
from tests.support.estates import instance, revocation, rule, snapshot

HOSTS = [Host(name=name) for name in ("web", "db", "cards1", "cards2", "other")]
INSTANCES = [
    instance("shop", "web"),
    instance("ledger", "db"),
    instance("cards", "cards1"),
    instance("cards", "cards2"),
    instance("secret", "other"),
]


def seen(rules, host, **options):
    return visible(snapshot(HOSTS, INSTANCES, rules, **options), host)


def test_c46_a_host_sees_what_it_could_reach_and_no_more():
    rules = [
        rule("unrelated", "allow", "host:other", "cards"),
        rule("web to ledger", "allow", "host:web", "ledger"),
        rule("web to cards", "allow", "host:web", "cards"),
    ]
    assert seen(rules, "web") == Visible(
        services=frozenset({"shop", "ledger", "cards"}),
        hosts=frozenset({"web", "db", "cards1", "cards2"}),
        allow_indices=(1, 2),
    )


def test_c46_a_host_sees_who_could_reach_what_it_serves():
    rules = [rule("r", "allow", "host:web host:other", "ledger"), rule("s", "allow", "host:web", "cards")]
    assert seen(rules, "db") == Visible(frozenset({"ledger"}), frozenset({"db", "web", "other"}), (0,))


def test_c46_other_servers_of_the_same_service_are_not_shown():
    assert seen([rule("r", "allow", "host:web", "cards")], "cards1").hosts == {"cards1", "web"}


def test_other_servers_are_shown_where_their_labels_differ():
    mixed = [*INSTANCES[:3], instance("cards", "cards2", labels={"pci": "yes"})]
    denied = rule("d", "deny", "host:web", "label:pci=yes")
    assert visible(snapshot(HOSTS, mixed, [denied]), "cards1").hosts == {"cards1", "cards2"}
    assert visible(snapshot(HOSTS, mixed, []), "cards1").hosts == {"cards1"}


def test_c46_without_a_rule_a_host_sees_itself():
    assert seen([], "web") == Visible(frozenset({"shop"}), frozenset({"web"}), ())


def test_unknown_and_revoked_hosts_see_nothing_and_are_not_shown():
    rules = [rule("r", "allow", "host:**", "**".replace("**", "*"))]
    nothing = Visible(frozenset(), frozenset(), ())
    assert seen(rules, "stranger") == nothing
    assert seen(rules, "web", revoked=[revocation("web")]) == nothing
    assert "web" not in seen(rules, "db", revoked=[revocation("web")]).hosts


def test_could_means_ever():
    rules = [
        rule("r", "allow", "host:web", "ledger", when="Mon 10:00-10:01", user=("bob",), until="2000-01-01"),
    ]
    assert "ledger" in seen(rules, "web").services
    assert "web" in seen(rules, "db").hosts


def test_a_denied_service_stays_visible_so_that_the_refusal_can_name_the_rule():
    rules = [rule("allow", "allow", "host:web", "ledger"), rule("deny", "deny", "host:web", "ledger")]
    assert "ledger" in seen(rules, "web").services


def test_an_observed_allow_shows_nothing():
    rules = [rule("r", "allow", "host:web", "ledger", mode="observe")]
    assert seen(rules, "web") == Visible(frozenset({"shop"}), frozenset({"web"}), (0,))


def test_a_host_gets_the_rules_for_what_it_may_serve_before_it_serves_it():
    made = snapshot([Host(name="a", serves=("new",)), Host(name="b")], rules=[rule("r", "allow", "host:b", "new")])
    assert visible(made, "a") == Visible(frozenset({"new"}), frozenset({"a", "b"}), (0,))


def test_c46_a_host_hears_of_the_clients_that_could_reach_what_it_serves():
    clients = [
        Client(name="lpar7", gateways=("gw1",), labels={"os": "zos"}),
        Client(name="lpar8", gateways=("gw1",)),
        Client(name="pos", gateways=("gw1",)),
    ]
    rules = [
        rule("by name", "allow", "client:lpar8", "ledger"),
        rule("by label", "allow", "label:os=zos", "ledger"),
        rule("observed", "allow", "client:pos", "ledger", mode="observe"),
        rule("denied later", "deny", "client:lpar8", "ledger"),
        rule("elsewhere", "allow", "client:pos", "cards"),
    ]
    assert seen(rules, "db", clients=clients).clients == {"lpar7", "lpar8"}
    assert seen(rules, "cards1", clients=clients).clients == {"pos"}
    assert seen(rules, "web", clients=clients).clients == frozenset()
