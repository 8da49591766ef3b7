"""Pure: a slice of the authority log: what one host holds of it, single signed entries without the chain between them.

A gateway chooses what a host gets; this decides what the host believes. Rules, each a test:

    every entry     signed, and by a key that was an operator at the entry's number
    per key         a lower number than ever held never counts, the same number with other content is a fork
    per number      two different entries are a fork
    operators       held whole and in order, never dropped, only ever continued at the end
    removed key     once a removal is known, nothing more that this key signed is accepted
    revocations and the policy are never dropped; other keys may be, and a dropped key's number is remembered

So a lying gateway can hide or delay, but never forge, alter, or take back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec

from inventory.authority.entries import (
    AuthorityError,
    AuthorityFork,
    DomainBody,
    OperatorBody,
    RevokeBody,
    SignedEntry,
    StaleEntry,
    VerifiedEntry,
    parse_hash,
    verify_entry,
)
from inventory.authority.log import check_revocation
from inventory.authority.state import AuthorityState
from inventory.errors import InputError
from inventory.names import shown
from inventory.strict_json import decode

SLICE_MAX_BYTES = 256 * 1024 * 1024
"""A slice on disk: 100,000 entries of 2 KiB."""


class Floor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest entry ever held under a key that was dropped."""

    number: int
    hash: str

    def __post_init__(self) -> None:
        parse_hash(self.hash, "hash of a dropped entry")


class _SliceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="format", tag="slice-v1"):
    entries: tuple[SignedEntry, ...]
    floors: dict[str, Floor]


@dataclass(frozen=True)
class Slice:
    """Verified entries. Made by `start`, `applied` and `decode` only."""

    operators: tuple[VerifiedEntry, ...]
    """The genesis entry, then every operator entry, by number."""
    entries: Mapping[str, VerifiedEntry]
    """All other keys -> their newest entry."""
    floors: Mapping[str, Floor]

    @classmethod
    def start(cls, genesis: SignedEntry, fingerprint: str) -> Slice:
        """An empty slice of the trust domain whose genesis entry has this fingerprint (from a token, or from disk).

        Raises:
            AuthorityError: it is another trust domain's, or no genesis entry.
        """
        verified = verify_entry(genesis)
        if verified.hash != fingerprint:
            raise AuthorityError(
                f"this is another trust domain: fingerprint {verified.hash}, expected {shown(fingerprint)}", number=1
            )
        if verified.number != 1 or not isinstance(verified.body, DomainBody):
            raise AuthorityError("it is not a genesis entry", number=verified.number)
        return cls((verified,), {}, {})

    @property
    def genesis(self) -> DomainBody:
        body = self.operators[0].body
        assert isinstance(body, DomainBody)
        return body

    @property
    def fingerprint(self) -> str:
        return self.operators[0].hash

    @property
    def number(self) -> int:
        """The highest entry number held."""
        return max(self.operators[-1].number, max((e.number for e in self.entries.values()), default=0))

    @cached_property
    def state(self) -> AuthorityState:
        """What the held entries say. `number` and `head` are those of the newest one held; the chain is not known."""
        ordered = sorted([*self.operators, *self.entries.values()], key=lambda entry: entry.number)
        return AuthorityState().extended(ordered)

    def numbers(self) -> dict[str, int]:
        """Entry key -> number held, so that a gateway can tell what is new here."""
        return {entry.key: entry.number for entry in (*self.operators, *self.entries.values())}

    def applied(
        self, added: Sequence[SignedEntry], dropped: Iterable[str] = (), *, passes_over_older: bool = False
    ) -> Slice:
        """The slice with `added` in place of what they replace, without `dropped` keys. Entries held already are
        accepted again.

        Args:
            passes_over_older: an entry older than the one that is held or was dropped does not count, and is no error:
                one of several gateways may be behind the others.

        Raises:
            AuthorityError: an entry or a drop is refused, as the module says; the slice stays as it was. StaleEntry and
                AuthorityFork for those two cases.
        """
        batch = sorted(self._verified(added), key=lambda entry: entry.number)
        # A numbered place for each entry ever believed; 0 is none. Built before anything is accepted.
        hashes = {entry.number: entry.hash for entry in (*self.operators, *self.entries.values())}
        hashes.update((floor.number, floor.hash) for floor in self.floors.values())
        for entry in batch:
            if hashes.setdefault(entry.number, entry.hash) != entry.hash:
                raise AuthorityFork("two different entries have this number", number=entry.number)
        operators = _continued(self.operators, [e for e in batch if isinstance(e.body, DomainBody | OperatorBody)])
        terms = _Terms(operators, known=self.operators)
        entries, floors = dict(self.entries), dict(self.floors)
        for entry in batch:
            if isinstance(entry.body, DomainBody | OperatorBody):
                continue
            held = entries.get(entry.key)
            if held is not None and held.hash == entry.hash:
                continue
            try:
                _check_replaces(entry, held, floors.get(entry.key))
            except StaleEntry:
                if passes_over_older:
                    continue
                raise
            # What was believed once, before it was dropped, is not the removed key's word alone.
            terms.check(entry, seen_before=entry.key in floors and floors[entry.key].hash == entry.hash)
            if isinstance(entry.body, RevokeBody):
                before = held.body if held is not None and isinstance(held.body, RevokeBody) else None
                check_revocation(self.genesis.trust_domain, before, entry.body, entry.number)
            entries[entry.key] = entry
            floors.pop(entry.key, None)
        for key in dropped:
            _drop(key, entries, floors)
        return replace(self, operators=operators, entries=entries, floors=floors)

    def _verified(self, added: Sequence[SignedEntry]) -> list[VerifiedEntry]:
        """What is held already, byte for byte, was verified when it came: a host that comes back is sent all again."""
        held = {entry.signed.payload: entry for entry in (*self.operators, *self.entries.values())}
        found = []
        for signed in added:
            entry = held.get(signed.payload)
            found.append(entry if entry is not None and entry.signed == signed else verify_entry(signed))
        return found

    def encode(self) -> bytes:
        """For the disk. Not secret; every entry in it is verified again by `decode`."""
        held = (*self.operators, *self.entries.values())
        return msgspec.json.encode(_SliceFile(tuple(entry.signed for entry in held), dict(self.floors)))

    @classmethod
    def decode(cls, data: bytes, fingerprint: str) -> Slice:
        """A slice from disk.

        Raises:
            InputError: damaged, or of another trust domain. Start again from an empty one then.
        """
        file = decode(data, _SliceFile, max_bytes=SLICE_MAX_BYTES, what="authority slice")
        if not file.entries:
            raise InputError("authority slice is empty")
        empty = cls.start(file.entries[0], fingerprint)
        return replace(empty, floors=file.floors).applied(file.entries[1:])


