"""I/O: tokens for new nodes, hosts and gateways alike: one signed invite, one line of text.

The token is returned and never written anywhere; the log holds a hash of its secret.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agents import clock
from agents.estate import Decide, Operator
from agents.knowledge.key_holders import keys_of
from bridge.identity.tokens import Token, format_token, new_secret
from inventory.authority import AuthorityState, Body, InviteBody, RevokeBody, revocation, secret_hash, verify_entry
from inventory.errors import AnswerIsNo
from inventory.names import SpiffeId

_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class Invitation:
    """A token for one node. `lifted`: it was revoked and may come back with a new key."""

    token: str
    name: str
    expires_at: int
    lifted: bool
    changes: tuple[str, ...] = ()
    """What a node that was on record loses or gains, in words."""

    def __repr__(self) -> str:
        return f"Invitation({self.name!r})"


async def invite(
    operator: Operator, role: Literal["host", "gateway"], name: str, *, ttl: float, first: Decide, message: str
) -> Invitation:
    """Signs what `first` answers and an invite beside it. Older tokens for the name stop working.

    Raises:
        AnswerIsNo: there is no gateway that could enrol it.
        MeshError: as `first` and `Operator.append` do.
    """
    keys = await keys_of(operator.registry, SpiffeId(operator.state.trust_domain, role, name))
    secret, invite_id = new_secret(), secrets.token_hex(_ID_BYTES)
    expires_at = int(clock.now() + ttl)
    body = InviteBody(id=invite_id, role=role, name=name, secret_hash=secret_hash(secret), expires_at=expires_at)

    def decide(state: AuthorityState) -> list[Body]:
        _desks(state, role, name)
        return [*first(state), *_lift(state, SpiffeId(state.trust_domain, role, name), keys), body]

    signed = await operator.append(decide, message=message)
    state = operator.state
    token = Token(
        trust_domain=state.trust_domain,
        gateways=_desks(state, role, name),
        genesis=operator.config.genesis,
        role=role,
        name=name,
        invite=invite_id,
        secret=secret,
    )
    lifted = any(isinstance(verify_entry(entry).body, RevokeBody) for entry in signed)
    return Invitation(format_token(token), name, expires_at, lifted)


def _desks(state: AuthorityState, role: str, name: str) -> tuple[tuple[str, str], ...]:
    """Where the token can be used: at every gateway but the one that it is for, those that issue first."""
    others = [g for g in state.gateways.values() if (role, g.name) != ("gateway", name)]
    if not others:
        raise AnswerIsNo(f"{name} is the only gateway: there is none that could enrol it")
    return tuple((g.name, g.address) for g in sorted(others, key=lambda g: (not g.issuer, g.name)))


def _lift(state: AuthorityState, spiffe: SpiffeId, keys: Sequence[str]) -> list[Body]:
    """Who was revoked may enrol again; every key that it ever had stays revoked."""
    before = state.revoked_identities.get(str(spiffe))
    return [] if before is None else [revocation(state, str(spiffe), keys=keys, reason=before.reason, lifted=True)]
