"""I/O: backup and restore of the registry: what a backup revives, what a restore believes, what hosts make of it."""

# ruff: noqa: ASYNC240 - nothing else runs while a test prepares its files

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from agents import clock
from agents.estate import Home, HomeConfig, load_config, store_config
from agents.knowledge.ledger import Ledger
from agents.knowledge.seen import SEEN_FILE
from agents.knowledge.verified_log import VerifiedLog
from agents.operating.policy import read_policy
from agents.operating.registry_copies import LOST_MAX, backup, restore
from inventory.authority import (
    Body,
    SignedEntry,
    Slice,
    StaleEntry,
    TokenRefused,
    append,
    genesis_fingerprint,
    read_log,
    spend_invite,
    verify_entry,
)
from inventory.errors import InputError, Unavailable
from inventory.home import lock_home, make_home, write_secret
from inventory.policy_document import build
from inventory.policy_rules import Rule
from inventory.registries.embedded import open_embedded
from tests.support import authority as say
from tests.support.authority import ALICE, BOB, digest

RULE = Rule(name="vm2 reads the web", effect="allow", sources=("host:vm2",), to=("web",))


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """An operator's home: a domain, a gateway, a host, and a policy at entry 4."""
    home = tmp_path / "op"
    make_home(home)
    write_secret(Home(home).operator_key, ALICE.to_bytes())
    signed = await add(home, say.domain(), say.gateway(), say.host("vm1", "web"))
    config = HomeConfig(
        role="gateway", name="gw1", trust_domain=say.TRUST_DOMAIN, genesis=genesis_fingerprint(signed[0])
    )
    store_config(home, config)
    await add_policy(home)
    return home


async def add(home: Path, *bodies: Body) -> list[SignedEntry]:
    async with open_embedded(Home(home).registry) as registry:
        return await append(registry, ALICE, bodies, message="test", now=clock.now())


async def add_policy(home: Path, rule: Rule = RULE) -> None:
    body, document = build([rule], rule.name)
    async with open_embedded(Home(home).registry) as registry:
        attached = {"policy/<number>": msgspec.json.encode(document)}
        await append(registry, ALICE, [body], message="test", now=clock.now(), attachments=attached)


async def seen_by_gateway(home: Path) -> None:
    """As a gateway that runs on this home for a moment."""
    async with open_embedded(Home(home).registry) as registry:
        ledger = Ledger(registry, home, config_of(home).genesis)
        await ledger.load()
        await ledger.remember()


def config_of(home: Path) -> HomeConfig:
    return load_config(home)


async def entries(home: Path) -> list[SignedEntry]:
    async with open_embedded(Home(home).registry) as registry:
        return await read_log(registry)


def told(signed: Sequence[SignedEntry]) -> list[SignedEntry]:
    """What a host that sees everything is sent: the newest entry of every key but tokens."""
    latest = {verify_entry(entry).key: entry for entry in signed}
    return [entry for key, entry in latest.items() if not key.startswith("invite/")]


