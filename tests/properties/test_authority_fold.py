"""Pure: however a log is cut into batches, its state is what one reads off entry by entry."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from inventory.authority import (
    AuthorityState,
    Body,
    DomainBody,
    GatewayBody,
    HostBody,
    ImportBody,
    InstanceBody,
    InviteBody,
    OperatorBody,
    PolicyBody,
    ReachBody,
    RevokeBody,
    Slice,
    VerifiedEntry,
    verify_entry,
)
from tests.support import authority as say
from tests.support.authority import BOB, MALLORY, Chain

names = st.sampled_from(["a", "b", "c"])
bodies = st.one_of(
    st.builds(say.host, names, st.sampled_from(["web", "db"]), removed=st.booleans()),
    st.builds(say.gateway, names, removed=st.booleans()),
    st.builds(say.instance, st.sampled_from(["web", "db"]), names, port=st.integers(1, 3), removed=st.booleans()),
    st.builds(say.imported, st.sampled_from(["web", "db"]), names, source=names, removed=st.booleans()),
    st.builds(say.reach, names, names, removed=st.booleans()),
    st.builds(say.policy, names),
    st.builds(say.add_operator, st.sampled_from([BOB, MALLORY]), names, removed=st.booleans()),
    st.builds(say.revoke, names, names, lifted=st.booleans()),
    st.builds(say.invite, st.integers(0, 1_000_000)),
)


def obvious(entries: list[VerifiedEntry]) -> AuthorityState:
    """The state by asking every question of the whole log, without keeping anything."""
    latest: dict[str, VerifiedEntry] = {}
    for verified in entries:
        latest[verified.key] = verified
    now: list[Body] = [verified.body for verified in latest.values()]
    said = [verified.body for verified in entries]
    genesis = entries[0].body
    assert isinstance(genesis, DomainBody)
    operators = {entries[0].entry.operator: genesis.operator_name}
    operators |= {b.key: b.name for b in now if isinstance(b, OperatorBody) and not b.removed}
    last_policy = latest.get("policy")
    revocations = {b.spiffe_id: b for b in now if isinstance(b, RevokeBody)}
    return AuthorityState(
        number=len(entries),
        head=entries[-1].hash,
        trust_domain=genesis.trust_domain,
        namespace=genesis.namespace,
        root_certificate=genesis.root_certificate,
        operators=operators,
        gateways={b.gateway.name: b.gateway for b in now if isinstance(b, GatewayBody) and not b.removed},
        hosts={b.host.name: b.host for b in now if isinstance(b, HostBody) and not b.removed},
        reaches={b.reach.host: b.reach for b in now if isinstance(b, ReachBody) and not b.removed},
        instances={b.instance.id: b.instance for b in now if isinstance(b, InstanceBody) and not b.removed},
        imports={b.imported.id: b.imported for b in now if isinstance(b, ImportBody) and not b.removed},
        invites={b.id: b for b in now if isinstance(b, InviteBody)},
        revocations=revocations,
        revoked_identities={i: b for i, b in revocations.items() if not b.lifted},
        revoked_keys=frozenset(key for b in said if isinstance(b, RevokeBody) for key in b.keys),
        policy=last_policy.body if last_policy and isinstance(last_policy.body, PolicyBody) else None,
        policy_number=last_policy.number if last_policy else 0,
        numbers={key: verified.number for key, verified in latest.items()},
    )


@given(st.lists(bodies, max_size=12), st.lists(st.integers(0, 13), max_size=4))
def test_a_fold_in_batches_is_the_obvious_fold(said: list[Body], cuts: list[int]) -> None:
    entries = [verify_entry(signed) for signed in Chain(*said).log]
    state = AuthorityState()
    edges = sorted({0, len(entries), *(min(cut, len(entries)) for cut in cuts)})
    for begin, end in pairwise(edges):
        before = state
        state = state.extended(entries[begin:end])
        assert before == (obvious(entries[:begin]) if begin else AuthorityState()), "a state never changes"
    assert state == obvious(entries)


@given(st.lists(bodies.filter(lambda b: not isinstance(b, RevokeBody)), max_size=12), st.randoms())
def test_a_slice_fed_in_any_batches_says_what_the_log_says(said: list[Body], chance: Random) -> None:
    chain = Chain(*said)
    held = Slice.start(chain.log[0], chain.fingerprint)
    waiting = chain.log[1:]
    while waiting:
        size = chance.randint(1, len(waiting))
        batch, waiting = waiting[:size], waiting[size:]
        chance.shuffle(batch)
        held = held.applied(batch)
    expected = obvious([verify_entry(signed) for signed in chain.log])
    assert held.state == expected
    assert Slice.decode(held.encode(), chain.fingerprint).state == expected
