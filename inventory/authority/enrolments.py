"""Pure: an invite is spent once, by one key, in one compare-and-set; everybody else is refused and remembered.

    spent/<invite id>          the Enrolment that spent it
    enrolled/<role>/<name>     the latest Enrolment of that identity
    refused/<invite id>/<n>    who was refused and why, the first 100
    void/<invite id>           the invite was closed when a backup was made; nobody can spend it from a restored one

A peer that is refused learns "token refused" and nothing else, whatever the cause (H10). The cause is for the operator.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from inventory.authority.entries import InviteBody, parse_hash
from inventory.errors import AnswerIsNo
from inventory.names import shown
from inventory.registries.interface import ANY, Change, Conflict, Registry
from inventory.strict_json import decode

REFUSALS_MAX = 100
"""Refusals recorded per invite; a flood of wrong guesses must not fill the registry."""
RECORD_MAX_BYTES = 4096
SOURCE_MAX = 100
REASON_MAX = 300

_NO_SECRET_HASH = hashlib.sha256(b"no such invite").hexdigest()


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which key an identity was given to, when, and from where."""

    role: Literal["host", "gateway"]
    name: str
    key: str
    """SHA-256 of SPKI DER, hex."""
    at: int
    """Unix seconds."""
    source: str
    """The peer's address, as the issuer saw it."""
    invite: str
    """The invite's id."""

    def __post_init__(self) -> None:
        parse_hash(self.key, "key hash")


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One refused use of an invite, for the operator."""

    at: int
    source: str
    key: str
    reason: str


class TokenRefused(AnswerIsNo):
    """The enrolment is refused. `str()` is all that the peer may learn; `detail` and `invite` are for the operator."""

    def __init__(self, detail: str, *, invite: str | None = None) -> None:
        super().__init__("token refused", hint="ask the operator for a new token")
        self.detail = detail
        self.invite = invite


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def secret_hash(secret: bytes) -> str:
    """What an invite holds of its secret: SHA-256 in hex. Secrets are random and long, so no salt or stretching."""
    return hashlib.sha256(secret).hexdigest()


def match_invite(invites: Mapping[str, InviteBody], invite_id: str, secret: bytes) -> InviteBody:
    """The invite that `secret` opens. Wrong and unknown take the same path and time (H10, C21).

    Raises:
        TokenRefused: `invite` is set when there is such an invite, so that only those are ever recorded.
    """
    invite = invites.get(invite_id)
    expected = invite.secret_hash if invite is not None else _NO_SECRET_HASH
    matches = hmac.compare_digest(secret_hash(secret).encode(), expected.encode())
    if invite is None:
        raise TokenRefused(f"there is no invite {shown(invite_id)}")
    if not matches:
        raise TokenRefused("wrong secret", invite=invite.id)
    return invite


async def spend_invite(registry: Registry, invite: InviteBody, *, key: str, source: str, now: float) -> Enrolment:
    """Gives the invite's name to `key`: once. The same key may come again and gets the same record.

    Args:
        registry: where invites are spent.
        invite: from the verified authority state, its secret already matched.
        key: hex SHA-256 of the SPKI DER of the key that asks.
        source: the peer's address.
        now: unix seconds.

    Raises:
        TokenRefused: expired, closed by a restore, or spent by another key. The refusal has been recorded.
        Unavailable: the registry does not answer; nothing was spent.
    """
    enrolment = Enrolment(
        role=invite.role, name=invite.name, key=key, at=int(now), source=source[:SOURCE_MAX], invite=invite.id
    )
    try:
        return await _spend(registry, invite, enrolment, now)
    except TokenRefused as refused:
        await record_refusal(registry, invite.id, key=key, source=source, now=now, reason=refused.detail)
        raise


async def _spend(registry: Registry, invite: InviteBody, enrolment: Enrolment, now: float) -> Enrolment:
    if now >= invite.expires_at:
        raise TokenRefused(f"expired at {_utc(invite.expires_at)}", invite=invite.id)
    # Written only into backups, so it cannot appear between this look and the write.
    if await registry.get(f"void/{invite.id}") is not None:
        raise TokenRefused("the registry was restored from a backup older than this enrolment", invite=invite.id)
    value = msgspec.json.encode(enrolment)
    try:
        await registry.transact(
            [Change(f"spent/{invite.id}", 0, value), Change(f"enrolled/{invite.role}/{invite.name}", ANY, value)]
        )
    except Conflict:
        return await _spent_before(registry, invite, enrolment)
    return enrolment


async def _spent_before(registry: Registry, invite: InviteBody, enrolment: Enrolment) -> Enrolment:
    """The existing record when the same key came again and nobody else has had the name since."""
    record = await registry.get(f"spent/{invite.id}")
    if record is None:
        raise TokenRefused("its record is gone from the registry", invite=invite.id)
    first = decode(record.value, Enrolment, max_bytes=RECORD_MAX_BYTES, what="enrolment record")
    if not hmac.compare_digest(first.key, enrolment.key):
        raise TokenRefused(f"used at {_utc(first.at)} from {first.source} by key {first.key}", invite=invite.id)
    latest = await read_enrolment(registry, invite.role, invite.name)
    if latest != first:
        raise TokenRefused(f"{invite.role} {invite.name} has been enrolled again since", invite=invite.id)
    return first


async def read_enrolment(registry: Registry, role: str, name: str) -> Enrolment | None:
    """The latest enrolment of an identity, None when there is none. Raises InputError when the record is damaged."""
    record = await registry.get(f"enrolled/{role}/{name}")
    if record is None:
        return None
    return decode(record.value, Enrolment, max_bytes=RECORD_MAX_BYTES, what="enrolment record")


async def record_refusal(registry: Registry, invite_id: str, *, key: str, source: str, now: float, reason: str) -> None:
    """Remembers a refused use of an existing invite. After the first 100 nothing more is written.

    A place that another refusal took first means going on to the next place, so this ends after at most 100 writes.
    """
    known, _ = await registry.read(f"refused/{invite_id}/")
    value = msgspec.json.encode(
        Refusal(at=int(now), source=source[:SOURCE_MAX], key=key[:64], reason=reason[:REASON_MAX])
    )
    for place in range(len(known), REFUSALS_MAX):
        try:
            await registry.transact([Change(f"refused/{invite_id}/{place:03d}", 0, value)])
        except Conflict:
            continue
        return


async def read_refusals(registry: Registry, invite_id: str) -> list[Refusal]:
    """The recorded refusals of one invite, oldest first. Raises InputError when one is damaged."""
    records, _ = await registry.read(f"refused/{invite_id}/")
    return [
        decode(record.value, Refusal, max_bytes=RECORD_MAX_BYTES, what="refusal record") for record in records.values()
    ]


def closing_invites(invites: Iterable[InviteBody], now: float) -> list[Change]:
    """Changes for a backup copy that close every invite still open, so that restoring the copy revives no token that
    was used after it was made (C20, F34)."""
    return [Change(f"void/{invite.id}", ANY, b"backup") for invite in invites if now < invite.expires_at]
