"""Pure: bodies that must repeat what was said before to be accepted: a revocation, the removal of an operator."""

from __future__ import annotations

from collections.abc import Sequence

from inventory.authority.entries import (
    AuthorityError,
    Body,
    DomainBody,
    OperatorBody,
    RevokeBody,
    SignedEntry,
    VerifiedEntry,
    verify_entry,
)
from inventory.authority.state import AuthorityState


def revocation(
    state: AuthorityState, spiffe_id: str, *, keys: Sequence[str], reason: str, lifted: bool = False
) -> RevokeBody:
    """The body that revokes `spiffe_id` with `keys` (hex SHA-256 of SPKI DER), or lifts that, and carries every key the
    identity lost before."""
    before = state.revocations.get(spiffe_id)
    merged = {*keys, *(before.keys if before else ())}
    return RevokeBody(spiffe_id=spiffe_id, keys=tuple(sorted(merged)), reason=reason, lifted=lifted)


def operator_removal(log: Sequence[SignedEntry], key: str) -> list[Body]:
    """The bodies that remove the operator `key` (hex): the removal, then all that stands by that key alone, to be
    signed again by whoever removes it.

    Append them in one transaction. Hosts that know of the removal believe nothing more that the removed key signed (it
    may be in a thief's hands, who can write any number into an entry), so what should stand needs another signature.

    Raises:
        AuthorityError: there is no such operator, or an entry does not verify.
    """
    latest: dict[str, VerifiedEntry] = {}
    name = None
    for signed in log:
        verified = verify_entry(signed)
        latest[verified.key] = verified
        match verified.body:
            case DomainBody() as body if verified.entry.operator == key:
                name = body.operator_name
            case OperatorBody() as body if body.key == key:
                name = None if body.removed else body.name
    if name is None:
        raise AuthorityError("there is no such operator to remove")
    standing = [
        verified.body
        for verified in sorted(latest.values(), key=lambda v: v.number)
        if verified.entry.operator == key and not isinstance(verified.body, DomainBody | OperatorBody)
    ]
    return [OperatorBody(key=key, name=name, removed=True), *standing]
