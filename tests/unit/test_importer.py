"""I/O: (fakes) a gateway's imports: who is told what and when, and a Consul that comes and goes."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from agents.imports.importer import Importer
from agents.imports.worker_view import authority_for_workers, placement_for_workers
from bridge import limits
from bridge.policy.decide import Permit, Subject, decide
from inventory.health import HealthByHost
from inventory.imports import instance_of
from inventory.model import Gateway, Host
from inventory.snapshot import Snapshot
from tests.support.estates import NOON, instance, rule, snapshot
from tests.support.importing import DB, ELSEWHERE, PLACE, WEB, Gateway1, running, settle


async def test_workers_hear_of_an_instance_first_and_forget_it_last(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Gateway1(WEB)) as gateway:
        gateway.consul.say("Web", "10.0.0.1", "10.0.0.2")
        await settle()
        assert [who for who, _ in gateway.told[-2:]] == ["worker", "host"]
        assert gateway.last("worker") == gateway.last("host") == ["web@10.0.0.1", "web@10.0.0.2"]
        gateway.consul.say("Web", "10.0.0.2")
        await settle()
        assert gateway.last("host") == ["web@10.0.0.2"]
        assert gateway.last("worker") == ["web@10.0.0.1", "web@10.0.0.2"], "streams to it may be on their way"
        await trio.sleep(limits.IMPORT_LINGER)
        assert gateway.last("worker") == ["web@10.0.0.2"]


async def test_one_that_comes_back_in_time_stays(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Gateway1(WEB)) as gateway:
        for addresses in (("10.0.0.1", "10.0.0.2"), ("10.0.0.2",), ("10.0.0.1", "10.0.0.2")):
            gateway.consul.say("Web", *addresses)
            await settle()
        await trio.sleep(2 * limits.IMPORT_LINGER)
        assert gateway.last("worker") == gateway.last("host") == ["web@10.0.0.1", "web@10.0.0.2"]


async def test_streams_on_their_way_to_the_last_one_are_let_through_as_well(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It goes on serving for a while, as any other that was deregistered; and its name stays known."""
    async with running(Gateway1(WEB)) as gateway:
        gateway.consul.say("Web", "10.0.0.1")
        await settle()
        gateway.consul.say("Web")
        await settle()
        assert gateway.last("host") == [] and gateway.last("worker") == ["web@10.0.0.1"]
        await trio.sleep(limits.IMPORT_LINGER)
        assert gateway.last("worker") == [] and len(gateway.snapshot.offers(PLACE)) == 1
        gateway.consul.say("Web", "10.0.0.1")
        await settle()
        assert gateway.last("host") == gateway.last("worker") == ["web@10.0.0.1"]


async def test_f52_while_consul_is_away_what_it_said_stays(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Gateway1(WEB)) as gateway:
        gateway.consul.say("Web", "10.0.0.1")
        await settle()
        gateway.consul.leave("Consul cannot be reached: no")
        await trio.sleep(60)
        assert gateway.last("host") == ["web@10.0.0.1"] == gateway.last("worker")
        assert "Consul cannot be reached: no" in gateway.importer.problems()[0]
        assert gateway.consul.asked < 60, "it is not asked in a loop"
        gateway.consul.away = ""
        gateway.consul.index = 0  # it was restored, and begins again
        gateway.consul.say("Web", "10.0.0.2")
        await trio.sleep(limits.IMPORT_RETRY_MAX + 1)
        assert gateway.last("host") == ["web@10.0.0.2"] and gateway.importer.problems() == []


async def test_f43_a_bug_of_ours_ends_no_watcher(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Gateway1(WEB)) as gateway:
        with monkeypatch.context() as broken:
            broken.setattr(gateway.consul, "services", None)
            gateway.consul.index += 1
            gateway.consul._wake()
            await settle()
            assert "internal error: AttributeError" in gateway.importer.problems()[0]
        gateway.consul.services["Web"] = ["10.0.0.7"]
        await trio.sleep(limits.IMPORT_RETRY_MAX + 1)
        assert gateway.last("host") == ["web@10.0.0.7"]


