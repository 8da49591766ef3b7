"""I/O: whatever Consul does wrong is one error with words and a next step (F52), and costs a bounded time and memory.

A real server is restarted, restored and has its tokens revoked; an HTTP server of the test's own answers what no Consul
would. Nothing is retried here: that is the agents' business.
"""

# ruff: noqa: ASYNC240 - nothing else runs while a test prepares its files

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agents.consul import open_consul
from inventory.errors import InputError, MeshError, Unavailable
from inventory.registries import consul_http
from inventory.registries.consul import ConsulRegistry
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.interface import ANY, Change, Conflict
from tests.support.consul_server import ConsulServer, documented_policy, new_consul
from tests.support.estate import Estate
from tests.support.hostile_http import Answer, HostileServer, ends_early, hangs, never_ends, says

PATIENCE = 20.0
TOKEN = "0123-secret-4567"

Step = Callable[[ConsulRegistry], Awaitable[object]]

EVERYTHING: list[tuple[str, Step]] = [
    ("read", lambda registry: registry.read("")),
    ("get", lambda registry: registry.get("a")),
    ("transact", lambda registry: registry.transact([Change("a", ANY, b"")])),
    ("watch", lambda registry: registry.watch(-1)),
    ("lease", lambda registry: registry.lease("a", b"", 60)),
    ("leases", lambda registry: registry.leases("")),
]


@asynccontextmanager
async def empty(place: ConsulPlace) -> AsyncIterator[ConsulRegistry]:
    async with open_consul(place) as registry:
        await registry.store.begin()
        await registry.store.become("ready")
        yield registry


@pytest.fixture
def own_consul(consul_program: Path, estate: Estate) -> Iterator[ConsulServer]:
    with new_consul(estate.path, estate) as server:
        yield server


@pytest.fixture
def hostile() -> Iterator[HostileServer]:
    with HostileServer() as server:
        yield server


@pytest.fixture
def place_there(hostile: HostileServer, tmp_path: Path) -> ConsulPlace:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(f"{TOKEN}\n")
    return ConsulPlace(address=hostile.address, token_file=str(file))


# --- what no Consul would answer ------------------------------------------------------------------------------------

INDEX = {"X_Consul_Index": "7"}
ABOUT = b'[{"Key":"meshbridge/live/about","Value":"%s","Flags":0,"ModifyIndex":5}]'

