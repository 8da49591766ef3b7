"""I/O: what a gateway keeps of a registry that is elsewhere: it starts from it, admits by it, and goes only forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from agents.knowledge.kept import EnrolledKeys
from agents.knowledge.ledger import POLICY_PREFIX, Ledger
from agents.knowledge.verified_log import VerifiedLog
from bridge import limits
from inventory.authority import AuthorityError, Enrolment
from inventory.errors import InputError, Unavailable
from inventory.registries.interface import Change, Record
from tests.support.authority import digest, host, revoke
from tests.support.memory_registry import MemoryRegistry
from tests.unit.test_ledger import ALLOW, Estate


class Remote(MemoryRegistry):
    """A registry that can be away, at once or after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.silent = False
        self.asked = 0

    async def _ask(self) -> None:
        self.asked += 1
        if self.silent:
            await trio.sleep_forever()
        if self.away:
            raise Unavailable("it is away")

    async def get(self, key: str) -> Record | None:
        await self._ask()
        return await super().get(key)

    async def read(self, prefix: str) -> tuple[Mapping[str, Record], int]:
        await self._ask()
        return await super().read(prefix)

    async def transact(self, changes: Sequence[Change]) -> int:
        await self._ask()
        return await super().transact(changes)


class Far(Estate):
    """An estate whose registry is elsewhere, with a gateway that keeps a copy of it."""

    def __init__(self, home: Path) -> None:
        self.kept = MemoryRegistry()
        super().__init__(home)
        remote = Remote()
        remote.records, remote.revision = self.registry.records, self.registry.revision
        self.registry = self.remote = remote

    def ledger(self) -> Ledger:
        return Ledger(self.registry, self.home, self.chain.fingerprint, kept=self.kept)

    async def once_seen(self) -> None:
        ledger = self.ledger()
        await ledger.load()
        await ledger.remember()


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path)


async def test_f14_a_gateway_starts_from_what_it_kept(far: Far) -> None:
    far.policy()
    await far.once_seen()
    far.remote.away = True
    ledger = far.ledger()
    await ledger.load()
    assert (ledger.state.number, ledger.allows) == (3, (ALLOW,)) and ledger.slicer is not None
    with pytest.raises(Unavailable):
        await ledger.refresh()
    far.remote.away = False
    far.chain.add(revoke("vm1"))
    far.publish()
    assert await ledger.refresh() and ledger.state.revoked_identities
    await ledger.remember()
    log = VerifiedLog(far.kept, far.chain.fingerprint)
    await log.refresh()
    assert log.state.number == 4, "what came since is kept as well"


async def test_a_registry_that_is_silent_delays_the_start_no_longer_than_said(
    far: Far, autojump_clock: trio.testing.MockClock
) -> None:
    await far.once_seen()
    far.remote.silent = True
    began = trio.current_time()
    ledger = far.ledger()
    await ledger.load()
    assert ledger.state.number == 2
    assert trio.current_time() - began <= limits.REGISTRY_PATIENCE


async def test_without_a_copy_nothing_starts(far: Far) -> None:
    far.remote.away = True
    with pytest.raises(Unavailable):
        await far.ledger().load()


async def test_f34_a_registry_that_went_back_does_not_take_a_starting_gateway_with_it(far: Far) -> None:
    older = dict(far.remote.records)
    far.chain.add(revoke("vm1"))
    far.publish()
    await far.once_seen()
    far.remote.records = older
    ledger = far.ledger()
    await ledger.load()
    assert ledger.state.revoked_identities
    with pytest.raises(AuthorityError, match="went back"):
        await ledger.refresh()


async def test_what_was_kept_is_believed_no_more_than_the_registry(far: Far) -> None:
    await far.once_seen()
    entry = far.kept.records["log/000000000002"]
    far.kept.put("log/000000000002", entry.value.replace(b"A", b"B"))
    with pytest.raises(InputError, match="what was kept of the registry cannot be used") as caught:
        await far.ledger().load()
    assert "kept.db" in caught.value.hint