def _continued(held: tuple[VerifiedEntry, ...], batch: Sequence[VerifiedEntry]) -> tuple[VerifiedEntry, ...]:
    """The operators' own log with the new entries of `batch` at its end, each signed by an operator of that moment."""
    result = list(held)
    known = {entry.hash for entry in held}
    valid = _Terms(held, known=held)
    for entry in batch:
        if entry.hash in known:
            continue
        if not isinstance(entry.body, OperatorBody):
            raise AuthorityFork("a second genesis entry", number=entry.number)
        if entry.number < result[-1].number:
            raise StaleEntry(f"operators up to entry {result[-1].number} are already known", number=entry.number)
        valid.check(entry)
        result.append(entry)
        valid = _Terms(tuple(result), known=held)
    return tuple(result)


class _Terms:
    """From which entry number to which each key was an operator: a few intervals per key."""

    def __init__(self, operators: tuple[VerifiedEntry, ...], *, known: tuple[VerifiedEntry, ...]) -> None:
        self._terms: dict[str, list[tuple[int, int | None]]] = {operators[0].entry.operator: [(1, None)]}
        for entry in operators[1:]:
            assert isinstance(entry.body, OperatorBody)
            terms = self._terms.setdefault(entry.body.key, [])
            if entry.body.removed and terms and terms[-1][1] is None:
                terms[-1] = (terms[-1][0], entry.number)
            elif not entry.body.removed and (not terms or terms[-1][1] is not None):
                terms.append((entry.number, None))
        self._known_until = known[-1].number

    def check(self, entry: VerifiedEntry, *, seen_before: bool = False) -> None:
        """Raises AuthorityError unless the signer was an operator at the entry's number, and, if its term is over, its
        end was news in this very batch."""
        for begin, end in self._terms.get(entry.entry.operator, ()):
            if begin < entry.number and (end is None or entry.number < end):
                if end is not None and end <= self._known_until and not seen_before:
                    raise AuthorityError("it is by an operator that was removed since", number=entry.number)
                return
        raise AuthorityError(f"{entry.entry.operator[:16]}… was no operator then", number=entry.number)


def _check_replaces(entry: VerifiedEntry, held: VerifiedEntry | None, floor: Floor | None) -> None:
    least = held.number if held is not None else floor.number if floor is not None else 0
    if entry.number < least:
        raise StaleEntry(f"entry {least} about {shown(entry.key)} is already known", number=entry.number)


def _drop(key: str, entries: dict[str, VerifiedEntry], floors: dict[str, Floor]) -> None:
    if key in ("domain", "policy") or key.startswith(("operator/", "revoke/")):
        raise AuthorityError(f"{shown(key)} can never be dropped")
    held = entries.pop(key, None)
    if held is not None:
        floors[key] = Floor(held.number, held.hash)
