"""Pure: the log as a chain, and appending to it, over a registry in memory."""

from __future__ import annotations

import msgspec
import pytest

from inventory.authority import (
    AuthorityError,
    AuthorityFork,
    Body,
    StaleEntry,
    append,
    encode_signed,
    read_head,
    read_log,
    refuse_rollback,
    verify_log,
)
from inventory.authority.log import log_key
from inventory.authority.statements import operator_removal, revocation
from inventory.errors import InputError, MeshError
from inventory.registries.interface import ANY, Change, Conflict
from tests.support import authority as say
from tests.support.authority import ALICE, BOB, MALLORY, NOW, Chain
from tests.support.memory_registry import MemoryRegistry


def refused(chain: Chain, match: str, kind: type[AuthorityError] = AuthorityError) -> None:
    """The chain is refused at its last entry; what stood before is not."""
    before = verify_log(chain.log[:-1])
    with pytest.raises(kind, match=match) as caught:
        verify_log(chain.log)
    assert caught.value.number == len(chain.log)
    with pytest.raises(kind, match=match):
        verify_log(chain.log[-1:], before)


def test_a_log_says_what_is_in_force() -> None:
    chain = Chain(say.host("vm1", "web"), say.gateway(), say.instance(), say.policy(), say.invite(), say.host("vm2"))
    chain.add(say.host("vm2", removed=True), say.add_operator(BOB))
    chain.add(say.revoke("vm1", "old"), by=BOB)
    state = chain.state
    assert (state.number, state.trust_domain, state.namespace) == (10, "t.internal", "bridge.internal")
    assert state.hosts.keys() == {"vm1"} and state.gateways.keys() == {"gw1"}
    assert state.instances.keys() == {"web/vm1/127.0.0.1:9000"} and state.invites.keys() == {"invite-1"}
    assert state.operators == {ALICE.public: "alice", BOB.public: "bob"}
    assert state.policy == say.policy() and state.policy_number == 5
    assert state.revoked_identities.keys() == {"spiffe://t.internal/host/vm1"}
    assert state.revoked_keys == {say.digest("old")}
    assert state.numbers["host/vm2"] == 8


def test_a_log_is_verified_in_parts_too() -> None:
    log = Chain(*[say.host(f"vm{i}") for i in range(9)]).log
    assert verify_log(log[4:], verify_log(log[:4])) == verify_log(log)


def test_a_lifted_identity_is_back_and_its_keys_are_not() -> None:
    chain = Chain(say.revoke("vm1", "a"))
    chain.add(revocation(chain.state, say.revoke("vm1").spiffe_id, keys=[], reason="found", lifted=True))
    assert not chain.state.revoked_identities
    assert chain.state.revoked_keys == {say.digest("a")}
    chain.add(revocation(chain.state, say.revoke("vm1").spiffe_id, keys=[say.digest("b")], reason="lost again"))
    assert chain.state.revoked_identities
    assert chain.state.revoked_keys == {say.digest("a"), say.digest("b")}


def test_a_revocation_never_drops_a_key() -> None:
    chain = Chain(say.revoke("vm1", "a"))
    chain.add(say.revoke("vm1", "b", lifted=True))
    refused(chain, "keys stay revoked")


def test_a_revocation_is_of_this_trust_domain() -> None:
    chain = Chain()
    chain.add(msgspec.structs.replace(say.revoke(), spiffe_id="spiffe://other.internal/host/vm1"))
    refused(chain, "another trust domain")


def test_h19_a_bad_signature_names_its_entry() -> None:
    chain = Chain(say.host())
    chain.log[1] = msgspec.structs.replace(chain.log[1], signature=bytes(64))
    refused(chain, "entry 2: the signature is not by the operator")


def test_h19_a_right_signature_by_the_wrong_key_is_refused() -> None:
    chain = Chain(say.host())
    chain.add(say.policy(), by=MALLORY)
    refused(chain, "entry 3: .* is not an operator")


def test_h19_an_older_entry_is_refused() -> None:
    log = Chain(say.policy("a"), say.policy("b"), say.host()).log
    with pytest.raises(StaleEntry, match="entry 2: entries up to 4 are already known"):
        verify_log(log[1:2], verify_log(log))


