"""Pure: what every registry must do, as functions that any implementation is run through.

    @pytest.mark.parametrize("check", CONTRACT)
    async def test_contract(check, registry): await check(registry)

Each takes an empty registry. Leases here live for a twentieth of a second, and nothing waits but on a watch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from inventory.errors import InputError
from inventory.registries.interface import ANY, CHANGES_MAX, Change, Conflict, Record, Registry

SHORT = 0.05
LONG = 60.0
PATIENCE = 10.0

Check = Callable[[Registry], Awaitable[None]]


async def values(registry: Registry, prefix: str = "") -> dict[str, bytes]:
    records, _ = await registry.read(prefix)
    return {key: record.value for key, record in records.items()}


async def version(registry: Registry, key: str) -> int:
    record = await registry.get(key)
    return record.version if record else 0


async def what_is_written_is_read(registry: Registry) -> None:
    assert await registry.get("a") is None
    await registry.transact(
        [Change("a", 0, b"1"), Change("b/c", ANY, b""), Change("big", ANY, bytes(range(256)) * 4096)]
    )
    record = await registry.get("a")
    assert record is not None and record == Record(b"1", record.version) and record.version > 0
    assert await values(registry) == {"a": b"1", "b/c": b"", "big": bytes(range(256)) * 4096}


async def a_prefix_reads_its_keys_in_order(registry: Registry) -> None:
    keys = ["log", "log/", "log/2", "log/10", "log/~", "log0", "lo", "LOG/1", "log/a/b", "log/%", "log/_"]
    await registry.transact([Change(key, 0, key.encode()) for key in keys])
    found = await values(registry, "log/")
    assert list(found) == sorted(key for key in keys if key.startswith("log/"))
    assert list(await values(registry)) == sorted(keys)
    assert await values(registry, "none") == {}


async def a_transaction_is_all_or_nothing(registry: Registry) -> None:
    await registry.transact([Change("held", 0, b"1")])
    before = await registry.read("")
    for wrong in (Change("held", 0, b"2"), Change("missing", 7, b"2"), Change("held", 10**9, None)):
        with pytest.raises(Conflict) as caught:
            await registry.transact([Change("new", ANY, b""), Change("held2", ANY, b""), wrong])
        assert caught.value.key == wrong.key
    assert await registry.read("") == before


async def compare_and_set_expects_a_version(registry: Registry) -> None:
    await registry.transact([Change("a", 0, b"1")])
    first = await version(registry, "a")
    await registry.transact([Change("a", first, b"2")])
    second = await version(registry, "a")
    assert second > first
    with pytest.raises(Conflict):
        await registry.transact([Change("a", first, b"3")])
    await registry.transact([Change("a", second, b"2")])
    assert await version(registry, "a") > second, "writing the same value is a change"


async def a_deleted_key_never_has_an_old_version_again(registry: Registry) -> None:
    await registry.transact([Change("a", 0, b"1")])
    first = await version(registry, "a")
    await registry.transact([Change("a", first, None)])
    assert await registry.get("a") is None and await version(registry, "a") == 0
    await registry.transact([Change("a", 0, b"1")])
    assert await version(registry, "a") > first
    await registry.transact([Change("a", ANY, None), Change("never", ANY, None)])
    assert await values(registry) == {}


async def a_key_occurs_once_in_a_transaction(registry: Registry) -> None:
    with pytest.raises(InputError):
        await registry.transact([Change("a", ANY, b"1"), Change("a", ANY, b"2")])
    assert await values(registry) == {}


async def a_large_value_is_a_value_like_any_other(registry: Registry) -> None:
    """Larger than one request to some stores; the largest that may be is a policy."""
    large = bytes(range(256)) * 6000
    await registry.transact([Change("a", 0, large), Change("b", 0, b"1"), Change("c", 0, large + b"c")])
    first = await version(registry, "a")
    with pytest.raises(Conflict):
        await registry.transact([Change("b", ANY, b"2"), Change("a", first + 1, large + b"2")])
    assert await values(registry) == {"a": large, "b": b"1", "c": large + b"c"}
    await registry.transact([Change("a", first, large[::-1]), Change("c", ANY, None)])
    assert await values(registry) == {"a": large[::-1], "b": b"1"}


async def as_many_changes_as_promised_are_one_transaction(registry: Registry) -> None:
    wanted = {f"many/{number:02}": b"x" * 9000 for number in range(CHANGES_MAX)}
    changes = [Change(key, 0, value) for key, value in wanted.items()]
    with pytest.raises(Conflict):
        await registry.transact([*changes[:-1], Change("last", 7, b"")])
    assert await values(registry) == {}
    await registry.transact(changes)
    assert await values(registry) == wanted


async def bad_keys_are_refused(registry: Registry) -> None:
    for key in ("", "a b", "a\0", "a\n", "é", "k" * 513):
        with pytest.raises(InputError):
            Change(key, ANY, b"")
        with pytest.raises(InputError):
            await registry.lease(key, b"", LONG)
    await registry.transact([Change("k" * 512, 0, b"")])


async def one_of_many_wins_a_race(registry: Registry) -> None:
    outcomes: list[bool] = []

    async def attempt(number: int) -> None:
        try:
            await registry.transact([Change("prize", 0, b"%d" % number), Change(f"winner/{number}", 0, b"")])
            outcomes.append(True)
        except Conflict:
            outcomes.append(False)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(attempt, number)
    assert sorted(outcomes) == [False] * 19 + [True]
    prize = (await values(registry))["prize"].decode()
    assert await values(registry) == {"prize": prize.encode(), f"winner/{prize}": b""}


async def a_revision_changes_with_every_change_and_only_then(registry: Registry) -> None:
    _, start = await registry.read("")
    after = await registry.transact([Change("a", ANY, b"")])
    assert after != start and await registry.read("zzz") == ({}, after)
    with pytest.raises(Conflict):
        await registry.transact([Change("a", 0, b"")])
    assert (await registry.read(""))[1] == after


async def a_watch_returns_at_once_when_it_is_behind(registry: Registry) -> None:
    _, start = await registry.read("")
    after = await registry.transact([Change("a", ANY, b"")])
    with trio.fail_after(PATIENCE):
        assert await registry.watch(start) == after


async def a_watch_tells_every_watcher(registry: Registry) -> None:
    _, start = await registry.read("")
    told: list[int] = []

    async def watch() -> None:
        told.append(await registry.watch(start))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            assert told == []
            after = await registry.transact([Change("a", ANY, b"")])
    assert told == [after] * 3


async def a_watch_misses_no_final_state(registry: Registry) -> None:
    _, revision = await registry.read("")
    last = b"%d" % 30

    async def write() -> None:
        for number in range(31):
            await registry.transact([Change("a", ANY, b"%d" % number)])

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while (await values(registry)).get("a") != last:
                revision = await registry.watch(revision)


async def a_lease_is_there_and_is_no_record(registry: Registry) -> None:
    await registry.lease("host/a", b"1", LONG)
    await registry.lease("host/b", b"2", LONG)
    await registry.lease("other", b"3", LONG)
    assert dict(await registry.leases("host/")) == {"host/a": b"1", "host/b": b"2"}
    assert list(await registry.leases("")) == ["host/a", "host/b", "other"]
    assert await values(registry) == {} and await registry.get("other") is None


async def a_lease_vanishes_and_its_watchers_hear_of_it(registry: Registry) -> None:
    await registry.lease("long", b"", LONG)
    await registry.lease("short", b"", SHORT)
    _, revision = await registry.read("")
    with trio.fail_after(PATIENCE):
        while "short" in await registry.leases(""):
            revision = await registry.watch(revision)
    assert list(await registry.leases("")) == ["long"]


async def a_renewed_lease_lives_and_is_no_news(registry: Registry) -> None:
    await registry.lease("a", b"1", SHORT)
    await registry.lease("a", b"1", LONG)
    _, revision = await registry.read("")
    await registry.lease("a", b"1", LONG)
    assert (await registry.read(""))[1] == revision
    await registry.lease("marker", b"", SHORT)
    with trio.fail_after(PATIENCE):
        while "marker" in await registry.leases(""):
            revision = await registry.watch(revision)
    assert dict(await registry.leases("")) == {"a": b"1"}


async def new_changed_and_released_leases_are_news(registry: Registry) -> None:
    _, revision = await registry.read("")
    for change in (
        partial(registry.lease, "a", b"1", LONG),
        partial(registry.lease, "a", b"2", LONG),
        partial(registry.release, "a"),
    ):
        await change()
        with trio.fail_after(PATIENCE):
            revision = await registry.watch(revision)
    assert await registry.leases("") == {}
    await registry.release("a")
    assert (await registry.read(""))[1] == revision


CONTRACT: list[Check] = [
    what_is_written_is_read,
    a_prefix_reads_its_keys_in_order,
    a_transaction_is_all_or_nothing,
    compare_and_set_expects_a_version,
    a_deleted_key_never_has_an_old_version_again,
    a_key_occurs_once_in_a_transaction,
    a_large_value_is_a_value_like_any_other,
    as_many_changes_as_promised_are_one_transaction,
    bad_keys_are_refused,
    one_of_many_wins_a_race,
    a_revision_changes_with_every_change_and_only_then,
    a_watch_returns_at_once_when_it_is_behind,
    a_watch_tells_every_watcher,
    a_watch_misses_no_final_state,
    a_lease_is_there_and_is_no_record,
    a_lease_vanishes_and_its_watchers_hear_of_it,
    a_renewed_lease_lives_and_is_no_news,
    new_changed_and_released_leases_are_news,
]
