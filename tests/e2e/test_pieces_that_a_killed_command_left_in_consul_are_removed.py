"""I/O: pieces of a large value that no record speaks of are removed in time, and no others, whoever writes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from agents.consul import open_consul
from inventory.errors import Unavailable
from inventory.registries import consul_chunks
from inventory.registries import consul_wire as wire
from inventory.registries.consul import ConsulRegistry
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.interface import ANY, Change
from tests.support.consul_server import ConsulServer

BIG = secrets.token_bytes(1_000_000)


@pytest.fixture
def place(consul: ConsulServer) -> ConsulPlace:
    return consul.place(f"pieces-{secrets.token_hex(4)}/")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consul_chunks, "ORPHANED_AFTER", 0.0)


@asynccontextmanager
async def two(place: ConsulPlace) -> AsyncIterator[tuple[ConsulRegistry, ConsulRegistry]]:
    """A gateway's registry, and a command's."""
    async with open_consul(place) as gateway, open_consul(place) as command:
        await gateway.store.begin()
        await gateway.store.become("ready")
        yield gateway, command


def pieces(consul: ConsulServer, place: ConsulPlace) -> int:
    return len([key for key in consul.keys(place.prefix) if "/chunk/" in key])


async def test_pieces_without_a_record_go_once_they_are_old(
    consul: ConsulServer, place: ConsulPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(place) as (gateway, command):
        assert await gateway.tidy() == 0, "nothing is there"
        await command.transact([Change("kept", 0, BIG)])
        await command.store.write_chunks(BIG[::-1])  # and is killed here
        await command.transact([Change("replaced", 0, BIG)])
        await command.transact([Change("replaced", ANY, b"small")])
        assert pieces(consul, place) == 9
        assert await gateway.tidy() == 0 and pieces(consul, place) == 9, "they may be somebody's at work"
        monkeypatch.setattr(consul_chunks, "ORPHANED_AFTER", 0.0)
        assert await gateway.tidy() == 2 and pieces(consul, place) == 3
        record = await gateway.get("kept")
        assert record is not None and record.value == BIG
        assert await gateway.tidy() == 0


@pytest.mark.usefixtures("at_once")
async def test_a_writer_whose_pieces_have_gone_changes_nothing(place: ConsulPlace) -> None:
    """It was stopped for so long, with SIGSTOP or with its whole machine."""
    async with two(place) as (gateway, command):
        write = command.store.write_chunks

        async def write_and_stop(value: bytes) -> wire.Manifest:
            manifest = await write(value)
            assert await gateway.tidy() == 1
            return manifest

        command.store.write_chunks = write_and_stop  # type: ignore[method-assign]
        with trio.fail_after(20), pytest.raises(Unavailable, match="took too long to write"):
            await command.transact([Change("big", 0, BIG), Change("other", 0, b"")])
        assert await gateway.get("big") is None and await gateway.get("other") is None


@pytest.mark.usefixtures("at_once")
async def test_pieces_that_get_their_record_after_the_look_stay(consul: ConsulServer, place: ConsulPlace) -> None:
    async with two(place) as (gateway, command):
        read = gateway.store.read
        write = command.store.write_chunks
        go, went, written = trio.Event(), trio.Event(), trio.Event()

        async def write_and_wait(value: bytes) -> wire.Manifest:
            manifest = await write(value)
            went.set()
            await go.wait()
            return manifest

        async def read_then_change(trees: Sequence[str]) -> Mapping[str, wire.Entry]:
            entries = await read(trees)
            gateway.store.read = read  # type: ignore[method-assign]
            go.set()
            await written.wait()
            return entries

        async def change() -> None:
            await command.transact([Change("big", 0, BIG)])
            written.set()

        command.store.write_chunks = write_and_wait  # type: ignore[method-assign]
        gateway.store.read = read_then_change  # type: ignore[method-assign,assignment]
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(change)
                await went.wait()
                assert await gateway.tidy() == 0
        record = await gateway.get("big")
        assert record is not None and record.value == BIG and pieces(consul, place) == 3