def test_h19_the_same_number_with_other_content_is_a_fork() -> None:
    state = Chain(say.policy("a")).state
    other = Chain(say.policy("b")).log
    with pytest.raises(AuthorityFork, match="entry 2: another entry"):
        verify_log(other[1:], state)
    with pytest.raises(AuthorityFork, match="entry 3: it does not continue"):
        verify_log(Chain(say.policy("b"), say.host()).log[2:], state)


def test_h19_an_unknown_kind_or_field_stops_the_log_by_name() -> None:
    for change, match in (({"body": {"kind": "root"}}, "Invalid value 'root'"), ({"note": 1}, "unknown field")):
        chain = Chain(say.host(), say.host("vm2"))
        chain.log[2] = say.sign_bytes(say.tampered(chain.log[2], **change))
        refused(chain, f"entry 3: .*{match}")


def test_a_gap_is_refused() -> None:
    log = Chain(say.host(), say.policy()).log
    with pytest.raises(AuthorityError, match="entry 3: entry 2 is missing"):
        verify_log([log[0], log[2]])
    with pytest.raises(AuthorityError, match="entry 2: entry 1 is missing"):
        verify_log(log[1:])


def test_only_entry_1_names_the_trust_domain() -> None:
    chain = Chain()
    chain.add(say.domain(trust_domain="evil.internal"))
    refused(chain, "only entry 1")
    with pytest.raises(AuthorityError, match="only entry 1"):
        verify_log([say.entry(1, say.host())])
    with pytest.raises(AuthorityFork):
        verify_log([say.entry(1, say.domain(), previous="1" * 64)])


def test_an_operator_signs_from_its_entry_until_its_removal() -> None:
    chain = Chain()
    chain.add(say.host(), by=BOB)
    refused(chain, "is not an operator")
    chain = Chain(say.add_operator(BOB))
    chain.add(say.host(), by=BOB)
    chain.add(say.add_operator(ALICE, "alice", removed=True), by=BOB)
    assert chain.state.operators == {BOB.public: "bob"}
    chain.add(say.policy())
    refused(chain, "is not an operator")


def test_the_last_operator_cannot_be_removed() -> None:
    chain = Chain()
    chain.add(say.add_operator(ALICE, removed=True))
    refused(chain, "last operator")
    chain = Chain()
    chain.add(say.add_operator(BOB, removed=True))
    refused(chain, "operator that is none")


def test_c20_an_invite_id_is_used_once() -> None:
    chain = Chain(say.invite(1))
    chain.add(say.invite(1, expires_at=NOW + 999_999))
    refused(chain, "invite's id again")


def test_removing_an_operator_signs_again_what_stands_by_it() -> None:
    chain = Chain(say.add_operator(BOB), say.host("vm1"))
    chain.add(say.host("vm2"), say.policy(), by=BOB)
    chain.add(say.policy("newer"))
    bodies = operator_removal(chain.log, BOB.public)
    assert bodies == [say.add_operator(BOB, removed=True), say.host("vm2")]
    chain.add(*bodies)
    assert chain.state.hosts.keys() == {"vm1", "vm2"}
    with pytest.raises(AuthorityError, match="no such operator"):
        operator_removal(chain.log, BOB.public)
    with pytest.raises(AuthorityError, match="no such operator"):
        operator_removal(chain.log, MALLORY.public)


def test_f34_a_registry_that_went_back_is_refused() -> None:
    seen = Chain(say.host(), say.policy())
    for number in range(4):
        head = verify_log(seen.log[:number]).head
        refuse_rollback(seen.log, number=number, head=head)
    with pytest.raises(AuthorityError, match="the registry went back: its log ends at entry 2, entry 3 was seen"):
        refuse_rollback(seen.log[:2], number=3, head=seen.state.head)
    with pytest.raises(AuthorityError, match="the registry went back"):
        refuse_rollback([], number=3, head=seen.state.head)
    with pytest.raises(AuthorityFork, match="the registry went back"):
        refuse_rollback(Chain(say.host(), say.policy("b"), say.host()).log, number=3, head=seen.state.head)


async def add(registry: MemoryRegistry, *bodies: Body) -> list[int]:
    signed = await append(registry, ALICE, bodies, message="why", now=NOW + 0.5)
    return [verify_log(await read_log(registry)).number - len(signed) + 1 + i for i in range(len(signed))]


