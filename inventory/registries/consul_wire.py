"""Pure: how a registry lies in Consul's KV, and the JSON of Consul's transactions (/v1/txn) that read and change it.

    live/about              {"format", "state"}; every change of ours requires the one it knows, so that a registry that
                            was moved away or replaced takes no more changes from whoever had it open before
    live/revision           set anew by every change, so its ModifyIndex is the number of the last one
    live/lease/<key>        a lease, locked by a session that deletes it when it ends
    record/<key>=           a record; a mark ends its name, so that it is no prefix of another one
    chunk/<id>/<number>     pieces of a value that is too large for one transaction; the record is their manifest

All below the estate's prefix. Keys go in bodies, never in URLs, which would give `//`, `..` and `%` another meaning.
Consul takes 64 operations and 512 KiB in one transaction; what needs more pieces is written first, seen by nobody, and
the one transaction that follows makes it count.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from inventory.errors import InputError
from inventory.registries.interface import CHANGES_MAX, VALUE_MAX, Change
from inventory.strict_json import decode

FORMAT = 1
OPERATIONS_MAX = 64
OURS = 3
"""Operations beside the changes: a transaction looks at live/about, sets live/revision and reads live/."""
assert CHANGES_MAX + OURS < OPERATIONS_MAX  # and room for a look at the pieces of a large value
REQUEST_MAX = 480 * 1024
"""Bytes of one transaction as JSON; Consul's own limit is 512 KiB unless it was set."""
CHUNK = 384 * 1024
"""Bytes of one piece of a large value; Consul's limit of a value is 512 KiB."""
ANSWER_MAX = 256 * 1024 * 1024

LIVE = "live/"
ABOUT = LIVE + "about"
REVISION = LIVE + "revision"
LEASES = LIVE + "lease/"
RECORDS = "record/"
CHUNKS = "chunk/"
END = "="
LARGE: Final = 1
"""Lowest bit of a record's flags: its value is a manifest."""

_OPERATION_BYTES = 1024
"""More than an operation of ours takes besides its value: a key of 512 and a prefix of 128 bytes, escaped."""
_MANIFEST_BYTES = 256


class Entry(msgspec.Struct, frozen=True, rename="pascal"):
    """One key of Consul's KV."""

    key: str
    value: bytes | None = None
    flags: int = 0
    modify_index: int = 0
    session: str | None = None


class _Result(msgspec.Struct, frozen=True):
    entry: Entry | None = msgspec.field(name="KV", default=None)


