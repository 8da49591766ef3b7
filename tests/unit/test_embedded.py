"""I/O: the embedded registry: the contract, and what is its own: the file, its errors, its backup, other processes."""

# ruff: noqa: ASYNC240 - nothing else runs while a test prepares its files

from __future__ import annotations

import os
import re
import resource
import sqlite3
import stat
from functools import partial
from pathlib import Path

import pytest
import trio

from inventory.authority import TokenRefused, append, read_log, read_refusals, spend_invite, verify_log
from inventory.errors import InputError, Unavailable
from inventory.registries.embedded import POLL_INTERVAL, open_embedded
from inventory.registries.interface import ANY, Change, Registry
from inventory.registries.sqlite_file import SCHEMA_VERSION
from tests.support import authority as say
from tests.support.authority import ALICE, NOW
from tests.support.memory_registry import MemoryRegistry
from tests.support.registry_contract import CONTRACT, PATIENCE, Check, values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_contract(check: Check, path: Path) -> None:
    async with open_embedded(path) as registry:
        await check(registry)


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
async def test_contract_of_the_double(check: Check) -> None:
    await check(MemoryRegistry())


async def test_a_registry_survives_its_process_and_leases_do_not(path: Path) -> None:
    async with open_embedded(path) as registry:
        await registry.transact([Change("a", 0, b"1")])
        await registry.lease("l", b"", 60)
        before = await registry.get("a")
    async with open_embedded(path) as registry:
        assert await registry.get("a") == before
        assert await registry.leases("") == {}


async def test_all_its_files_are_the_owners_only(path: Path) -> None:
    before = os.umask(0)
    try:
        async with open_embedded(path) as registry:
            await registry.transact([Change("a", 0, b"1")])
            await registry.backup(path.with_name("backup.db"))
            found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert {"registry.db", "registry.db-wal", "backup.db"} <= found.keys()
    assert set(found.values()) == {0o600}
    assert sorted(p.name for p in path.parent.iterdir()) == ["backup.db", "registry.db"]


async def test_a_change_by_another_connection_is_seen_at_once_when_nudged(path: Path) -> None:
    async with open_embedded(path) as here, open_embedded(path) as there:
        _, revision = await here.read("")
        with trio.fail_after(POLL_INTERVAL / 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.watch, revision)
                await trio.testing.wait_all_tasks_blocked()
                await there.transact([Change("a", 0, b"1")])
                here.nudge()
        assert await values(here) == {"a": b"1"}


async def test_a_change_by_another_connection_is_seen_without_a_nudge(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inventory.registries.embedded.POLL_INTERVAL", 0.02)
    async with open_embedded(path) as here, open_embedded(path) as there:
        _, revision = await here.read("")
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.watch, revision)
                await trio.testing.wait_all_tasks_blocked()
                await there.transact([Change("a", 0, b"1")])


async def test_two_connections_share_one_compare_and_set(path: Path) -> None:
    async with open_embedded(path) as here, open_embedded(path) as there:
        outcomes: list[bool] = []

        async def attempt(registry: Registry, number: int) -> None:
            try:
                await registry.transact([Change(f"slot/{number}", 0, b"")])
                outcomes.append(True)
            except Unavailable:
                outcomes.append(False)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(attempt, here, number)
                nursery.start_soon(attempt, there, number)
        assert sorted(outcomes) == [False] * 10 + [True] * 10


async def test_a_cancelled_writer_knows_what_it_did(path: Path) -> None:
    async with open_embedded(path) as registry:
        for number in range(20):
            done = False
            with trio.move_on_after(0.0005 * (number % 5)):
                await registry.transact([Change(f"k{number}", 0, b"")])
                done = True
            assert (await registry.get(f"k{number}") is not None) == done


@pytest.mark.parametrize("bits", [0o644, 0o660, 0o604])
async def test_f28_a_registry_that_others_can_reach_is_refused_with_the_chmod(path: Path, bits: int) -> None:
    async with open_embedded(path):
        pass
    path.chmod(bits)
    with pytest.raises(InputError, match=f"mode {bits:04o}") as caught:
        async with open_embedded(path):
            pass
    assert caught.value.hint == f"chmod 600 {path}"


async def test_f28_a_registry_that_cannot_be_created_says_where(path: Path) -> None:
    missing = path.parent / "nowhere" / "registry.db"
    with pytest.raises(Unavailable, match=r"nowhere/registry.db: .*No such file"):
        async with open_embedded(missing):
            pass
    path.symlink_to(path.parent / "elsewhere.db")
    with pytest.raises(Unavailable, match="cannot be opened"):
        async with open_embedded(path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_f28_a_read_only_registry_says_what_to_do(path: Path) -> None:
    async with open_embedded(path):
        pass
    path.chmod(0o400)
    with pytest.raises(Unavailable) as caught:
        async with open_embedded(path):
            pass
    assert "chmod" in caught.value.hint


async def test_f26_a_full_disk_refuses_the_change_and_keeps_the_old(path: Path) -> None:
    async with open_embedded(path) as registry:
        await registry.transact([Change("a", 0, b"old")])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, hard))
        try:
            with pytest.raises(Unavailable, match=re.escape(str(path))) as caught:
                await registry.transact([Change("a", ANY, b"new"), Change("b", ANY, bytes(1024 * 1024))])
            with pytest.raises(Unavailable, match=r"no space|disk is full"):
                await registry.backup(path.with_name("full.db"), [Change("b", ANY, bytes(1024 * 1024))])
            with pytest.raises(Unavailable, match="x: the backup cannot be written"):
                await registry.backup(path.with_name("x" * 300))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "disk" in caught.value.hint or "free space" in caught.value.hint
        assert await values(registry) == {"a": b"old"}
        await registry.transact([Change("b", 0, b"again")])
    assert [p.name for p in path.parent.iterdir()] == ["registry.db"]