async def test_append_continues_the_log() -> None:
    registry = MemoryRegistry()
    assert await read_head(registry) is None and await read_log(registry) == []
    assert await add(registry, say.domain(), say.host()) == [1, 2]
    assert await add(registry, say.policy()) == [3]
    state = verify_log(await read_log(registry))
    head = await read_head(registry)
    assert head is not None and (head.number, head.hash) == (3, state.head)
    assert state.hosts.keys() == {"vm1"}


async def test_append_with_a_known_state_reads_no_log() -> None:
    registry = MemoryRegistry()
    await add(registry, say.domain(), *[say.host(f"vm{i}") for i in range(50)])
    state = verify_log(await read_log(registry))
    reads = registry.reads
    added = await append(registry, ALICE, [say.policy()], message="", now=NOW, state=state)
    assert registry.reads - reads == 1
    assert verify_log(added, state) == verify_log(await read_log(registry))
    assert await read_log(registry, after=51) == added
    assert len(await read_log(registry, after=2)) == 50
    with pytest.raises(Conflict):
        await append(registry, ALICE, [say.policy()], message="", now=NOW, state=state)


async def test_attachments_go_in_with_their_entry() -> None:
    registry = MemoryRegistry()
    await add(registry, say.domain(), say.host())
    await append(registry, ALICE, [say.policy()], message="", now=NOW, attachments={"policy/<number>": b"toml"})
    record = await registry.get("policy/3")
    assert record is not None and record.value == b"toml"


async def test_append_that_lost_the_race_writes_nothing() -> None:
    registry = MemoryRegistry()
    await add(registry, say.domain())
    before, _ = await registry.read("")
    registry.before_transact = lambda: registry.put("head", before["head"].value)
    with pytest.raises(Conflict) as caught:
        await append(registry, ALICE, [say.host()], message="", now=NOW, attachments={"extra": b""})
    assert caught.value.key == "head" and caught.value.exit_code == 69
    after, _ = await registry.read("")
    assert after.keys() == before.keys()


async def test_append_never_writes_what_others_would_refuse() -> None:
    registry = MemoryRegistry()
    with pytest.raises(AuthorityError):
        await add(registry, say.host())
    await add(registry, say.domain())
    before = await registry.read("")
    for bodies in (
        [say.domain()],
        [say.host(), say.add_operator(ALICE, removed=True)],
        [say.invite(1), say.invite(1)],
    ):
        with pytest.raises(AuthorityError):
            await add(registry, *bodies)
    with pytest.raises(AuthorityError, match="is not an operator"):
        await append(registry, MALLORY, [say.host()], message="", now=NOW)
    assert await registry.read("") == before


async def test_f34_reading_on_from_what_a_registry_no_longer_has_is_refused() -> None:
    registry = MemoryRegistry()
    await add(registry, say.domain(), say.host())
    assert await read_log(registry, after=2) == []
    with pytest.raises(AuthorityError, match="the registry went back: its log ends at entry 2, entry 3 was seen"):
        await read_log(registry, after=3)


async def test_a_registry_that_lies_about_its_log_is_found_out() -> None:
    registry = MemoryRegistry()
    await add(registry, say.domain(), say.host(), say.policy())
    head = await registry.get("head")
    assert head is not None
    registry.put("head", head.value.replace(b":3,", b":9,"))
    with pytest.raises(AuthorityError, match="entry 4: it is missing"):
        await read_log(registry)
    registry.put("head", head.value.replace(b'"hash":"', b'"hash":"00')[:-4] + b'"}')
    with pytest.raises(AuthorityFork, match="head is not the entry"):
        await add(registry, say.host("vm2"))
    registry.put("head", b"{}")
    with pytest.raises(InputError):
        await read_head(registry)
    registry.put("head", head.value)
    registry.put(log_key(2), encode_signed(say.entry(2, say.host("evil"), by=MALLORY)))
    with pytest.raises(MeshError):
        await add(registry, say.host("vm2"))


async def test_a_deleted_head_does_not_start_another_log() -> None:
    registry = MemoryRegistry()
    await add(registry, say.domain(), say.host())
    await registry.transact([Change("head", ANY, None)])
    with pytest.raises(Conflict):
        await append(registry, ALICE, [say.domain()], message="", now=NOW)
