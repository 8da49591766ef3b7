"""I/O: of several addresses of one Consul the next is asked only while it is certain that nothing was done (F52).

What cannot be asked of a real server at will (a server that knows no leader, one that says what was) an HTTP server of
the test's own says; tests/netns has three real ones.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from agents.consul import open_consul
from inventory.errors import Unavailable
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.interface import ANY, Change
from tests.support.consul_server import ConsulServer
from tests.support.estate import Estate
from tests.support.hostile_http import Answer, Handler, HostileServer, ends_early, says

PATIENCE = 20.0
ABOUT = (
    b'[{"Key":"meshbridge/live/about","Value":"eyJmb3JtYXQiOjEsInN0YXRlIjoicmVhZHkifQ==","Flags":0,"ModifyIndex":5}%s]'
)
OLD, NEW = (b',{"Key":"meshbridge/live/revision","Value":"","Flags":0,"ModifyIndex":%d}' % n for n in (6, 7))


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture
def place(consul: ConsulServer) -> ConsulPlace:
    """A registry that is ready."""
    made = consul.place(f"several-{secrets.token_hex(4)}/")

    async def prepare() -> None:
        async with open_consul(made) as registry:
            await registry.store.begin()
            await registry.store.become("ready")

    trio.run(prepare)
    return made


def only_reads(consul: ConsulServer, place: ConsulPlace, otherwise: Answer) -> Answer:
    """A server that answers the first question as Consul would, and changes with `otherwise`."""
    live = json.dumps(consul.ask("GET", f"/v1/kv/{place.prefix}live/?recurse")).encode()
    read = says(200, live, X_Consul_Index="7")
    return lambda handler: (read if handler.command == "GET" else otherwise)(handler)


def behind(place: ConsulPlace, *first: str) -> ConsulPlace:
    """The same, with these addresses before its own."""
    return msgspec.structs.replace(place, address=first[0], others=(*first[1:], place.address))


async def test_f52_a_server_that_is_down_or_knows_no_leader_is_passed_over(
    estate: Estate, hostile: HostileServer, place: ConsulPlace
) -> None:
    hostile.answer = says(500, b"No cluster leader")
    down = f"http://127.0.0.1:{estate.free_port()}"
    async with open_consul(behind(place, down, hostile.address)) as registry:
        with trio.fail_after(PATIENCE):
            revision = await registry.transact([Change("a", 0, b"1")])
            assert await registry.watch(-1) == revision
            record = await registry.get("a")
        assert record is not None and record.value == b"1"
        assert len(hostile.asked) == 1, "the one that answered is asked from there on"


@pytest.mark.parametrize("words", ["node is not the leader", "rpc error getting client: failed to get conn: dial tcp"])
async def test_f52_a_change_that_was_passed_on_to_nobody_is_made_elsewhere(
    words: str, consul: ConsulServer, hostile: HostileServer, place: ConsulPlace
) -> None:
    hostile.answer = only_reads(consul, place, says(500, words.encode()))
    async with open_consul(behind(place, hostile.address)) as registry:
        with trio.fail_after(PATIENCE):
            await registry.transact([Change("a", 0, b"1")])
        assert [line.partition(" ")[0] for line in hostile.asked] == ["GET", "PUT"]


@pytest.mark.parametrize("answer", [ends_early, says(500, b"leadership lost while committing log"), says(429)])
async def test_f52_a_change_that_may_have_been_made_is_not_made_again_elsewhere(
    answer: Answer, consul: ConsulServer, hostile: HostileServer, place: ConsulPlace
) -> None:
    hostile.answer = only_reads(consul, place, answer)
    async with open_consul(behind(place, hostile.address)) as registry:
        with trio.fail_after(PATIENCE), pytest.raises(Unavailable):
            await registry.transact([Change("a", 0, b"1")])
        assert [line.partition(" ")[0] for line in hostile.asked] == ["GET", "PUT"]
        assert await registry.get("a") is None
        assert len(hostile.asked) == 2, "the next request begins at the next one"


@pytest.mark.parametrize("answer", [ends_early, says(500, b"rpc error"), says(429), says(403), says(200, b"<html>")])
async def test_f52_a_question_is_asked_of_the_next_whatever_is_wrong(
    answer: Answer, hostile: HostileServer, place: ConsulPlace
) -> None:
    hostile.answer = answer
    async with open_consul(behind(place, hostile.address)) as registry:
        with trio.fail_after(PATIENCE):
            assert await registry.get("a") is None
        assert len(hostile.asked) == 1


async def test_f52_when_none_can_be_asked_each_was_asked_once(estate: Estate, hostile: HostileServer) -> None:
    hostile.answer = says(500, b"No cluster leader")
    down = f"http://127.0.0.1:{estate.free_port()}"
    async with open_consul(ConsulPlace(address=hostile.address, others=(down,))) as registry:
        for asked in (1, 2, 3):
            with trio.fail_after(PATIENCE), pytest.raises(Unavailable, match=r"refused|No cluster leader"):
                await registry.transact([Change("a", ANY, b"1")])
            assert len(hostile.asked) == asked


async def test_f52_a_watch_decides_by_what_the_leader_says(hostile: HostileServer) -> None:
    """One that lost the others, and does not know it yet, answers the question that waits with what was."""

    def answer(handler: Handler) -> None:
        is_waiting = "index=" in handler.path
        says(200, ABOUT % (OLD if is_waiting else NEW), X_Consul_Index="8" if is_waiting else "7")(handler)

    hostile.answer = answer
    async with open_consul(ConsulPlace(address=hostile.address)) as registry:
        revision = await registry.watch(-1)
        with trio.move_on_after(1.0) as waited:
            assert await registry.watch(revision) == revision, "it went back"
        assert waited.cancelled_caught, "nothing happened, so it waits"
        assert len(hostile.asked) <= 20, "and asks no faster for it"


def test_commands_take_the_option_several_times(estate: Estate, consul: ConsulServer, tmp_path: Path) -> None:
    made = consul.place(f"options-{secrets.token_hex(4)}/")
    assert made.token_file is not None
    down = f"http://127.0.0.1:{estate.free_port()}"
    named = [word for address in (down, made.address) for word in ("--consul-address", address)]
    more = ["--consul-prefix", made.prefix, "--consul-token-file", made.token_file]
    estate.init("--registry", "consul", *named, *more)
    config = msgspec.json.decode((estate.home("op") / "domain.json").read_bytes())
    assert (config["consul"]["address"], config["consul"]["others"]) == (down, [made.address])
    estate.ok("op", "host", "add", "vm1")
