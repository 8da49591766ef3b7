"""Pure: the entries of the authority log: the exact bytes signed, and how a single one is checked.

A signature covers `ENTRY_CONTEXT` and the payload as sent. A payload is never encoded again to be verified (H20).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from inventory.authority.bodies import (
    MESSAGE_MAX,
    AdmissionBody,
    Body,
    ClientBody,
    DomainBody,
    GatewayBody,
    HostBody,
    ImportBody,
    InstanceBody,
    InviteBody,
    OperatorBody,
    PolicyBody,
    PublishBody,
    ReachBody,
    RevokeBody,
    entry_key,
    parse_hash,
)
from inventory.authority.keys import SIGNATURE_BYTES, OperatorKey, verify
from inventory.errors import InputError
from inventory.strict_json import decode

__all__ = [
    "NO_PREVIOUS",
    "AdmissionBody",
    "AuthorityError",
    "AuthorityFork",
    "Body",
    "ClientBody",
    "DomainBody",
    "Entry",
    "GatewayBody",
    "HostBody",
    "ImportBody",
    "InstanceBody",
    "InviteBody",
    "OperatorBody",
    "PolicyBody",
    "PublishBody",
    "ReachBody",
    "RevokeBody",
    "SignedEntry",
    "StaleEntry",
    "VerifiedEntry",
    "decode_signed",
    "encode_signed",
    "entry_key",
    "genesis_fingerprint",
    "parse_hash",
    "payload_hash",
    "sign_entry",
    "verify_entry",
]

ENTRY_CONTEXT = b"meshbridge authority entry v1\n"
"""Signed in front of every payload, so that a signature made for anything else never fits an entry."""
NO_PREVIOUS = "0" * 64
ENTRY_MAX_BYTES = 8 * 1024 * 1024
"""One payload; the largest is a policy's deny rules. In base64 it still fits one control message of 16 MiB."""
SIGNED_MAX_BYTES = ENTRY_MAX_BYTES // 3 * 4 + 1024


class AuthorityError(InputError):
    """An entry or log that must not be believed. `number` is the entry's number, 0 when there is none to name."""

    def __init__(self, what: str, *, number: int = 0, hint: str = "") -> None:
        super().__init__(what, where=f"authority log entry {number}" if number else "authority log", hint=hint)
        self.number = number


class AuthorityFork(AuthorityError):
    """Two different signed entries under one number: an operator key was used on two histories. Raise an alarm."""


class StaleEntry(AuthorityError):
    """An entry older than the one already held."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    number: int
    previous: str
    """SHA-256 of the previous entry's payload, hex; 64 zeros for number 1."""
    at: int
    """Unix seconds by the operator's clock. For people; decides nothing."""
    operator: str
    """Public key of the signer, hex."""
    message: str
    body: Body

    def __post_init__(self) -> None:
        if self.number < 1:
            raise InputError(f"{self.number} is not an entry number")
        parse_hash(self.previous, "hash of the previous entry")
        if len(self.message) > MESSAGE_MAX:
            raise InputError(f"the message has {len(self.message)} characters, at most {MESSAGE_MAX} are allowed")


class SignedEntry(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An entry as it travels and is stored: the bytes that were signed, and the signature."""

    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class VerifiedEntry:
    """An entry signed by the operator it names. Whether that operator counts is for the log or the slice."""

    signed: SignedEntry
    entry: Entry
    hash: str
    key: str

    @property
    def number(self) -> int:
        return self.entry.number

    @property
    def body(self) -> Body:
        return self.entry.body


def payload_hash(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def genesis_fingerprint(signed: SignedEntry) -> str:
    """What a token pins: SHA-256 of the genesis payload, hex."""
    return payload_hash(signed.payload)


def sign_entry(entry: Entry, key: OperatorKey) -> SignedEntry:
    """`entry` under the signature of `key`, whose public half it must name."""
    if entry.operator != key.public:
        raise AuthorityError("the entry names another operator than the one who signs it", number=entry.number)
    payload = msgspec.json.encode(entry)
    if len(payload) > ENTRY_MAX_BYTES:
        raise AuthorityError(
            f"the entry has {len(payload)} bytes, at most {ENTRY_MAX_BYTES} are allowed", number=entry.number
        )
    return SignedEntry(payload, key.sign(ENTRY_CONTEXT + payload))


def verify_entry(signed: SignedEntry) -> VerifiedEntry:
    """The entry inside, once its signature by the operator it names holds.

    Raises:
        AuthorityError: unknown kind or field, a bad value, a bad key, a bad signature.
    """
    try:
        entry = decode(signed.payload, Entry, max_bytes=ENTRY_MAX_BYTES, what="authority log entry")
        good = len(signed.signature) == SIGNATURE_BYTES and verify(
            entry.operator, ENTRY_CONTEXT + signed.payload, signed.signature
        )
    except InputError as exc:
        raise AuthorityError(exc.what, hint=exc.hint) from None
    if not good:
        raise AuthorityError("the signature is not by the operator that the entry names", number=entry.number)
    return VerifiedEntry(signed, entry, payload_hash(signed.payload), entry_key(entry.body))


def encode_signed(signed: SignedEntry) -> bytes:
    """JSON with base64, as the registry and slices keep it."""
    return msgspec.json.encode(signed)


def decode_signed(data: bytes) -> SignedEntry:
    """Raises InputError. Nothing is verified yet."""
    return decode(data, SignedEntry, max_bytes=SIGNED_MAX_BYTES, what="signed authority log entry")
