"""Pure: what a registry is: versioned keys, all-or-nothing changes under compare-and-set, a watch, and leases.

A registry stores and tells; it is not trusted with authority, so nothing here is about who may. Every implementation
passes the suite in tests/support/registry_contract.py. It makes one attempt and raises; only agents retry.

Keys are printable ASCII without spaces, laid out like paths; values are bytes. A key's version is a number above 0 that
never comes back for that key; a missing key has version 0. Revisions number the changes of one opened registry: equal
means nothing changed; they mean nothing to another process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from inventory.errors import InputError, Unavailable
from inventory.names import shown

KEY_MAX = 512
VALUE_MAX = 16 * 1024 * 1024
"""Bytes of one value; the largest is a signed policy entry."""
CHANGES_MAX = 60
"""Changes that every registry takes at once; Consul's transactions end at 64 operations, some of which we need."""

ANY: Final = None
"""Expect whatever is there, or nothing."""

_KEY = re.compile(r"[\x21-\x7e]{1,512}", re.ASCII)


class Conflict(Unavailable):
    """A key did not have the version that a change expected; nothing was changed. Read again and decide again."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the registry changed meanwhile at {shown(key)}", hint="run the command again")
        self.key = key


@dataclass(frozen=True, slots=True)
class Record:
    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Change:
    """Write `value` at `key`, or delete it (None), provided its version is `expect` (0: none; ANY: any or none)."""

    key: str
    expect: int | None
    value: bytes | None

    def __post_init__(self) -> None:
        parse_key(self.key)
        if self.value is not None and len(self.value) > VALUE_MAX:
            raise InputError(f"a value of {len(self.value)} bytes, at most {VALUE_MAX} are allowed", where=self.key)


def parse_key(text: str) -> str:
    """A registry key. Raises InputError."""
    if not _KEY.fullmatch(text):
        raise InputError(f"{shown(text)} is not a registry key: 1 to {KEY_MAX} printable ASCII characters, no spaces")
    return text


class Registry(Protocol):
    """All methods raise Unavailable when the store cannot answer. They may be called from many tasks at once."""

    async def read(self, prefix: str) -> tuple[Mapping[str, Record], int]:
        """Every record whose key starts with `prefix` ("" for all), in key order, and the revision of that moment."""
        ...

    async def get(self, key: str) -> Record | None: ...

    async def transact(self, changes: Sequence[Change]) -> int:
        """All of `changes` or none, durable when it returns. A key may occur once. Every registry takes CHANGES_MAX
        changes at once; one that takes no more says so before it writes anything.

        Returns:
            The revision after it.

        Raises:
            Conflict: a version differs; names the first such key.
            InputError: these are more changes than it takes at once.
        """
        ...

    async def watch(self, after_revision: int) -> int:
        """The current revision, as soon as it differs from `after_revision`. Several changes may be told as one."""
        ...

    def nudge(self) -> None:
        """Says that something changed, maybe in another process: every watch here looks again now."""
        ...

    async def tidy(self) -> int:
        """Removes what killed processes may have left in the store, none of which is a record; how much it was. To be
        called now and then."""
        ...

    async def lease(self, key: str, value: bytes, ttl: float) -> None:
        """Says `value` under `key` for `ttl` seconds from now. Renewed, and changed, by calling again; ends with the
        process that holds it, though others may see it for up to 20 s or twice its time after a process that was
        killed. Leases have keys of their own, apart from records."""
        ...

    async def release(self, key: str) -> None:
        """Ends a lease now. Nothing happens when there is none."""
        ...

    async def leases(self, prefix: str) -> Mapping[str, bytes]:
        """The live leases whose key starts with `prefix`, in key order."""
        ...
