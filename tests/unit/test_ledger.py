"""I/O: what a gateway reads from its registry: only forward, and all that belongs together at once."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from agents.knowledge.ledger import POLICY_PREFIX, Ledger
from agents.knowledge.seen import SEEN_FILE, read_seen
from inventory.authority import AuthorityError, AuthorityFork, encode_signed
from inventory.authority.entries import payload_hash
from inventory.authority.log import HEAD_KEY, Head, log_key
from inventory.errors import InputError, Unavailable
from inventory.policy_document import build
from tests.support.authority import Chain, host, revoke
from tests.support.estates import rule
from tests.support.memory_registry import MemoryRegistry

ALLOW = rule("vm2 reads web", "allow", "host:vm2", "web")


class Estate:
    """A registry with a log in it, and a ledger that reads it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.registry = MemoryRegistry()
        self.chain = Chain(host("vm1"))
        self.publish()

    def publish(self, chain: Chain | None = None) -> None:
        """Write the whole chain, as a registry that may lie."""
        log = (chain or self.chain).log
        for number, signed in enumerate(log, 1):
            self.registry.put(log_key(number), encode_signed(signed))
        head = Head(len(log), payload_hash(log[-1].payload))
        self.registry.put(HEAD_KEY, msgspec.json.encode(head))

    def policy(self, *, with_document: bool = True) -> None:
        body, document = build([ALLOW], "text", random_bytes=random.Random(1).randbytes)
        self.chain.add(body)
        if with_document:
            self.registry.put(f"{POLICY_PREFIX}{len(self.chain.log)}", msgspec.json.encode(document))
        self.publish()

    def ledger(self) -> Ledger:
        return Ledger(self.registry, self.home, self.chain.fingerprint)


async def test_the_log_its_latest_entries_and_the_rules_come_together(tmp_path: Path) -> None:
    estate = Estate(tmp_path)
    estate.policy()
    ledger = estate.ledger()
    await ledger.load()
    assert ledger.state.number == 3 and set(ledger.latest) == {"domain", "host/vm1", "policy"}
    assert ledger.allows == (ALLOW,) and ledger.slicer is not None
    assert not await ledger.refresh(), "nothing is new"
    estate.chain.add(revoke("vm1"))
    estate.publish()
    assert await ledger.refresh()
    assert ledger.state.revoked_identities and ledger.allows == (ALLOW,)


async def test_a_policy_whose_rules_are_missing_does_not_count_until_they_are_there(tmp_path: Path) -> None:
    estate = Estate(tmp_path)
    estate.policy()
    ledger = estate.ledger()
    await ledger.load()
    before = ledger.state, ledger.latest, ledger.allows
    estate.policy(with_document=False)
    for _ in range(2):
        with pytest.raises(InputError, match="policy of entry 4 is missing"):
            await ledger.refresh()
        assert (ledger.state, ledger.latest, ledger.allows) == before
    _, document = build([ALLOW], "text", random_bytes=random.Random(1).randbytes)
    estate.registry.put(f"{POLICY_PREFIX}4", msgspec.json.encode(document))
    assert await ledger.refresh() and ledger.state.number == 4


async def test_rules_that_are_not_the_signed_ones_do_not_count(tmp_path: Path) -> None:
    estate = Estate(tmp_path)
    estate.policy(with_document=False)
    _, other = build([rule("all", "allow", "host:**", "web")], "text")
    estate.registry.put(f"{POLICY_PREFIX}3", msgspec.json.encode(other))
    with pytest.raises(InputError, match="not the ones that were signed"):
        await estate.ledger().load()


async def test_f34_a_registry_that_went_back_is_refused_while_running(tmp_path: Path) -> None:
    estate = Estate(tmp_path)
    estate.chain.add(revoke("vm1"))
    estate.publish()
    ledger = estate.ledger()
    await ledger.load()
    estate.publish(Chain(host("vm1")))
    with pytest.raises(AuthorityError, match="the registry went back"):
        await ledger.refresh()
    assert ledger.state.revoked_identities, "what was revoked stays revoked"


async def test_f34_a_registry_that_went_back_is_refused_after_a_restart(tmp_path: Path) -> None:
    estate = Estate(tmp_path)
    estate.chain.add(revoke("vm1"))
    estate.publish()
    ledger = estate.ledger()
    await ledger.load()
    await ledger.remember()
    estate.publish(Chain(host("vm1")))
    with pytest.raises(AuthorityError, match="the registry went back"):
        await estate.ledger().load()


async def test_f34_a_log_of_the_same_length_that_says_something_else_is_a_fork(tmp_path: Path) -> None:
    estate = Estate(tmp_path)
    ledger = estate.ledger()
    await ledger.load()
    await ledger.remember()
    estate.publish(Chain(host("vm2")))
    with pytest.raises(AuthorityFork):
        await estate.ledger().load()
    with pytest.raises(AuthorityFork):
        await ledger.refresh()


async def test_what_was_seen_is_written_once_and_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = Estate(tmp_path)
    ledger = estate.ledger()
    await ledger.load()
    assert read_seen(tmp_path) is None
    await ledger.remember()
    seen = read_seen(tmp_path)
    assert seen is not None and (seen.number, seen.head) == (2, ledger.state.head)
    monkeypatch.setattr("agents.knowledge.seen.write_file", None)
    await ledger.remember()


async def test_f04_a_full_disk_does_not_keep_a_revocation_from_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise Unavailable("no space left")

    monkeypatch.setattr("agents.knowledge.seen.write_file", full)
    estate = Estate(tmp_path)
    estate.chain.add(revoke("vm1"))
    estate.publish()
    ledger = estate.ledger()
    await ledger.load()
    with pytest.raises(Unavailable):
        await ledger.remember()
    assert ledger.state.revoked_identities
    with pytest.raises(Unavailable):
        await ledger.remember()


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"number":"x","head":""}', b"[" * 100])
async def test_a_damaged_seen_file_is_named_with_what_to_do(tmp_path: Path, damage: bytes) -> None:
    estate = Estate(tmp_path)
    (tmp_path / SEEN_FILE).write_bytes(damage)
    with pytest.raises(InputError) as caught:
        await estate.ledger().load()
    assert caught.value.where == str(tmp_path / SEEN_FILE) and "put it back" in caught.value.hint
