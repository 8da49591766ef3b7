"""Pure: a state is a value: extending it makes another one. test_authority_log has what it says."""

from __future__ import annotations

import msgspec

from inventory.authority import NO_PREVIOUS, verify_entry
from inventory.authority.state import AuthorityState
from tests.support import authority as say
from tests.support.authority import BOB, Chain


def test_nothing_is_in_force_at_first() -> None:
    state = AuthorityState()
    assert (state.number, state.head, state.policy, state.operators) == (0, NO_PREVIOUS, None, {})
    assert state.extended([]) == state


def test_extending_leaves_the_old_state_alone() -> None:
    chain = Chain(say.host(), say.gateway(), say.instance(), say.invite(), say.revoke("vm1", "a"), say.policy("a"))
    before = chain.state
    copy = msgspec.json.encode(before)
    chain.add(say.host(removed=True), say.gateway(removed=True), say.instance(removed=True), say.invite(2))
    chain.add(say.revoke("vm1", "a", "b", lifted=True), say.policy("b"), say.add_operator(BOB))
    after = before.extended([verify_entry(signed) for signed in chain.log[before.number :]])
    assert msgspec.json.encode(before) == copy
    assert after == chain.state
    assert not after.hosts and not after.gateways and not after.instances and len(after.invites) == 2


def test_a_removed_host_leaves_its_instances_listed() -> None:
    state = Chain(say.host(), say.instance(), say.host(removed=True)).state
    assert not state.hosts and state.instances, "a slice without the host's entry must not say more than the log"


def test_a_state_survives_the_wire_to_a_worker() -> None:
    state = Chain(say.host(), say.policy(), say.revoke("vm1", "a"), say.instance()).state
    assert msgspec.json.decode(msgspec.json.encode(state), type=AuthorityState) == state
