"""Pure: which identity each key was ever given to: a key belongs to one name for ever (H09).

    holder/<key hash>    the Holder

Written before a certificate is issued for a key, at enrolment and at renewal, so that a revocation can name every key
that an identity has had. Keys are hex SHA-256 of the SPKI DER. One attempt; only callers retry.
"""

from __future__ import annotations

import msgspec

from bridge.identity.issuer import refuse_foreign_key
from inventory.authority.entries import parse_hash
from inventory.names import SpiffeId, parse_spiffe_id
from inventory.registries.interface import Change, Conflict, Registry
from inventory.strict_json import decode

_PREFIX = "holder/"
_RECORD_MAX_BYTES = 4096


class Holder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    spiffe_id: str
    at: int
    """Unix seconds."""

    def __post_init__(self) -> None:
        parse_spiffe_id(self.spiffe_id)


def _decode(value: bytes) -> Holder:
    return decode(value, Holder, max_bytes=_RECORD_MAX_BYTES, what="key holder record")


async def holder_of(registry: Registry, key: str) -> str | None:
    """The SPIFFE ID that has `key` on record; None when nobody has. Raises InputError when the record is damaged."""
    record = await registry.get(_PREFIX + parse_hash(key, "key hash"))
    return None if record is None else _decode(record.value).spiffe_id


async def claim_key(registry: Registry, key: str, spiffe: SpiffeId, *, now: float) -> None:
    """Record that `key` is of `spiffe`, unless it is already.

    Raises:
        AnswerIsNo: it belongs to another name.
        Unavailable: the registry does not answer.
    """
    name = _PREFIX + parse_hash(key, "key hash")
    value = msgspec.json.encode(Holder(spiffe_id=str(spiffe), at=int(now)))
    try:
        await registry.transact([Change(name, 0, value)])
    except Conflict:
        refuse_foreign_key(key, spiffe, await holder_of(registry, key))


async def keys_of(registry: Registry, spiffe: SpiffeId) -> list[str]:
    """Every key that `spiffe` has had, in a stable order. Raises InputError when a record is damaged."""
    records, _ = await registry.read(_PREFIX)
    wanted = str(spiffe)
    return [name.removeprefix(_PREFIX) for name, record in records.items() if _decode(record.value).spiffe_id == wanted]
