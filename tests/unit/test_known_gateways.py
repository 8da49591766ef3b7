"""I/O: what a host knows by several gateways: one that is new, behind, gone or removed wipes nothing of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.control.messages import Update
from agents.knowledge.known import Known
from bridge.policy.decide import Permit, Subject, decide
from inventory.authority import StaleEntry
from inventory.model import Health, Instance, Presence
from tests.support.authority import NOW, gateway, host
from tests.unit.test_known import ALLOW, DENY, Estate, may, signed_policy

WEB = Instance(service="web", host="vm1", target="127.0.0.1:9001", port=8080)
HERE = {"presence": {"vm1": Presence(host="vm1", online=True, gateways=("gw1",))}, "reported": {"vm1": (WEB,)}}


def both() -> tuple[Estate, Known]:
    """Two gateways, of which the first holds vm1."""
    estate = Estate()
    estate.chain.add(gateway("gw2", "192.0.2.2:7443"))
    known = estate.known(**HERE, health={WEB.id: Health(state="passing")})
    return estate, known.updated("gw2", estate.whole(entries=tuple(estate.chain.log[1:])), at=NOW)


def test_a_gateway_that_knows_less_wipes_nothing() -> None:
    estate, known = both()
    again = known.updated("gw2", estate.whole(entries=tuple(estate.chain.log[1:3])), at=NOW)
    for seen in (known, again):
        assert seen.snapshot.reported["vm1"] == (WEB,) and set(seen.snapshot.authority.hosts) == {"vm1", "vm2"}
        assert seen.snapshot.health_of(WEB).state == "passing" and may(seen)
    alone = again.updated("gw1", estate.whole(entries=tuple(estate.chain.log[1:3])), at=NOW)
    assert set(alone.snapshot.authority.hosts) == {"vm1"} and not alone.snapshot.reported, "now nobody says it"


def test_what_a_key_is_dropped_of_by_one_gateway_stays_while_another_shows_it() -> None:
    _, known = both()
    once = known.updated("gw1", Update(revision=2, dropped=("host/vm2",)), at=NOW)
    assert "vm2" in once.snapshot.authority.hosts
    twice = once.updated("gw2", Update(revision=2, dropped=("host/vm2",)), at=NOW)
    assert "vm2" not in twice.snapshot.authority.hosts


def test_a_gateway_that_is_behind_is_believed_in_what_it_says_of_places() -> None:
    estate, known = both()
    old, old_leaves = tuple(estate.chain.log[1:]), estate.leaves
    estate.chain.add(host("vm1", "web", "more"))
    _, leaves = signed_policy(estate.chain, ALLOW, DENY)
    ahead = known.updated("gw1", Update(revision=2, entries=tuple(estate.chain.log[-2:]), leaves=leaves), at=NOW)
    assert not may(ahead)
    moved = {"presence": {"vm2": Presence(host="vm2", online=True, gateways=("gw2",))}}
    behind = ahead.updated("gw2", estate.whole(entries=old, leaves=old_leaves, **moved), at=NOW)
    assert behind.snapshot.presence["vm2"].online
    assert behind.snapshot.authority.hosts["vm1"].serves == ("web", "more"), "what is newer stays"
    assert not may(behind) and behind.snapshot.rules == ahead.snapshot.rules
    with pytest.raises(StaleEntry):  # alone it would be a gateway that takes back what it said
        ahead.slice.applied(old)


def test_the_gateway_that_holds_a_host_counts_while_it_is_heard() -> None:
    _, known = both()
    away = {"vm1": Presence(host="vm1", online=False)}
    known = known.updated("gw2", Update(revision=3, presence=away), at=NOW)
    assert known.snapshot.presence["vm1"] == Presence(host="vm1", online=True, gateways=("gw1",))
    lost = known.linked(frozenset({"gw2"}))
    assert not lost.snapshot.presence["vm1"].online, "of the two only the other one is heard"
    assert lost.linked(frozenset()).snapshot.presence["vm1"].online, "of nobody: what was best counts"
    back = lost.linked(frozenset({"gw1", "gw2"}))
    assert back.snapshot.presence == known.snapshot.presence and back.snapshot.reported == known.snapshot.reported
    assert back.linked(frozenset({"gw1", "gw2"})) is back


def test_presence_names_every_gateway_that_holds_the_host() -> None:
    _, known = both()
    here = {"vm1": Presence(host="vm1", online=True, gateways=("gw2",))}
    known = known.updated("gw2", Update(revision=3, presence=here), at=NOW)
    assert known.snapshot.presence["vm1"].gateways == ("gw1", "gw2")
    assert known.linked(frozenset({"gw2"})).snapshot.presence["vm1"].gateways == ("gw2",)
    assert known.snapshot.reported["vm1"] == (WEB,), "and the one that has its report counts"


def test_what_a_removed_gateway_said_goes_with_it() -> None:
    estate, known = both()
    removed = gateway("gw1", "192.0.2.1:7443", removed=True)
    estate.chain.add(removed)
    after = known.updated("gw2", Update(revision=4, entries=(estate.chain.log[-1],)), at=NOW)
    assert set(after.views) == {"gw2"} and not after.snapshot.presence and not after.snapshot.reported
    assert may(after), "the policy is the operator's, whoever brought it"


def test_f14_what_was_on_disk_stays_until_every_gateway_was_heard(tmp_path: Path) -> None:
    estate, known = both()
    known.save(tmp_path, estate.empty)
    loaded = Known.load(tmp_path, estate.chain.fingerprint)
    assert loaded.snapshot.reported["vm1"] == (WEB,) and loaded.snapshot.presence["vm1"].gateways == ("gw1",)
    entries = tuple(estate.chain.log[1:])
    one = loaded.updated("gw2", estate.whole(entries=entries), at=NOW)
    assert one.snapshot.reported["vm1"] == (WEB,), "gw1 may be the one that knows"
    all_heard = one.updated("gw1", estate.whole(entries=entries), at=NOW)
    assert not all_heard.snapshot.reported and set(all_heard.views) == {"gw1", "gw2"}


def test_rules_that_only_one_gateway_shows_count_as_well() -> None:
    estate = Estate()
    estate.chain.add(gateway("gw2", "192.0.2.2:7443"))
    _, leaves = signed_policy(estate.chain, ALLOW, ALLOW)
    entries = tuple(estate.chain.log[1:])
    known = estate.empty.updated("gw1", estate.whole(entries=entries, leaves=leaves[:1]), at=NOW)
    known = known.updated("gw2", estate.whole(entries=entries, leaves=leaves[1:]), at=NOW)
    assert len(known.leaves) == 2 and may(known)
    assert isinstance(decide(known.snapshot, Subject("host", "vm2"), "web", now=NOW), Permit)
