"""Pure: which services a host alone can serve, by what its gateway knows."""

from __future__ import annotations

import msgspec

from agents.gateway_status import presence_rows, served_alone
from inventory.health import HealthByHost
from inventory.model import Health, Host, Presence
from inventory.snapshot import Snapshot
from tests.support.estates import instance, snapshot

VM1, VM2 = Host(name="vm1"), Host(name="vm2")


def alone(known: Snapshot, *, away: str = "") -> dict[str, list[str]]:
    return served_alone(known, lambda host: host != away)


def test_a_host_is_alone_where_nobody_else_takes_streams() -> None:
    web1, web2 = instance("web", "vm1"), instance("web", "vm2")
    db = instance("db", "vm1", target="127.0.0.1:5432", port=5432)
    known = snapshot([VM1, VM2], [web1, web2, db])
    assert alone(known) == {"vm1": ["db"]}
    assert alone(known, away="vm2") == {"vm1": ["db", "web"]}
    assert alone(known, away="vm1") == {"vm2": ["web"]}
    ill = msgspec.structs.replace(Health(), state="failing")
    assert alone(known.evolved(health=HealthByHost({web2.id: ill}))) == {"vm1": ["db", "web"]}
    drained = msgspec.structs.replace(VM2, draining="upgraded", serving_only=True)
    assert alone(snapshot([VM1, drained], [web1, web2])) == {"vm1": ["web"]}
    assert alone(snapshot([VM1, VM2], [web1, msgspec.structs.replace(web2, draining="moved")])) == {"vm1": ["web"]}
    two = instance("db", "vm1", target="127.0.0.1:5433", port=5432)
    assert alone(snapshot([VM1], [db, two])) == {"vm1": ["db"]}, "both go with it"


def test_whoever_asks_about_hosts_is_told() -> None:
    known = snapshot([VM1], [instance("web", "vm1")]).evolved(presence={"vm1": Presence(host="vm1", online=True)})
    rows = presence_rows(known, lambda _: True, {}, lambda _: "")
    assert rows["vm1"]["alone"] == ["web"]
