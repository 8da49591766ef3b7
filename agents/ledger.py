"""I/O: what a gateway reads from its registry: the verified authority log, and the policy with its rules.

It only ever goes forward: a registry whose log is shorter than what this gateway has seen, or different, is refused and
an alarm is raised (F34). What was seen last is remembered on disk, so that this holds over restarts.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from agents.verified_log import VerifiedLog
from inventory.authority import AuthorityState, SignedEntry, read_log, refuse_rollback
from inventory.errors import InputError
from inventory.home import read_file, write_file
from inventory.policy_document import PolicyDocument, PolicySlicer, verify_document
from inventory.policy_rules import Rule
from inventory.registries.interface import Registry
from inventory.strict_json import decode

SEEN_FILE = "seen.json"
POLICY_PREFIX = "policy/"
_POLICY_MAX_BYTES = 16 * 1024 * 1024


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """seen.json: how far this gateway has seen the log."""

    number: int
    head: str


def read_seen(home: Path) -> Seen | None:
    """None when no gateway ran on this home yet. Raises MeshError when the file is damaged or cannot be read."""
    path = home / SEEN_FILE
    return decode(read_file(path), Seen, max_bytes=1024, what="seen.json") if path.exists() else None


class Ledger:
    """The verified state, the newest signed entry of every key, and the allow rules of the policy in force."""

    def __init__(self, registry: Registry, home: Path, genesis: str) -> None:
        self._registry = registry
        self._home = home
        self._log = VerifiedLog(registry, genesis)
        self._policy_number = 0
        self.allows: tuple[Rule, ...] = ()
        self.slicer: PolicySlicer | None = None

    @property
    def state(self) -> AuthorityState:
        return self._log.state

    @property
    def latest(self) -> dict[str, SignedEntry]:
        return self._log.latest

    async def load(self) -> None:
        """The whole log, verified from the beginning.

        Raises:
            AuthorityError: it does not verify, is another trust domain's, or went back.
        """
        seen = read_seen(self._home)
        if seen is not None:
            refuse_rollback(await read_log(self._registry), number=seen.number, head=seen.head)
        await self.refresh()

    async def refresh(self) -> bool:
        """Take what is new; whether there was anything. Raises AuthorityError; nothing new counts then."""
        if not await self._log.refresh() and self.state.policy_number == self._policy_number:
            return False
        state = self.state
        if state.policy is not None and state.policy_number != self._policy_number:
            document = await _policy_document(self._registry, state.policy_number)
            self.allows, self.slicer = verify_document(state.policy, document), PolicySlicer(document)
            self._policy_number = state.policy_number
        text = msgspec.json.encode(Seen(state.number, state.head))
        await trio.to_thread.run_sync(write_file, self._home / SEEN_FILE, text)
        return True


async def _policy_document(registry: Registry, number: int) -> PolicyDocument:
    record = await registry.get(f"{POLICY_PREFIX}{number}")
    if record is None:
        raise InputError(f"the policy of entry {number} is missing in the registry", hint="apply the policy again")
    return decode(record.value, PolicyDocument, max_bytes=_POLICY_MAX_BYTES, what="policy document")