ANSWERS: dict[str, tuple[Answer, str]] = {
    "overloaded": (says(429, b"slow down"), "takes no more requests"),
    "no leader": (says(500, b"No cluster leader"), "500 No cluster leader"),
    "shutting down": (says(503), "takes no more requests"),
    "denied": (says(403, b"ACL not found"), "refuses the token in"),
    "too large": (says(413, b"too large"), "does not take a request of this size"),
    "moved": (says(301, Location="http://192.0.2.1/"), "no answer of a Consul: 301"),
    "empty": (says(200), "no answer of a Consul"),
    "no json": (says(200, b"<html>", **INDEX), "no answer of a Consul"),
    "other json": (says(200, b'{"a":1}', **INDEX), "no answer of a Consul|no registry below"),
    "deep json": (says(200, b"[" * 100_000, **INDEX), "no answer of a Consul"),
    "wild index": (says(200, b"[]", X_Consul_Index="many"), "no answer of a Consul"),
    "no index": (says(200, b"[]"), "no answer of a Consul|no registry"),
    "another format": (says(200, ABOUT % b"eyJmb3JtYXQiOjksInN0YXRlIjoicmVhZHkifQ==", **INDEX), "format 9|no answer"),
    "terminal colours": (says(500, b"\x1b[31mred\x00"), r"\\x1b"),
    "ends early": (ends_early, "connection to Consul broke"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_f52_every_strange_answer_is_an_error_in_words(
    case: str, hostile: HostileServer, place_there: ConsulPlace
) -> None:
    hostile.answer, words = ANSWERS[case]
    async with open_consul(place_there) as registry:
        for _name, step in EVERYTHING:
            before = len(hostile.asked)
            with trio.fail_after(PATIENCE), pytest.raises(MeshError, match=words) as caught:
                await step(registry)
            assert caught.value.exit_code in (64, 69)
            assert TOKEN not in f"{caught.value} {caught.value.hint}"
            assert len(hostile.asked) - before <= 2, "one attempt, and at most one look at the reason"
    assert all(TOKEN not in line for line in hostile.asked), "never in a URL"
    assert {headers["X-Consul-Token"] for headers in hostile.headers} == {TOKEN}


async def test_an_answer_without_end_is_cut(
    hostile: HostileServer, place_there: ConsulPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_http, "ANSWER_MAX", 4 * 1024 * 1024)
    hostile.answer = never_ends
    async with open_consul(place_there) as registry:
        with trio.fail_after(PATIENCE), pytest.raises(Unavailable, match="more than 4194304 bytes"):
            await registry.get("a")


async def test_an_answer_that_does_not_come_is_waited_for_once(
    hostile: HostileServer, place_there: ConsulPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consul_http, "ANSWER_TIMEOUT", 0.3)
    hostile.answer = hangs
    async with open_consul(place_there) as registry:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer within"):
            await registry.get("a")
        assert time.monotonic() - began < 5


async def test_a_watch_that_is_answered_at_once_asks_no_faster(
    hostile: HostileServer, place_there: ConsulPlace
) -> None:
    """A proxy in between may not know of blocking queries."""
    ready = b"eyJmb3JtYXQiOjEsInN0YXRlIjoicmVhZHkifQ=="
    hostile.answer = says(200, ABOUT % ready, **INDEX)
    async with open_consul(place_there) as registry:
        revision = await registry.watch(-1)
        before = len(hostile.asked)
        with trio.move_on_after(1.0):
            await registry.watch(revision)
        assert len(hostile.asked) - before <= 12


async def test_the_token_is_in_no_log_and_the_environment_has_no_say(
    hostile: HostileServer, place_there: ConsulPlace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("CONSUL_HTTP_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "CONSUL_HTTP_ADDR", "CONSUL_HTTP_SSL"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    hostile.answer = says(500)
    with caplog.at_level(logging.DEBUG):
        async with open_consul(place_there) as registry:
            for _, step in EVERYTHING:
                with pytest.raises(Unavailable, match="Consul cannot answer"):
                    await step(registry)
    assert TOKEN not in caplog.text
    assert {headers["X-Consul-Token"] for headers in hostile.headers} == {TOKEN}


def test_the_token_file_is_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    place = ConsulPlace(address="http://127.0.0.1:1", token_file=str(file))
    with pytest.raises(InputError, match="other users can reach this secret"):
        trio.run(functools.partial(_open, place))
    file.chmod(0o600)
    file.write_text("two words\n")
    trio.run(functools.partial(_open, place))
    file.write_text("\n")
    with pytest.raises(InputError, match="holds no token"):
        trio.run(functools.partial(_open, place))


async def _open(place: ConsulPlace) -> None:
    async with open_consul(place):
        pass


# --- a real Consul that has trouble ---------------------------------------------------------------------------------


async def test_f52_a_revoked_token_names_its_file_and_a_new_one_in_it_is_used(consul: ConsulServer) -> None:
    place = consul.place(f"revoked-{secrets.token_hex(4)}/")
    assert place.token_file is not None
    async with empty(place) as registry:
        await registry.transact([Change("a", 0, b"1")])
        consul.revoke(place)
        for name, step in EVERYTHING:
            with trio.fail_after(PATIENCE), pytest.raises(Unavailable) as caught:
                await step(registry)
            assert place.token_file in str(caught.value), name
            assert "docs/consul.md" in caught.value.hint
        _, secret = consul.new_token(documented_policy(place.prefix))
        Path(place.token_file).write_text(secret)
        with pytest.raises(Unavailable):
            await registry.get("a")  # reads the file again
        record = await registry.get("a")
        assert record is not None and record.value == b"1"


@pytest.mark.parametrize("rules", ["read", "other", "nothing"])
async def test_f52_a_token_with_too_few_rights_is_told_so_and_never_sees_an_empty_registry(
    rules: str, consul: ConsulServer
) -> None:
    place = consul.place(f"rights-{secrets.token_hex(4)}/")
    async with empty(place) as registry:
        await registry.transact([Change("a", 0, b"1")])
    texts = {
        "read": f'key_prefix "{place.prefix}" {{ policy = "read" }}',
        "other": 'key_prefix "elsewhere/" { policy = "write" }',
        "nothing": 'node_prefix "" { policy = "read" }',
    }
    poor = consul.place(place.prefix, rules=texts[rules])
    async with open_consul(poor) as registry:
        for name, step in EVERYTHING:
            if rules == "read" and name in ("read", "get", "watch", "leases"):
                await step(registry)
                continue
            with trio.fail_after(PATIENCE), pytest.raises(Unavailable) as caught:
                await step(registry)
            assert not isinstance(caught.value, Conflict)
            assert "docs/consul.md" in caught.value.hint, name


async def test_f34_a_restored_snapshot_is_seen_by_a_watch_and_by_compare_and_set(own_consul: ConsulServer) -> None:
    """Consul's index goes back with it."""
    async with empty(own_consul.place()) as registry:
        await registry.transact([Change("a", 0, b"old")])
        snapshot = own_consul.snapshot()
        old = await registry.get("a")
        for number in range(20):
            revision = await registry.transact([Change("a", ANY, b"%d" % number), Change(f"new/{number}", 0, b"")])
        new = await registry.get("a")
        assert old is not None and new is not None
        async with trio.open_nursery() as nursery:

            async def restore() -> None:
                await trio.sleep(0.3)  # for the watch to be there; a watch that comes later sees it too
                await trio.to_thread.run_sync(own_consul.restore, snapshot)

            nursery.start_soon(restore)
            with trio.fail_after(PATIENCE):
                assert await registry.watch(revision) != revision
        record = await registry.get("a")
        assert record is not None and (record.value, record.version) == (b"old", old.version)
        assert list((await registry.read("new/"))[0]) == []
        with pytest.raises(Conflict):
            await registry.transact([Change("a", new.version, b"wrong")])
        with trio.fail_after(PATIENCE):
            revision = (await registry.read(""))[1]
            after = await registry.transact([Change("a", old.version, b"right")])
            assert await registry.watch(revision) == after
        record = await registry.get("a")
        assert record is not None and record.version > new.version, "numbers given once do not come again"


async def test_a_watch_and_leases_outlive_a_restart_of_consul(own_consul: ConsulServer) -> None:
    place = own_consul.place()
    async with empty(place) as registry:
        revision = await registry.transact([Change("a", 0, b"1")])
        await registry.lease("here", b"x", 60.0)
        revision = await registry.watch(revision)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, functools.partial(own_consul.stop, kill=True))
            with trio.fail_after(PATIENCE), pytest.raises(Unavailable, match=r"Consul (broke|cannot be reached)"):
                await registry.watch(revision)
        with pytest.raises(Unavailable, match="cannot be reached: Connection refused"):
            await registry.get("a")
        await trio.to_thread.run_sync(own_consul.start)
        record = await registry.get("a")
        assert record is not None and record.value == b"1", "what was acknowledged is there"
        await registry.lease("here", b"x", 60.0)
        assert dict(await registry.leases("")) == {"here": b"x"}
        after = await registry.transact([Change("b", 0, b"2")])
        assert after != revision


async def test_a_lease_ends_with_a_killed_process_and_a_successor_may_have_it(consul: ConsulServer) -> None:
    place = consul.place(f"leases-{secrets.token_hex(4)}/")
    async with empty(place) as registry:
        async with open_consul(place) as first:
            await first.lease("gw1", b"first", 60.0)
            assert dict(await registry.leases("")) == {"gw1": b"first"}
            await registry.lease("gw1", b"second", 60.0)
            assert dict(await first.leases("")) == {"gw1": b"second"}
        assert dict(await registry.leases("")) == {"gw1": b"second"}, "the first one's end takes nothing from it"
        await registry.end_leases()
        assert dict(await registry.leases("")) == {}


async def test_chunks_that_are_gone_are_damage_and_not_a_shorter_value(consul: ConsulServer) -> None:
    place = consul.place(f"damage-{secrets.token_hex(4)}/")
    async with empty(place) as registry:
        await registry.transact([Change("big", 0, b"x" * 2_000_000)])
        chunk = next(key for key in consul.keys(place.prefix) if "/chunk/" in key)
        consul.ask("PUT", f"/v1/kv/{chunk}", b"y")
        for step in (registry.get("big"), registry.read("")):
            with pytest.raises(InputError, match="not whole"):
                await step
        await registry.transact([Change("big", ANY, b"small")])
        record = await registry.get("big")
        assert record is not None and record.value == b"small"


async def test_tls_with_the_right_ca_and_no_other(consul_program: Path, estate: Estate) -> None:
    with new_consul(estate.path, estate, tls=True) as server:
        place = server.place()
        async with empty(place) as registry:
            await registry.transact([Change("a", 0, b"1")])
            with trio.fail_after(PATIENCE):
                assert await registry.watch(-1)
        other = ConsulPlace(address=place.address, prefix=place.prefix, token_file=place.token_file)
        async with open_consul(other) as registry:
            with pytest.raises(Unavailable, match="its certificate does not verify"):
                await registry.get("a")
        name = place.address.replace("127.0.0.1", "localhost")
        wrong = ConsulPlace(address=name, prefix=place.prefix, token_file=place.token_file, ca_file=place.ca_file)
        async with open_consul(wrong) as registry:
            with pytest.raises(Unavailable, match="its certificate does not verify"):
                await registry.get("a")
        no_ca = ConsulPlace(address=place.address, prefix=place.prefix, ca_file=place.token_file)
        with pytest.raises(InputError, match="CA of Consul cannot be read"):
            await _open(no_ca)
