"""Pure: the log of one registry is believed as far as it was verified, and only forward."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
import trio
import trio.testing

from agents.knowledge.verified_log import VerifiedLog
from inventory.authority import AuthorityError, AuthorityFork, encode_signed
from inventory.authority.entries import payload_hash
from inventory.authority.log import HEAD_KEY, Head, log_key
from inventory.errors import Unavailable
from inventory.registries.interface import Record
from tests.support.authority import MALLORY, Chain, host
from tests.support.memory_registry import MemoryRegistry


def write(registry: MemoryRegistry, chain: Chain, *, head: int | None = None) -> None:
    for number, signed in enumerate(chain.log, 1):
        registry.put(log_key(number), encode_signed(signed))
    number = len(chain.log) if head is None else head
    registry.put(HEAD_KEY, msgspec.json.encode(Head(number, payload_hash(chain.log[number - 1].payload))))


async def test_it_reads_what_is_new_and_keeps_the_newest_entry_of_every_key() -> None:
    registry, chain = MemoryRegistry(), Chain(host("vm1"), host("vm2"), host("vm1", "web"))
    write(registry, chain)
    log = VerifiedLog(registry, chain.fingerprint)
    assert await log.refresh() and not await log.refresh()
    assert log.state.number == 4 and log.latest["host/vm1"] == chain.log[3]
    before = log.latest
    chain.add(host("vm2", removed=True))
    write(registry, chain)
    assert await log.refresh()
    assert log.latest["host/vm2"] == chain.log[4], "removals are entries too"
    assert before["host/vm2"] == chain.log[2], "whoever took the old mapping keeps it as it was"


async def test_the_log_of_another_trust_domain_is_refused() -> None:
    registry = MemoryRegistry()
    write(registry, Chain(host("vm1")))
    log = VerifiedLog(registry, "0" * 64)
    with pytest.raises(AuthorityError, match="another trust domain"):
        await log.refresh()
    assert log.state.number == 0 and not log.latest


async def test_an_empty_registry_is_no_log() -> None:
    with pytest.raises(AuthorityError, match="holds no log"):
        await VerifiedLog(MemoryRegistry(), "0" * 64).refresh()


async def test_a_batch_with_one_bad_entry_changes_nothing() -> None:
    registry, chain = MemoryRegistry(), Chain(host("vm1"))
    write(registry, chain)
    log = VerifiedLog(registry, chain.fingerprint)
    await log.refresh()
    chain.add(host("vm2"))
    chain.add(host("vm3"), by=MALLORY)
    write(registry, chain)
    with pytest.raises(AuthorityError, match="not an operator"):
        await log.refresh()
    assert log.state.number == 2 and "host/vm2" not in log.latest


async def test_f34_a_log_that_is_shorter_or_different_is_refused() -> None:
    registry, chain = MemoryRegistry(), Chain(host("vm1"), host("vm2"))
    write(registry, chain)
    log = VerifiedLog(registry, chain.fingerprint)
    await log.refresh()
    write(registry, chain, head=2)
    with pytest.raises(AuthorityError, match="went back"):
        await log.refresh()
    write(registry, Chain(host("vm1"), host("vm3")))
    with pytest.raises(AuthorityFork):
        await log.refresh()
    longer = Chain(host("vm1"), host("vm3"), host("vm4"))
    write(registry, longer)
    with pytest.raises(AuthorityFork):
        await log.refresh()
    assert log.state.number == 3 and set(log.state.hosts) == {"vm1", "vm2"}


async def test_readers_at_the_same_time_read_it_once(nursery: trio.Nursery) -> None:
    registry, chain = MemoryRegistry(), Chain(*(host(f"vm{n}") for n in range(5)))
    write(registry, chain)
    log = VerifiedLog(registry, chain.fingerprint)
    for _ in range(5):
        nursery.start_soon(log.refresh)
    await trio.testing.wait_all_tasks_blocked()
    assert log.state.number == 6


async def test_a_registry_that_does_not_answer_changes_nothing() -> None:
    class Away(MemoryRegistry):
        async def get(self, key: str) -> Record | None:
            raise Unavailable("it is away")

        async def read(self, prefix: str) -> tuple[Mapping[str, Record], int]:
            raise Unavailable("it is away")

    log = VerifiedLog(Away(), "0" * 64)
    with pytest.raises(Unavailable):
        await log.refresh()
    assert log.state.number == 0
