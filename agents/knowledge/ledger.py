"""I/O: what a gateway reads from its registry: the verified authority log, and the policy with its rules.

It only ever goes forward: a registry whose log is shorter than what this gateway has seen, or different, is refused and
an alarm is raised (F34). What was seen last is remembered on disk, so that this holds over restarts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import trio

from agents.knowledge.verified_log import VerifiedLog
from inventory.authority import AuthorityState, PolicyBody, SignedEntry, read_log, refuse_rollback
from inventory.errors import InputError
from inventory.home import read_file, write_file
from inventory.policy_document import PolicyDocument, PolicySlicer, verify_document
from inventory.policy_rules import Rule
from inventory.registries.interface import Registry
from inventory.strict_json import decode

SEEN_FILE = "seen.json"
POLICY_PREFIX = "policy/"
_SEEN_MAX_BYTES = 1024
_POLICY_MAX_BYTES = 16 * 1024 * 1024


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """seen.json: how far this gateway has seen the log."""

    number: int
    head: str


def read_seen(home: Path) -> Seen | None:
    """None when no gateway ran on this home yet. Raises MeshError when the file is damaged or cannot be read."""
    path = home / SEEN_FILE
    if not path.exists():
        return None
    try:
        return decode(read_file(path), Seen, max_bytes=_SEEN_MAX_BYTES, what="seen.json")
    except InputError as exc:
        hint = "it says how far the log went; put it back from a backup, or remove it if you trust the registry"
        raise InputError(exc.what, where=str(path), hint=exc.hint or hint) from None


class Ledger:
    """The verified state, the newest signed entry of every key, and the allow rules of the policy in force. All of them
    belong together: they are replaced at once, and only when everything new verifies."""

    def __init__(self, registry: Registry, home: Path, genesis: str) -> None:
        self._registry = registry
        self._home = home
        self._log = VerifiedLog(registry, genesis)
        self._one_at_a_time = trio.Lock()
        self._remembered = 0
        self.state = AuthorityState()
        self.latest: Mapping[str, SignedEntry] = {}
        self.allows: tuple[Rule, ...] = ()
        self.slicer: PolicySlicer | None = None
        self._touched: frozenset[str] = frozenset()

    def take_touched(self) -> frozenset[str]:
        """Keys of the entries by which the state differs from what it was when this was last called."""
        touched, self._touched = self._touched, frozenset()
        return touched

    async def load(self) -> None:
        """The whole log, verified from the beginning.

        Raises:
            AuthorityError: it does not verify, is another trust domain's, or went back.
        """
        seen = read_seen(self._home)
        if seen is not None:
            refuse_rollback(await read_log(self._registry), number=seen.number, head=seen.head)
            self._remembered = seen.number
        await self.refresh()

    async def refresh(self) -> bool:
        """Take what is new; whether there was anything.

        Raises:
            InputError: it does not verify (an AuthorityError), or the policy's rules are not there or not the signed
                ones. Nothing new counts then; to be asked again.
            Unavailable: the registry does not answer.
        """
        async with self._one_at_a_time:
            await self._log.refresh()
            state, latest = self._log.state, self._log.latest
            if state is self.state:
                return False
            allows, slicer = self.allows, self.slicer
            if state.policy is not None and state.policy_number != self.state.policy_number:
                document = await _policy_document(self._registry, state.policy_number)
                # In a thread: hashing and reading 10,000 rules takes a good part of a second.
                allows, slicer = await trio.to_thread.run_sync(_proved, state.policy, document)
            self.state, self.latest, self.allows, self.slicer = state, latest, allows, slicer
            self._touched |= self._log.take_touched()
            return True

    async def remember(self) -> None:
        """Note on disk how far the log went, so that it may not go back after a restart either.

        Raises:
            Unavailable: it cannot be written. What is known counts all the same.
        """
        state = self.state
        if state.number != self._remembered:
            text = msgspec.json.encode(Seen(state.number, state.head))
            await trio.to_thread.run_sync(write_file, self._home / SEEN_FILE, text)
            self._remembered = state.number


def _proved(policy: PolicyBody, document: PolicyDocument) -> tuple[tuple[Rule, ...], PolicySlicer]:
    return verify_document(policy, document), PolicySlicer(document)


async def _policy_document(registry: Registry, number: int) -> PolicyDocument:
    record = await registry.get(f"{POLICY_PREFIX}{number}")
    if record is None:
        raise InputError(f"the policy of entry {number} is missing in the registry", hint="apply the policy again")
    return decode(record.value, PolicyDocument, max_bytes=_POLICY_MAX_BYTES, what="policy document")
