"""Pure: the authority log as a whole: verified entry by entry along its chain, and appended to under compare-and-set.

    log/<12 digits>   one SignedEntry each, JSON
    head              {"number", "hash"} of the last one

The registry is not trusted: what it holds is believed only after `verify_log`, and it must never go back (F34). Reading
and appending go through the Registry interface and make one attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgspec

from inventory.authority.entries import (
    AuthorityError,
    AuthorityFork,
    Body,
    DomainBody,
    Entry,
    InviteBody,
    OperatorBody,
    RevokeBody,
    SignedEntry,
    StaleEntry,
    VerifiedEntry,
    decode_signed,
    encode_signed,
    parse_hash,
    payload_hash,
    sign_entry,
    verify_entry,
)
from inventory.authority.keys import OperatorKey
from inventory.authority.state import AuthorityState, Draft
from inventory.errors import InputError
from inventory.names import parse_spiffe_id
from inventory.registries.interface import ANY, Change, Conflict, Registry
from inventory.strict_json import decode

HEAD_KEY = "head"
LOG_PREFIX = "log/"
NUMBER_MARK = "<number>"

_HEAD_MAX_BYTES = 256
_WENT_BACK_HINT = "restore a newer backup of the registry, or find out who replaced it"
_READ_SINGLY = 32
"""Up to this many new entries are fetched one by one rather than with the whole log."""


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the log goes, as the registry says."""

    number: int
    hash: str

    def __post_init__(self) -> None:
        parse_hash(self.hash, "hash of the head")
        if self.number < 1:
            raise InputError(f"{self.number} is not an entry number")


def log_key(number: int) -> str:
    return f"{LOG_PREFIX}{number:012d}"


def _check_place(draft: Draft, verified: VerifiedEntry) -> None:
    number = verified.number
    if number == draft.number and verified.hash != draft.head:
        raise AuthorityFork("another entry with this number is already known", number=number)
    if number <= draft.number:
        raise StaleEntry(f"entries up to {draft.number} are already known", number=number)
    if number != draft.number + 1:
        raise AuthorityError(f"entry {draft.number + 1} is missing before it", number=number)
    if verified.entry.previous != draft.head:
        raise AuthorityFork("it does not continue the entry before it", number=number)


def _check_operator(draft: Draft, verified: VerifiedEntry) -> None:
    if isinstance(verified.body, DomainBody) != (verified.number == 1):
        raise AuthorityError("entry 1, and only entry 1, names the trust domain", number=verified.number)
    if verified.number > 1 and verified.entry.operator not in draft.operators:
        raise AuthorityError(
            f"{verified.entry.operator[:16]}… is not an operator at this point of the log", number=verified.number
        )


def check_revocation(trust_domain: str, before: RevokeBody | None, body: RevokeBody, number: int) -> None:
    """A revocation's own rules, the same in a log and in a slice. Raises AuthorityError."""
    if parse_spiffe_id(body.spiffe_id).trust_domain != trust_domain:
        raise AuthorityError("it revokes an identity of another trust domain", number=number)
    if before is not None and not set(before.keys) <= set(body.keys):
        raise AuthorityError("it drops a revoked key; keys stay revoked for ever", number=number)


def _check_body(draft: Draft, verified: VerifiedEntry) -> None:
    number = verified.number
    match verified.body:
        case OperatorBody(key=key, removed=True):
            if key not in draft.operators:
                raise AuthorityError("it removes an operator that is none", number=number)
            if len(draft.operators) == 1:
                raise AuthorityError("it removes the last operator", number=number, hint="add another operator first")
        case InviteBody(id=invite) if invite in draft.invites:
            raise AuthorityError("it uses an invite's id again", number=number)
        case RevokeBody() as body:
            check_revocation(draft.trust_domain, draft.revocations.get(body.spiffe_id), body, number)


def _extend(draft: Draft, signed: SignedEntry) -> None:
    try:
        verified = verify_entry(signed)
    except AuthorityError as exc:
        # An entry that cannot be read has no number of its own that could be believed.
        raise AuthorityError(exc.what, number=exc.number or draft.number + 1, hint=exc.hint) from None
    _check_place(draft, verified)
    _check_operator(draft, verified)
    _check_body(draft, verified)
    draft.apply(verified)


def verify_log(signed_entries: Sequence[SignedEntry], state: AuthorityState | None = None) -> AuthorityState:
    """The state after `signed_entries`, which must continue `state` (from nothing: start with entry 1) without a gap.

    Whoever knows the trust domain's fingerprint compares it with `genesis_fingerprint` of entry 1.

    Raises:
        AuthorityError: an entry does not verify; names its number. StaleEntry when it is older than `state`,
            AuthorityFork when it contradicts it. Nothing of the batch counts then.
    """
    draft = Draft(state or AuthorityState())
    for signed in signed_entries:
        _extend(draft, signed)
    return draft.state()


