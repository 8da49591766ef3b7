"""Pure: what Consul's catalog is told of a host and its instances, and that what they are called stays data (C11)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.catalog.entries import HOST_CHECK, META_MAX, hosts_of, node_prefix, wanted_on, with_labels
from inventory.health import HealthByHost
from inventory.model import Health, Host, Instance, Presence, Publication
from inventory.registries.consul_catalog_wire import Check, Entry, Key, Mark, Node, Service
from inventory.snapshot import Snapshot, Touched
from tests.support.estates import instance, revocation, snapshot

MARK = Mark("corp.internal", "0123456789abcdef")
NODE = "meshbridge_corp.internal_vm1"
VM1 = Host(name="vm1", labels={"os": "aix", "team.name": "core"}, site="dc1")
WEB = instance("web", "vm1", labels={"tier": "front", "role": "web"}, weight=3, port=8080)


def made(host: Host = VM1, one: Instance = WEB, *, health: Health | None = None, **presence: Any) -> dict[Key, Entry]:
    world = replace(
        snapshot([host], [one]),
        presence={"vm1": Presence(host="vm1", **{"online": True, **presence})},
        health=HealthByHost({one.id: health} if health is not None else {}),
    )
    return wanted_on(world, "vm1", MARK)


def node(entries: dict[Key, Entry]) -> Node:
    found = entries[Key("node", NODE)]
    assert isinstance(found, Node)
    return found


def service(entries: dict[Key, Entry]) -> Service:
    found = entries[Key("service", NODE, WEB.id)]
    assert isinstance(found, Service)
    return found


def check(entries: dict[Key, Entry], of: str = "meshbridge:" + WEB.id) -> tuple[str, str]:
    found = entries[Key("check", NODE, of)]
    assert isinstance(found, Check) and found.is_ours(MARK)
    return found.status, found.output


def test_a_host_is_an_external_node_with_our_mark() -> None:
    entry = node(made())
    assert (entry.name, entry.address) == (NODE, "vm1")
    assert entry.meta == {
        "external-node": "true",
        "external-probe": "false",
        "meshbridge-domain": "corp.internal",
        "meshbridge-estate": "0123456789abcdef",
        "meshbridge-host": "vm1",
        "meshbridge-site": "dc1",
        "label-os": "aix",
        "label-team_name": "core",
    }
    assert node(made(advertise="[2001:db8::1]:7443")).address == "2001:db8::1"


def test_an_instance_is_a_service_under_its_name_in_the_namespace() -> None:
    entry = service(made())
    assert (entry.name, entry.address, entry.port, entry.weights) == ("web", "web.bridge.internal", 8080, (3, 1))
    assert entry.tags == ("role=web", "tier=front")
    assert entry.meta["meshbridge-target"] == WEB.target
    assert entry.meta["label-tier"] == "front" and entry.is_ours(MARK)
    assert service(made(one=instance("web", "vm1", weight=0))).weights == (1, 1), "Consul takes no weight of 0"


@pytest.mark.parametrize(
    ("health", "status"),
    [
        (Health(state="passing"), ("passing", "")),
        (Health(state="failing", reason="connection refused"), ("critical", "connection refused")),
        (Health(state="unknown"), ("warning", "not checked yet")),
        (None, ("warning", "not checked yet")),
    ],
)
def test_a_check_says_what_the_agent_says(health: Health | None, status: tuple[str, str]) -> None:
    assert check(made(health=health)) == status


def test_what_drains_is_critical_for_those_who_would_connect_anew() -> None:
    passing = Health(state="passing")
    drained = instance("web", "vm1", draining="patches")
    assert check(made(one=drained, health=passing)) == ("critical", "draining: patches")
    entries = made(host=Host(name="vm1", draining="disk"), health=passing)
    assert check(entries) == ("critical", "draining: disk")
    assert check(entries, HOST_CHECK) == ("warning", "connected; draining: disk")


def test_the_check_of_a_node_says_whether_the_host_is_connected() -> None:
    assert check(made(), HOST_CHECK) == ("passing", "connected")
    assert check(made(online=False), HOST_CHECK) == ("critical", "not connected to a gateway")
    revoked: Snapshot = snapshot([VM1], [WEB], revoked=[revocation("vm1", "stolen")])
    entries = wanted_on(revoked, "vm1", MARK)
    assert check(entries, HOST_CHECK) == ("critical", "revoked: stolen")
    assert [key.kind for key in entries] == ["node", "check"], "a revoked host serves nothing"


def test_who_is_no_host_has_no_entries() -> None:
    assert wanted_on(snapshot([VM1]), "vm2", MARK) == {}
    assert wanted_on(snapshot([VM1]), "gateway:gw1", MARK) == {}


def test_no_two_hosts_of_any_two_estates_have_one_node() -> None:
    pairs = [("a", "b.c"), ("a.b", "c"), ("a.b.c", "d"), ("a", "b"), ("a", "b--c"), ("a-b", "c")]
    assert len({node_prefix(domain) + host for domain, host in pairs}) == len(pairs)
    assert not (node_prefix("a.b") + "c").startswith(node_prefix("a")), "a token for one is none for the other"


def test_labels_become_names_of_metadata_that_consul_takes_and_no_more_than_it_takes() -> None:
    assert with_labels({}, {"a.b": "1", "a_b": "2"}) == {"label-a_b": "1"}, "the tags have both"
    assert with_labels({"own": "x"}, {f"k{n}": "v" for n in range(100)}).keys() >= {"own", "label-k0"}
    assert len(with_labels({"own": "x"}, {f"k{n}": "v" for n in range(100)})) == META_MAX


HOSTILE = '"}],"Verb":"delete" ` ${jndi:x} <script>\n\r\x1b[31m \u202e%2e%2e/{{ .Env }}'


def test_c11_a_reason_is_data_and_nothing_else() -> None:
    entries = made(host=Host(name="vm1", draining=HOSTILE), health=Health(state="failing", reason=HOSTILE))
    assert check(entries) == ("critical", f"draining: {HOSTILE}")


def test_the_places_where_clients_find_a_service_are_among_its_metadata() -> None:
    world = snapshot([VM1], [WEB])
    assert "meshbridge-published" not in service(wanted_on(world, "vm1", MARK)).meta
    published = [
        Publication(service="web", gateway="gw1", listen="10.0.0.1:80"),
        Publication(service="web", gateway="gw2", listen="10.0.0.2:80"),
        Publication(service="db", gateway="gw2", listen="10.0.0.2:81"),
        Publication(service="web", host="aix1", port=80),
    ]
    after = world.evolved(authority=replace(world.authority, publications={one.id: one for one in published}))
    assert service(wanted_on(after, "vm1", MARK)).meta["meshbridge-published"] == "10.0.0.1:80 10.0.0.2:80"
    touched = Touched(keys=frozenset(f"publish/{one.id}" for one in published))
    assert hosts_of(after, touched.published) == {"vm1"}
