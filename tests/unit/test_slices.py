"""Pure: what a host believes of single entries, from a gateway that may lie."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from inventory.authority import AuthorityError, AuthorityFork, SignedEntry, Slice, StaleEntry, genesis_fingerprint
from inventory.authority.statements import operator_removal
from inventory.errors import InputError
from tests.support import authority as say
from tests.support.authority import ALICE, BOB, MALLORY, Chain


def started(chain: Chain) -> Slice:
    return Slice.start(chain.log[0], chain.fingerprint)


def refused(held: Slice, added: Sequence[SignedEntry], match: str, kind: type[AuthorityError] = AuthorityError) -> None:
    before = held.encode()
    with pytest.raises(kind, match=match):
        held.applied(added)
    assert held.encode() == before


def test_a_slice_says_what_its_entries_say() -> None:
    chain = Chain(say.host("vm1", "web"), say.host("vm2"), say.policy("a"), say.instance(), say.policy("b"))
    held = started(chain).applied([chain.log[5], chain.log[1]])
    assert held.state.hosts.keys() == {"vm1"} and not held.state.instances
    assert held.state.policy == say.policy("b") and held.state.policy_number == 6
    assert held.state.operators == {ALICE.public: "alice"} and held.state.trust_domain == "t.internal"
    assert held.number == held.state.number == 6
    assert held.numbers() == {"domain": 1, "host/vm1": 2, "policy": 6}


def test_a_slice_of_everything_says_what_the_log_says() -> None:
    chain = Chain(say.host(), say.add_operator(BOB), say.revoke("vm1", "a"), say.invite(), say.gateway())
    chain.add(say.host("vm2"), say.policy(), say.host(removed=True), by=BOB)
    assert started(chain).applied(chain.log).state == chain.state


def test_a_slice_starts_from_the_pinned_genesis_only() -> None:
    chain = Chain(say.host())
    with pytest.raises(AuthorityError, match="another trust domain"):
        Slice.start(Chain(say.host()).log[1], chain.fingerprint)
    with pytest.raises(AuthorityError, match="another trust domain"):
        Slice.start(say.entry(1, say.domain(), by=MALLORY), chain.fingerprint)
    with pytest.raises(AuthorityError, match="not a genesis"):
        Slice.start(chain.log[1], genesis_fingerprint(chain.log[1]))


def test_h19_a_slice_refuses_a_bad_signature() -> None:
    chain = Chain(say.host())
    refused(started(chain), [msgspec.structs.replace(chain.log[1], signature=bytes(64))], "signature")


def test_h19_a_slice_refuses_a_bad_signature_over_what_it_holds_already() -> None:
    chain = Chain(say.host())
    held = started(chain).applied(chain.log[1:])
    refused(held, [msgspec.structs.replace(chain.log[1], signature=bytes(64))], "signature")


def test_what_is_held_byte_for_byte_is_not_verified_again() -> None:
    chain = Chain(say.host(), say.policy())
    held = started(chain).applied(chain.log[1:])
    again = held.applied(chain.log)
    assert again.state == held.state
    assert all(again.entries[key] is entry for key, entry in held.entries.items())


def test_h19_a_slice_refuses_a_right_signature_by_the_wrong_key() -> None:
    chain = Chain()
    refused(started(chain), [say.entry(2, say.policy(), by=MALLORY)], "was no operator then")


def test_h19_a_slice_refuses_an_older_policy() -> None:
    chain = Chain(say.policy("a"), say.host(), say.policy("b"))
    held = started(chain).applied([chain.log[3]])
    refused(held, [chain.log[1]], "entry 2: entry 4 about 'policy' is already known", StaleEntry)
    assert held.applied([chain.log[2]]).state.policy == say.policy("b")


def test_h19_a_slice_refuses_the_same_number_with_other_content() -> None:
    chain = Chain(say.policy("a"))
    held = started(chain).applied(chain.log)
    refused(held, [say.entry(2, say.policy("b"))], "entry 2: two different entries", AuthorityFork)
    refused(held, [say.entry(2, say.host())], "entry 2: two different entries", AuthorityFork)
    refused(started(chain), [chain.log[1], say.entry(2, say.host())], "two different", AuthorityFork)


def test_h19_a_slice_refuses_unknown_kinds_and_fields() -> None:
    chain = Chain(say.host())
    good = chain.log[1]
    refused(started(chain), [say.sign_bytes(say.tampered(good, body={"kind": "root"}))], "Invalid value 'root'")
    refused(started(chain), [say.sign_bytes(say.tampered(good, note=1))], "unknown field")


def test_an_entry_that_is_held_is_accepted_again() -> None:
    chain = Chain(say.policy(), say.add_operator(BOB), say.host())
    held = started(chain).applied(chain.log)
    assert held.applied(chain.log).encode() == held.encode()


def test_one_bad_entry_refuses_its_whole_batch() -> None:
    chain = Chain(say.host())
    refused(started(chain), [chain.log[1], say.entry(3, say.policy(), by=MALLORY)], "no operator")


@pytest.mark.parametrize("key", ["domain", "policy", f"operator/{ALICE.public}", "revoke/host/vm1"])
def test_what_protects_can_never_be_dropped(key: str) -> None:
    chain = Chain(say.policy(), say.revoke("vm1"))
    held = started(chain).applied(chain.log)
    with pytest.raises(AuthorityError, match="never be dropped"):
        held.applied([], [key])


def test_what_was_dropped_does_not_come_back_older() -> None:
    chain = Chain(say.instance(port=1), say.instance(port=2), say.instance(port=3))
    held = started(chain).applied([chain.log[2]]).applied([], ["service/web/vm1/127.0.0.1:9000", "service/never/held"])
    assert not held.state.instances
    for kept in (held, Slice.decode(held.encode(), chain.fingerprint)):
        refused(kept, [chain.log[1]], "entry 2: entry 3 about", StaleEntry)
        refused(kept, [say.entry(3, say.instance(port=9))], "two different", AuthorityFork)
        assert kept.applied([chain.log[2]]).state.instances
        assert kept.applied([chain.log[3]]).state.instances


def test_a_removed_host_does_not_come_back_older() -> None:
    chain = Chain(say.host(), say.host(removed=True))
    held = started(chain).applied([chain.log[2]])
    refused(held, [chain.log[1]], "already known", StaleEntry)


def test_a_revocation_in_a_slice_never_drops_a_key() -> None:
    chain = Chain(say.revoke("vm1", "a"), say.revoke("vm1", "b", lifted=True))
    refused(started(chain).applied([chain.log[1]]), [chain.log[2]], "stay revoked")
    refused(
        started(chain), [say.entry(2, msgspec.structs.replace(say.revoke(), spiffe_id="spiffe://o/host/a"))], "another"
    )


def test_operators_are_continued_at_the_end_only() -> None:
    chain = Chain(say.add_operator(BOB), say.host(), say.add_operator(ALICE, "alice 2"))
    held = started(chain).applied(chain.log)
    refused(held, [say.entry(3, say.add_operator(MALLORY))], "two different", AuthorityFork)
    held = started(chain).applied([chain.log[3]])
    refused(held, [say.entry(2, say.add_operator(MALLORY))], "already known", StaleEntry)
    refused(held, [say.entry(9, say.domain())], "second genesis", AuthorityFork)


def test_an_operator_counts_from_its_entry_until_its_removal() -> None:
    chain = Chain(say.host("a"), say.add_operator(BOB), say.host("b"), say.add_operator(BOB, removed=True))
    held = started(chain)
    for number, match in ((2, "no operator"), (3, "two different"), (5, "two different"), (6, "no operator")):
        refused(held, [chain.log[2], chain.log[4], say.entry(number, say.host("evil"), by=BOB)], match)
    assert held.applied([chain.log[2], say.entry(4, say.host("x"), by=BOB), chain.log[4]]).state.hosts.keys() == {"x"}
    chain.add(say.add_operator(BOB))
    again = held.applied([chain.log[2], chain.log[4], chain.log[5], say.entry(7, say.host("y"), by=BOB)])
    assert again.state.hosts.keys() == {"y"}


def test_a_removed_operators_key_signs_nothing_more_under_old_numbers() -> None:
    chain = Chain(say.add_operator(BOB))
    chain.add(say.host("vm1"), say.host("vm2"), by=BOB)
    chain.add(*operator_removal(chain.log, BOB.public))
    held = started(chain).applied([chain.log[1], chain.log[2]])
    assert held.state.hosts.keys() == {"vm1"}
    told = held.applied([chain.log[4]])
    assert told.state.hosts.keys() == {"vm1"}, "what was believed before stays"
    for kept in (told, Slice.decode(told.encode(), chain.fingerprint).applied([])):
        assert kept.state.hosts.keys() == {"vm1"}
    refused(told, [say.entry(4, say.policy("evil"), by=BOB)], "removed since")
    refused(told, [say.entry(3, say.add_operator(MALLORY), by=BOB)], "two different|already known")
    assert told.applied(chain.log[5:]).state.hosts.keys() == {"vm1", "vm2"}, "signed again by who removed it"


def test_a_dropped_entry_of_a_removed_operator_may_come_back() -> None:
    chain = Chain(say.add_operator(BOB))
    chain.add(say.host("vm1"), by=BOB)
    chain.add(say.add_operator(BOB, removed=True))
    told = started(chain).applied(chain.log[1:]).applied([], ["host/vm1"])
    assert told.applied([chain.log[2]]).state.hosts.keys() == {"vm1"}


def test_f34_a_restored_slice_is_only_older_never_other() -> None:
    chain = Chain(say.policy("a"))
    saved = started(chain).applied(chain.log).encode()
    chain.add(say.policy("b"))
    restored = Slice.decode(saved, chain.fingerprint)
    assert restored.applied(chain.log).state.policy == say.policy("b")


def test_a_slice_survives_the_disk() -> None:
    chain = Chain(say.policy(), say.add_operator(BOB), say.host("vm1"), say.host("vm2"), say.revoke("vm3", "k"))
    held = started(chain).applied(chain.log, ["host/vm2"])
    again = Slice.decode(held.encode(), chain.fingerprint)
    assert again == held and again.state == held.state and again.fingerprint == chain.fingerprint


def test_a_damaged_slice_is_refused() -> None:
    chain = Chain(say.policy(), say.host())
    good = started(chain).applied(chain.log).encode()
    other = Chain(say.gateway()).fingerprint
    for bad in (
        b"",
        b"{}",
        good[:-1],
        good.replace(b"slice-v1", b"slice-v2"),
        b'{"format":"slice-v1","entries":[],"floors":{}}',
    ):
        with pytest.raises(InputError):
            Slice.decode(bad, other)
    with pytest.raises(AuthorityError):
        Slice.decode(good, "0" * 64)
    with pytest.raises(InputError):
        Slice.decode(good.replace(b'"floors":{}', b'"floors":{"host/a":{"number":1,"hash":"x"}}'), chain.fingerprint)