def _went_back(last: int, seen: int) -> NoReturn:
    what = f"the registry went back: its log ends at entry {last}, entry {seen} was seen here before"
    raise AuthorityError(what, hint=_WENT_BACK_HINT)


def refuse_rollback(log: Sequence[SignedEntry], *, number: int, head: str) -> None:
    """Checks a registry's whole log against the last entry that this node has seen: its number and payload hash (F34).

    Raises:
        AuthorityError: "the registry went back: ...".
    """
    if len(log) < number:
        _went_back(len(log), number)
    if number and payload_hash(log[number - 1].payload) != head:
        raise AuthorityFork(
            "the registry went back: it is not the entry that was seen here before", number=number, hint=_WENT_BACK_HINT
        )


async def read_head(registry: Registry) -> Head | None:
    """How far the log goes; None when there is no log. Raises InputError when the record is damaged."""
    record = await registry.get(HEAD_KEY)
    return None if record is None else _decode_head(record.value)


def _decode_head(value: bytes) -> Head:
    return decode(value, Head, max_bytes=_HEAD_MAX_BYTES, what="head of the authority log")


async def read_log(registry: Registry, after: int = 0) -> list[SignedEntry]:
    """The entries after number `after` up to the head. Nothing is verified yet.

    Raises:
        AuthorityError: the log is shorter than `after` (the registry went back), or an entry is missing.
    """
    head = await read_head(registry)
    last = head.number if head else 0
    if last < after:
        _went_back(last, after)
    values: dict[str, bytes] = {}
    if last - after <= _READ_SINGLY:
        for number in range(after + 1, last + 1):
            record = await registry.get(log_key(number))
            if record is not None:
                values[log_key(number)] = record.value
    else:
        records, _ = await registry.read(LOG_PREFIX)
        values = {key: record.value for key, record in records.items()}
    log = []
    for number in range(after + 1, last + 1):
        value = values.get(log_key(number))
        if value is None:
            raise AuthorityError("it is missing in the registry", number=number)
        log.append(decode_signed(value))
    return log


def log_changes(entries: Sequence[SignedEntry], head: Head) -> list[Change]:
    """What puts these entries, which end with `head`, into a copy of the log, whatever is there."""
    first = head.number - len(entries) + 1
    changes = [Change(log_key(first + at), ANY, encode_signed(signed)) for at, signed in enumerate(entries)]
    return [*changes, Change(HEAD_KEY, ANY, msgspec.json.encode(head))]


async def append(
    registry: Registry,
    key: OperatorKey,
    bodies: Sequence[Body],
    *,
    message: str,
    now: float,
    attachments: Mapping[str, bytes] | None = None,
    state: AuthorityState | None = None,
) -> list[SignedEntry]:
    """Signs `bodies` as the next entries and writes them, the new head and `attachments` in one transaction.

    Args:
        registry: where the log is.
        key: an operator's; for an empty log, the first body must be the DomainBody.
        bodies: one or more.
        message: why, for people.
        now: unix seconds.
        attachments: more registry records to write; `<number>` in a key stands for the number of the first body.
        state: the verified state at the head, when the caller has it. Otherwise the whole log is read and verified.

    Raises:
        Conflict: the head moved, or is not that of `state`. Read again and decide again.
        AuthorityError: the log does not verify, or would not with these entries; nothing was written.
    """
    record = await registry.get(HEAD_KEY)
    head = _decode_head(record.value) if record else None
    if state is None:
        state = verify_log(await read_log(registry))
    if (head.number if head else 0) != state.number:
        raise Conflict(HEAD_KEY)
    if head and head.hash != state.head:
        raise AuthorityFork("the registry's head is not the entry that was verified", number=head.number)
    # An entry that others would refuse would stop the log for ever, so it is verified here as they will.
    draft = Draft(state)
    first = state.number + 1
    signed_entries = []
    for body in bodies:
        entry = Entry(
            number=draft.number + 1, previous=draft.head, at=int(now), operator=key.public, message=message, body=body
        )
        signed = sign_entry(entry, key)
        _extend(draft, signed)
        signed_entries.append(signed)
    changes = [Change(HEAD_KEY, record.version if record else 0, msgspec.json.encode(Head(draft.number, draft.head)))]
    changes += [Change(log_key(first + i), 0, encode_signed(signed)) for i, signed in enumerate(signed_entries)]
    changes += [
        Change(name.replace(NUMBER_MARK, str(first)), ANY, value) for name, value in (attachments or {}).items()
    ]
    await registry.transact(changes)
    return signed_entries
