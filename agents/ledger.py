"""I/O: a gateway's verified copy of the authority log, and what it takes to send parts of it to hosts.

It only ever goes forward: a registry whose log is shorter than what this gateway has seen, or different, is refused and
an alarm is raised (F34). What was seen last is remembered on disk, so that this holds over restarts.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from inventory.authority import (
    AuthorityError,
    AuthorityState,
    SignedEntry,
    genesis_fingerprint,
    read_log,
    refuse_rollback,
    verify_entry,
    verify_log,
)
from inventory.errors import InputError
from inventory.home import read_file, write_file
from inventory.policy_document import PolicyDocument, PolicySlicer, verify_document
from inventory.policy_rules import Rule
from inventory.registries.interface import Registry
from inventory.strict_json import decode

SEEN_FILE = "seen.json"
POLICY_PREFIX = "policy/"
_POLICY_MAX_BYTES = 16 * 1024 * 1024


class _Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: int
    head: str


class Ledger:
    """The verified state, the newest signed entry of every key, and the policy with its rules."""

    def __init__(self) -> None:
        self.state = AuthorityState()
        self.latest: dict[str, SignedEntry] = {}
        self.allows: tuple[Rule, ...] = ()
        self.slicer: PolicySlicer | None = None

    @classmethod
    async def load(cls, registry: Registry, home: Path, genesis: str) -> Ledger:
        """The whole log, verified from the beginning.

        Raises:
            AuthorityError: it does not verify, is another trust domain's, or went back.
        """
        ledger = cls()
        entries = await read_log(registry)
        if not entries or genesis_fingerprint(entries[0]) != genesis:
            raise AuthorityError("the registry holds another trust domain, or none", hint="is this the right --home?")
        path = home / SEEN_FILE
        if path.exists():
            seen = decode(read_file(path), _Seen, max_bytes=1024, what="seen.json")
            refuse_rollback(entries, number=seen.number, head=seen.head)
        await ledger._take(registry, entries)
        await ledger.remember(home)
        return ledger

    async def follow(self, registry: Registry) -> bool:
        """Take what is new; whether there was anything. Raises AuthorityError; nothing of it counts then."""
        entries = await read_log(registry, after=self.state.number)
        if entries:
            await self._take(registry, entries)
        return bool(entries)

    async def _take(self, registry: Registry, entries: list[SignedEntry]) -> None:
        state = await trio.to_thread.run_sync(verify_log, entries, self.state)
        if state.policy is not None and state.policy_number != self.state.policy_number:
            document = await _policy_document(registry, state.policy_number)
            allows = verify_document(state.policy, document)
            self.allows, self.slicer = allows, PolicySlicer(document)
        for signed in entries:
            self.latest[verify_entry(signed).key] = signed
        self.state = state

    async def remember(self, home: Path) -> None:
        text = msgspec.json.encode(_Seen(self.state.number, self.state.head))
        await trio.to_thread.run_sync(write_file, home / SEEN_FILE, text)


async def _policy_document(registry: Registry, number: int) -> PolicyDocument:
    record = await registry.get(f"{POLICY_PREFIX}{number}")
    if record is None:
        raise InputError(f"the policy of entry {number} is missing in the registry", hint="apply the policy again")
    return decode(record.value, PolicyDocument, max_bytes=_POLICY_MAX_BYTES, what="policy document")