class Failure(msgspec.Struct, frozen=True):
    operation: int = msgspec.field(name="OpIndex", default=0)
    what: str = msgspec.field(name="What", default="")


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    results: list[_Result] | None = None
    errors: list[Failure] | None = None


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """live/about. `filling`: not whole yet. `moved`: the estate's registry is elsewhere now."""

    format: int
    state: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands in the place of a large value."""

    id: str
    chunks: int
    size: int
    sha256: str


class Outcome(msgspec.Struct, frozen=True):
    """Of one transaction: what it read, the last state of each key; or the first operation that stopped it."""

    entries: Mapping[str, Entry]
    failed: Failure | None = None


def read_outcome(body: bytes) -> Outcome:
    """Raises InputError."""
    answer = decode(body, _Answer, max_bytes=ANSWER_MAX, what="answer to a transaction")
    entries = {result.entry.key: result.entry for result in answer.results or () if result.entry is not None}
    failures = sorted(answer.errors or (), key=lambda failure: failure.operation)
    return Outcome(entries, failures[0] if failures else None)


def read_listing(body: bytes) -> dict[str, Entry]:
    """The answer to a GET of keys. Raises InputError."""
    listed = decode(body, list[Entry], max_bytes=ANSWER_MAX, what="list of keys")
    return {entry.key: entry for entry in listed}


def encode_operations(operations: Sequence[Mapping[str, Any]]) -> bytes:
    return msgspec.json.encode([{"KV": operation} for operation in operations])


def read(key: str) -> dict[str, Any]:
    """Fails where there is no such key."""
    return {"Verb": "get", "Key": key}


def read_tree(prefix: str) -> dict[str, Any]:
    return {"Verb": "get-tree", "Key": prefix}


def write(key: str, value: bytes, *, flags: int | None = None) -> dict[str, Any]:
    return {"Verb": "set", "Key": key, "Value": value, "Flags": fresh_flags() if flags is None else flags}


def fresh_flags() -> int:
    """New every time: Consul may take a write of what is there already for none, and leave its ModifyIndex."""
    return secrets.randbits(62) << 1


def operation(key: str, change: Change, manifest: Manifest | None) -> dict[str, Any]:
    """The one operation that makes `change` of the record stored at `key`, or fails."""
    if change.value is None:
        match change.expect:
            case None:
                return {"Verb": "delete", "Key": key}
            case 0:
                return {"Verb": "check-not-exists", "Key": key}
            case version:
                return {"Verb": "delete-cas", "Key": key, "Index": version}
    flags, value = fresh_flags(), change.value
    if manifest is not None:
        flags, value = flags | LARGE, msgspec.json.encode(manifest)
    if change.expect is None:
        return write(key, value, flags=flags)
    return {**write(key, value, flags=flags), "Verb": "cas", "Index": change.expect}


def too_large(changes: Sequence[Change]) -> list[Change]:
    """Those whose values have to be written in chunks first: the largest, until the others fit in one transaction."""
    total = (len(changes) + 3) * _OPERATION_BYTES
    total += sum(_encoded(len(change.value)) for change in changes if change.value is not None)
    found = []
    for change in sorted(changes, key=lambda change: len(change.value or b""), reverse=True):
        if total <= REQUEST_MAX:
            break
        total -= _encoded(len(change.value or b"")) - _encoded(_MANIFEST_BYTES)
        found.append(change)
    return found


def _encoded(size: int) -> int:
    return (size + 2) // 3 * 4


def make_manifest(value: bytes) -> Manifest:
    count = -(-len(value) // CHUNK)
    return Manifest(secrets.token_hex(16), count, len(value), hashlib.sha256(value).hexdigest())


def chunks_of(value: bytes) -> list[bytes]:
    return [value[at : at + CHUNK] for at in range(0, len(value), CHUNK)]


def chunk_key(manifest: Manifest, number: int) -> str:
    return f"{CHUNKS}{manifest.id}/{number:03d}"


def last_chunk_key(manifest: Manifest) -> str:
    """The smallest of them."""
    return chunk_key(manifest, manifest.chunks - 1)


def read_manifest(entry: Entry) -> Manifest:
    """Raises InputError."""
    manifest = decode(entry.value or b"", Manifest, max_bytes=1024, what="manifest of a large value")
    if not 0 < manifest.size <= VALUE_MAX or manifest.chunks > VALUE_MAX // CHUNK + 1:
        raise InputError("a manifest of an impossible size")
    if len(manifest.id) != 32 or not set(manifest.id) <= set("0123456789abcdef"):
        raise InputError("a manifest without a proper id")
    return manifest


def join_chunks(manifest: Manifest, chunks: Iterable[bytes]) -> bytes | None:
    """The value; None when these are not its pieces."""
    value = b"".join(chunks)
    return value if hashlib.sha256(value).hexdigest() == manifest.sha256 else None


def revision_of(live: Mapping[str, Entry], prefix: str) -> int:
    """One number for what `live/` says: another one as soon as a record or a lease changes, the same until then.

    Not the index of Consul's answer: that one changes with whatever else is written in the same Consul, and when the
    session of a lease does. 52 bits, so that every reader of JSON takes it.
    """
    told = hashlib.sha256()
    for key in sorted(live):
        entry = live[key]
        if key == prefix + REVISION:
            told.update(b"%d\n" % entry.modify_index)
        elif key.startswith(prefix + LEASES):
            told.update(msgspec.json.encode([key, entry.value]))
    return int.from_bytes(told.digest()[:8]) >> 12


def read_about(entry: Entry) -> About:
    """Raises InputError."""
    about = decode(entry.value or b"", About, max_bytes=1024, what="live/about")
    if about.format != FORMAT:
        raise InputError(
            f"the registry has format {about.format}, this program knows {FORMAT}",
            hint="run the version of meshbridge that wrote it, or a later one",
        )
    return about