async def test_f26_sqlite_full_is_named(path: Path) -> None:
    async with open_embedded(path) as registry:
        await registry._run(lambda connection: connection.execute("PRAGMA max_page_count = 8").fetchone())
        with pytest.raises(Unavailable, match="no space left for the registry") as caught:
            await registry.transact([Change("b", ANY, bytes(1024 * 1024))])
        assert caught.value.hint == f"free space on the file system of {path.parent}"
        await registry.transact([Change("a", 0, b"small")])


@pytest.mark.parametrize("damage", ["header", "middle", "text"])
async def test_a_damaged_registry_is_named_with_the_way_out(path: Path, damage: str) -> None:
    async with open_embedded(path) as registry:
        await registry.transact([Change(f"k{i}", 0, bytes(1000)) for i in range(200)])
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:16] = b"x" * 16
    elif damage == "middle":
        content[4096:] = os.urandom(len(content) - 4096)
    else:
        content = bytearray(b"hello\n" * 1000)
    path.write_bytes(content)
    with pytest.raises(Unavailable, match=r"damaged|not a registry") as caught:
        async with open_embedded(path) as registry:
            await registry.read("")
    assert caught.value.where == str(path) and "backup" in caught.value.hint


@pytest.mark.parametrize("content", [b"hello\n" * 1000, b"x" * 100], ids=["text", "short"])
async def test_a_file_that_is_no_registry_is_left_closed(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []

    def connect(*args: object, **options: object) -> sqlite3.Connection:
        opened.append(original(*args, **options))  # type: ignore[call-overload]
        return opened[-1]

    original = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(Unavailable, match="not a registry"):
        async with open_embedded(path):
            pass
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")
    assert opened


async def test_another_programs_database_is_not_touched(path: Path) -> None:
    path.touch(0o600)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a registry"):
        async with open_embedded(path):
            pass
    assert path.read_bytes() == before


async def test_a_later_format_is_refused(path: Path) -> None:
    async with open_embedded(path) as registry:
        await registry._run(lambda connection: connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}"))
    with pytest.raises(InputError, match="format 2, this program knows 1"):
        async with open_embedded(path):
            pass


async def test_a_busy_registry_says_who_is_in_the_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inventory.registries.sqlite_file.BUSY_TIMEOUT", 0.01)
    async with open_embedded(path) as registry, open_embedded(path) as other:
        await other._run(lambda connection: connection.execute("BEGIN IMMEDIATE"))
        with pytest.raises(Unavailable, match="locked by another process"):
            await registry.transact([Change("a", 0, b"")])
        await other._run(lambda connection: connection.execute("ROLLBACK"))


async def test_a_backup_taken_while_writing_is_one_moment(path: Path) -> None:
    copy = path.with_name("backup.db")
    async with open_embedded(path) as registry:
        await registry.transact([Change("left", 0, b"-1"), Change("right", 0, b"-1")])

        async def write() -> None:
            for number in range(40):
                await registry.transact([Change("left", ANY, b"%d" % number), Change("right", ANY, b"%d" % number)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(5):
                await registry.backup(copy, [Change("mark", ANY, b"")])
                async with open_embedded(copy) as restored:
                    found = await values(restored)
                assert found["left"] == found["right"] and found["mark"] == b""
        assert "mark" not in await values(registry)


async def test_a_backup_that_cannot_be_written_leaves_nothing(path: Path) -> None:
    async with open_embedded(path) as registry:
        with pytest.raises(Unavailable):
            await registry.backup(path.parent / "nowhere" / "backup.db")
        (path.parent / "taken").mkdir()
        with pytest.raises(Unavailable, match="taken: the backup cannot be written"):
            await registry.backup(path.parent / "taken")
    assert sorted(p.name for p in path.parent.iterdir()) == ["registry.db", "taken"]


async def test_c19_fifty_at_once_make_one_identity_in_sqlite(path: Path) -> None:
    wins: list[str] = []
    async with open_embedded(path) as registry:

        async def one(number: int) -> None:
            key = say.digest(str(number))
            try:
                await spend_invite(registry, say.invite(), key=key, source=str(number), now=NOW)
                wins.append(key)
            except TokenRefused:
                pass

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(partial(one, number))
        assert len(wins) == 1
        assert len({refusal.source for refusal in await read_refusals(registry, "invite-1")}) == 49


async def test_the_log_lives_in_it(path: Path) -> None:
    async with open_embedded(path) as registry:
        await append(registry, ALICE, [say.domain(), say.host(), say.policy()], message="", now=NOW)
    async with open_embedded(path) as registry:
        assert verify_log(await read_log(registry)).hosts.keys() == {"vm1"}