async def test_log_and_policy_are_kept_together_and_old_policies_are_not(far: Far) -> None:
    far.policy()
    await far.once_seen()
    assert [key for key in far.kept.records if key.startswith(POLICY_PREFIX)] == ["policy/3"]
    ledger = far.ledger()
    await ledger.load()
    far.policy(with_document=False)
    with pytest.raises(InputError, match="policy of entry 4 is missing"):
        await ledger.refresh()
    await ledger.remember()
    assert "log/000000000004" not in far.kept.records, "an entry whose policy is missing is not kept yet"
    far.chain.add(host("vm5"))
    far.policy()
    assert await ledger.refresh()
    await ledger.remember()
    assert [key for key in far.kept.records if key.startswith(POLICY_PREFIX)] == ["policy/6"]
    assert far.kept.records["head"].value == far.remote.records["head"].value


def enrolment(name: str, key: str = "a") -> Enrolment:
    return Enrolment(role="host", name=name, key=digest(key), at=1, source="", invite="i")


def enrol(registry: MemoryRegistry, name: str, key: str = "a") -> None:
    registry.put(f"enrolled/host/{name}", msgspec.json.encode(enrolment(name, key)))


async def test_f13_hosts_are_admitted_by_what_was_kept() -> None:
    remote, kept = Remote(), MemoryRegistry()
    enrolled = EnrolledKeys(remote, kept)
    enrol(remote, "vm1")
    enrol(remote, "vm2")
    await enrolled.keep_all()
    enrol(remote, "vm2", "b")
    assert await enrolled.of("host", "vm2") == enrolment("vm2", "b")
    remote.away = True
    assert await enrolled.of("host", "vm1") == enrolment("vm1")
    assert await enrolled.of("host", "vm2") == enrolment("vm2", "b"), "as it was last seen"
    assert await enrolled.of("host", "vm3") is None
    await enrolled.keep_all()
    assert set(kept.records) == {"enrolled/host/vm1", "enrolled/host/vm2"}


async def test_one_waits_for_a_silent_registry_and_the_others_do_not(autojump_clock: trio.testing.MockClock) -> None:
    remote, kept = Remote(), MemoryRegistry()
    enrol(remote, "vm1")
    enrolled = EnrolledKeys(remote, kept)
    await enrolled.of("host", "vm1")
    remote.silent = True
    began = trio.current_time()
    for _ in range(100):
        assert await enrolled.of("host", "vm1") == enrolment("vm1")
    assert trio.current_time() - began <= limits.REGISTRY_PATIENCE
    remote.silent = False
    enrol(remote, "vm1", "b")
    await trio.sleep(limits.REGISTRY_AWAY)
    assert await enrolled.of("host", "vm1") == enrolment("vm1", "b"), "and it is asked again"


async def test_f35_when_the_registry_is_back_all_who_were_let_in_meanwhile_are_asked_for_at_once() -> None:
    remote, kept = Remote(), MemoryRegistry()
    enrolled = EnrolledKeys(remote, kept)
    names = [f"vm{number}" for number in range(300)]
    for name in names:
        enrol(remote, name)
    await enrolled.keep_all()
    assert await enrolled.sure_again() == {}, "nobody was told from the copy"
    remote.away = True
    for name in names:
        await enrolled.of("host", name)
    with pytest.raises(Unavailable):
        await enrolled.sure_again()
    remote.away = False
    enrol(remote, "vm7", "b")
    remote.asked = 0
    found = await enrolled.sure_again()
    assert remote.asked == 1 and set(found) == set(names)
    assert found["vm7"] == enrolment("vm7", "b") and found["vm8"] == enrolment("vm8")
    assert await enrolled.sure_again() == {}


async def test_a_host_that_was_removed_is_not_kept() -> None:
    remote, kept = Remote(), MemoryRegistry()
    enrol(kept, "old")
    enrol(remote, "new")
    await EnrolledKeys(remote, kept).keep_all()
    assert set(kept.records) == {"enrolled/host/new"}


async def test_an_embedded_registry_is_asked_itself() -> None:
    remote = Remote()
    enrolled = EnrolledKeys(remote, None)
    await enrolled.keep_all()
    remote.away = True
    with pytest.raises(Unavailable):
        await enrolled.of("host", "vm1")