async def test_a_backup_is_one_private_file_and_the_way_back(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    assert (await backup(home, copy)).number == 4
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    before = await entries(home)
    restored = await restore(home, copy)
    assert (restored.backup_number, restored.number, restored.lost) == (4, 4, None)
    assert restored.aside is not None and (restored.aside / "registry.db").exists()
    assert stat.S_IMODE(restored.aside.stat().st_mode) == 0o700
    assert await entries(home) == before


async def test_a_lost_registry_comes_back_and_the_gateway_takes_it(home: Path, tmp_path: Path) -> None:
    await seen_by_gateway(home)
    await backup(home, tmp_path / "backup.db")
    Home(home).registry.unlink()
    assert (await restore(home, tmp_path / "backup.db")).aside is None
    await seen_by_gateway(home)


async def test_c20_f34_a_restored_backup_revives_no_token(home: Path, tmp_path: Path) -> None:
    invite = say.invite(expires_at=int(clock.now()) + 3600)
    await add(home, invite)
    copied = await backup(home, tmp_path / "backup.db")
    assert copied.closed == 1
    await restore(home, tmp_path / "backup.db")
    async with open_embedded(Home(home).registry) as registry:
        with pytest.raises(TokenRefused) as caught:
            await spend_invite(registry, invite, key=digest("key"), source="a", now=clock.now())
    assert "restored from a backup" in caught.value.detail


async def test_an_older_backup_is_replaced_and_anything_else_is_left_alone(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    await backup(home, copy)
    await add(home, say.host("vm2"))
    assert (await backup(home, copy)).number == 5
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(InputError, match="there is something else already"):
        await backup(home, other)
    with pytest.raises(InputError, match="this is the registry itself"):
        await backup(home, Home(home).registry)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is something else already"):
        await backup(home, tmp_path / "link")
    assert other.read_text() == "mine"


async def test_a_restore_is_refused_while_a_gateway_runs(home: Path, tmp_path: Path) -> None:
    await backup(home, tmp_path / "backup.db")
    with lock_home(home), pytest.raises(Unavailable, match="another meshbridge node runs"):
        await restore(home, tmp_path / "backup.db")


async def test_f34_a_backup_older_than_what_was_seen_is_refused(home: Path, tmp_path: Path) -> None:
    await backup(home, tmp_path / "backup.db")
    await add(home, say.host("vm2"), say.host("vm3"))
    await seen_by_gateway(home)
    before = await entries(home)
    for past in (None, 5):
        with pytest.raises(InputError, match="the backup ends at entry 4, entry 6 was seen here") as caught:
            await restore(home, tmp_path / "backup.db", past=past)
        assert "--past 6" in caught.value.hint
    assert await entries(home) == before
    assert sorted(path.name for path in home.iterdir() if "tmp" in path.name or "before" in path.name) == []


async def test_f34_hosts_that_hold_the_lost_entries_take_what_is_restored_past_them(home: Path, tmp_path: Path) -> None:
    await backup(home, tmp_path / "backup.db")
    other = Rule(name="nobody", effect="allow", sources=("host:vm9",), to=("web",))
    await add(home, say.host("vm1"), say.host("vm2"))
    await add_policy(home, other)
    await seen_by_gateway(home)
    ahead = await entries(home)
    host = Slice.start(ahead[0], config_of(home).genesis).applied(told(ahead[1:]))

    with_copy = await restore(home, tmp_path / "backup.db", past=7)
    assert with_copy.lost == (5, 7)
    restored = await entries(home)
    assert len(restored) == with_copy.number == 10
    with pytest.raises(StaleEntry):  # what a plain copy of the file would lead to
        host.applied([restored[2]])
    state = host.applied(told(restored)).state
    assert state.hosts["vm1"].serves == ("web",)
    assert (state.policy_number, state.number) == (10, 10)
    async with open_embedded(Home(home).registry) as registry:
        log = VerifiedLog(registry, config_of(home).genesis)
        await log.refresh()
        assert (await read_policy(registry, log.state)).allows == (RULE,)
    assert with_copy.aside is not None and (with_copy.aside / SEEN_FILE).exists()
    await seen_by_gateway(home)


async def test_a_restore_past_lost_entries_can_itself_be_restored(home: Path, tmp_path: Path) -> None:
    await backup(home, tmp_path / "old.db")
    await add(home, say.host("vm2"))
    await seen_by_gateway(home)
    await restore(home, tmp_path / "old.db", past=5)
    await backup(home, tmp_path / "new.db")
    await seen_by_gateway(home)
    assert (await restore(home, tmp_path / "new.db")).lost is None
    assert (await restore(home, tmp_path / "old.db", past=20)).lost == (5, 20)


async def test_a_loss_that_must_be_a_typing_error_is_refused(home: Path, tmp_path: Path) -> None:
    await backup(home, tmp_path / "backup.db")
    with pytest.raises(InputError, match=f"more than {LOST_MAX} entries would be lost"):
        await restore(home, tmp_path / "backup.db", past=LOST_MAX + 5)


async def test_a_backup_of_another_trust_domain_is_refused(home: Path, tmp_path: Path) -> None:
    async with open_embedded(tmp_path / "other.db") as registry:
        await append(registry, BOB, [say.domain()], message="", now=clock.now())
    with pytest.raises(InputError, match="another trust domain"):
        await restore(home, tmp_path / "other.db")


async def test_a_forged_or_damaged_backup_is_refused(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    await backup(home, copy)
    before = await entries(home)
    with sqlite3.connect(copy) as connection:
        connection.execute("UPDATE records SET value = replace(value, 'a', 'b') WHERE key LIKE 'log/%3'")
    connection.close()
    with pytest.raises(InputError, match="this backup cannot be used"):
        await restore(home, copy)
    copy.write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(InputError) as caught:
        await restore(home, copy)
    assert "rm -f" not in caught.value.hint
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="this is no backup of a registry"):
        await restore(home, tmp_path / "text")
    with pytest.raises(InputError, match="there is no such file"):
        await restore(home, tmp_path / "missing")
    assert await entries(home) == before


async def test_a_backup_without_its_policys_rules_is_refused(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backup.db"
    await backup(home, copy)
    with sqlite3.connect(copy) as connection:
        connection.execute("DELETE FROM records WHERE key LIKE 'policy/%'")
    connection.close()
    with pytest.raises(InputError, match="policy"):
        await restore(home, copy)


async def test_a_host_has_nothing_to_back_up(home: Path, tmp_path: Path) -> None:
    guest = tmp_path / "vm1"
    make_home(guest)
    config = config_of(home)
    store_config(guest, HomeConfig(role="host", name="vm1", trust_domain=config.trust_domain, genesis=config.genesis))
    for attempt in (backup, restore):
        with pytest.raises(InputError, match="has no registry"):
            await attempt(guest, tmp_path / "backup.db")


async def test_without_the_operators_key_nothing_is_given_up(home: Path, tmp_path: Path) -> None:
    await backup(home, tmp_path / "backup.db")
    await add(home, say.host("vm2"))
    await seen_by_gateway(home)
    Home(home).operator_key.rename(tmp_path / "operator.key")
    before = await entries(home)
    with pytest.raises(InputError, match="holds no operator key"):
        await restore(home, tmp_path / "backup.db", past=5)
    assert await entries(home) == before
