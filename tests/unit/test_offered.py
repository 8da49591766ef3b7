"""Pure: what streams may be opened to at a node, and at a gateway for the hosts behind it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from agents.workers.dialled import check_address, why_not_dialled
from agents.workers.offered import Offered
from inventory.errors import Unavailable
from inventory.model import Gateway, Host, Reach
from inventory.snapshot import Snapshot
from tests.support import authority as say
from tests.support.estates import instance, snapshot

OLD = say.reach("old1", url="tcp://192.0.2.8").reach
AIX = say.reach("aix1").reach


def estate(*reaches: Reach, via: str = "gw1") -> Snapshot:
    hosts = [Host(name="aix1", via=via), Host(name="old1", via=via), Host(name="vm1")]
    placed = [
        instance("web", "aix1", target="127.0.0.1:80"),
        instance("web", "old1", target="192.0.2.8:80"),
        instance("web", "vm1", target="127.0.0.1:80"),
    ]
    made = snapshot(hosts, placed, [])
    gateways = {"gw1": Gateway(name="gw1", address="192.0.2.1:7443")}
    ways = {reach.host: reach for reach in reaches}
    return made.evolved(authority=replace(made.authority, gateways=gateways, reaches=ways))


def test_a_gateway_takes_streams_to_the_hosts_behind_it_and_to_no_others() -> None:
    offered = Offered("gateway:gw1", "gw1")
    known = estate(AIX, OLD)
    assert offered.know(known) and not offered.know(known), "what is known already is no news"
    assert offered.instance("web", "127.0.0.1:80", "aix1") is not None
    assert offered.instance("web", "192.0.2.8:80", "old1") is not None
    assert offered.instance("web", "127.0.0.1:80", "vm1") is None
    assert offered.instance("web", "127.0.0.1:80") is None
    assert offered.targets == ("192.0.2.8:80",), "the others are dialled elsewhere"
    assert offered.is_direct("old1") and not offered.is_direct("aix1")


def test_an_agent_takes_streams_to_its_own_and_there_is_one_way_to_say_it() -> None:
    offered = Offered("vm1")
    offered.know(estate(AIX, OLD))
    assert offered.instance("web", "127.0.0.1:80") is not None
    assert offered.instance("web", "127.0.0.1:80", "vm1") is None
    assert offered.instance("web", "127.0.0.1:80", "aix1") is None


def test_without_a_signed_way_or_with_one_that_leads_back_nothing_is_dialled() -> None:
    offered = Offered("gateway:gw1", "gw1")
    offered.know(estate(say.reach("old1", url="tcp://192.0.2.1").reach))
    for host, target, words in (("aix1", "127.0.0.1:80", "nobody has signed"), ("old1", "192.0.2.8:80", "itself")):
        found = offered.instance("web", target, host)
        assert found is not None
        with pytest.raises(Unavailable, match=words):
            offered.reach(found)


def test_hosts_that_are_behind_us_no_more_are_named_with_the_reason() -> None:
    offered = Offered("gateway:gw1", "gw1")
    known = estate(AIX, OLD)
    offered.know(known)
    assert offered.gone(known) == {}
    moved = estate(AIX, OLD, via="gw2")
    assert "no longer reached" in offered.gone(moved)["aix1"]
    without = known.evolved(authority=replace(known.authority, hosts={}))
    assert offered.gone(without)["old1"] == "host old1 was removed"
    elsewhere = estate(AIX, say.reach("old1", url="tcp://192.0.2.9").reach)
    assert offered.gone(elsewhere) == {"old1": "host old1 is reached in another way now"}
    closed = estate(AIX, msgspec.structs.replace(OLD, allow_loopback=True))
    assert set(offered.gone(closed)) == {"old1"} and set(offered.gone(estate(AIX))) == {"old1"}
    assert offered.gone(estate(AIX, msgspec.structs.replace(OLD, ca="PEM"))) == {}, "the ssh worker sees to that"
    revoked = say.revoke("aix1")
    cut = known.evolved(authority=replace(known.authority, revoked_identities={revoked.spiffe_id: revoked}))
    assert "revoked" in offered.gone(cut)["aix1"]


def test_h33_what_a_name_stands_for_may_not_be_the_gateway() -> None:
    assert why_not_dialled(("192.0.2.8", 80), False) is None
    assert why_not_dialled(("127.0.0.1", 80), False) and why_not_dialled(("127.0.0.1", 80), True) is None
    assert why_not_dialled(("169.254.169.254", 80), True)
    with pytest.raises(Unavailable, match="old1 is not dialled"):
        check_address(OLD, ("127.0.0.1", 80))