async def test_what_is_signed_is_followed_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    async with running(Gateway1(ELSEWHERE)) as gateway:
        assert gateway.consul.asked == 0 and not gateway.importer.is_any
        gateway.consul.say("Web", "10.0.0.1")
        gateway.consul.say("Db", "10.0.0.2")
        gateway.sign(ELSEWHERE, WEB, DB)
        await settle()
        assert gateway.last("host") == ["db@10.0.0.2", "web@10.0.0.1"]
        assert [row["instances"] for row in gateway.importer.status()] == [1, 1]
        gateway.sign(ELSEWHERE, msgspec.structs.replace(WEB, labels={"k": "v"}))
        await settle()
        assert gateway.last("host") == gateway.last("worker") == ["web@10.0.0.1"]
        [found] = gateway.snapshot.offers(PLACE)
        assert found.labels == {"k": "v"}
        gateway.sign()
        await settle()
        assert gateway.last("host") == gateway.last("worker") == []
        asked = gateway.consul.asked
        gateway.consul.say("Web", "10.0.0.3")
        await settle()
        assert gateway.consul.asked == asked


async def test_one_gateway_has_a_bounded_number_of_questions(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IMPORTS_MAX", 1)
    async with running(Gateway1(WEB, DB)) as gateway:
        assert [row["service"] for row in gateway.importer.status()] == ["db"]
        assert any("1 imports are not followed" in text for text in gateway.importer.problems())


async def test_without_a_consul_nothing_is_asked_and_it_is_said() -> None:
    made = Gateway1(WEB)
    importer = Importer("gw1", "t.internal", made, None, made.place)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        importer.start(nursery)
        importer.follow(made.snapshot)
    assert "not in Consul" in importer.problems()[0]


# --- what workers are told ----------------------------------------------------------------------------------------


def test_workers_without_an_import_are_told_who_may_connect_and_no_more() -> None:
    made = Gateway1(ELSEWHERE).snapshot.evolved(reported={"a": (instance("x", "a"),)})
    told = authority_for_workers(made, "gw1")
    assert told.state.hosts == made.authority.hosts and told.state.gateways == made.authority.gateways
    assert (told.state.policy, told.state.imports, told.state.instances, told.allows) == (None, {}, {}, ())
    assert placement_for_workers(made, "gw1", ()).reported == {}


def test_workers_decide_as_who_knows_all() -> None:
    """Also where others serve the service as well: what a rule says of labels is about all of its instances."""
    hosts = [Host(name="a"), Host(name="b", serves=("web",)), Host(name="c")]
    rules = [
        rule("front", "allow", "host:a", "label:tier=front"),
        rule("named", "allow", "host:c", "web"),
        rule("other", "allow", "host:c", "db"),
        rule("never", "deny", "host:b", "web"),
    ]
    wanted = msgspec.structs.replace(WEB, labels={"tier": "front"})
    found = instance_of(wanted, "10.0.0.1:80", port=80)
    for other in (instance("web", "b", labels={"tier": "front"}), instance("web", "b")):
        for signed in (True, False):
            made = snapshot(hosts, [other] if signed else [], rules, reported={} if signed else {"b": (other,)})
            gateways = {"gw1": Gateway(name="gw1", address="10.0.0.9:7443")}
            authority = replace(made.authority, gateways=gateways, imports={wanted.id: wanted})
            made = made.evolved(authority=authority, reported={**made.reported, PLACE: (found,)})
            told, placed = authority_for_workers(made, "gw1"), placement_for_workers(made, "gw1", ())
            worker = Snapshot(
                authority=told.state, allows=told.allows, reported=placed.reported, health=HealthByHost(placed.health)
            )
            assert {allowed.name for allowed in told.allows} <= {"front", "named"}
            for name in "abcd":
                mine = decide(worker, Subject("host", name), "web", now=NOON)
                assert mine == decide(made, Subject("host", name), "web", now=NOON)
                assert isinstance(mine, Permit) == (name == "c" or (name == "a" and other.labels != {}))
            assert worker.offers(PLACE) == (found,)
