"""I/O: what a gateway reads from its registry: the verified authority log, and the policy with its rules.

It only ever goes forward: a registry whose log is shorter than what this gateway has seen, or different, is refused and
an alarm is raised (F34). What was seen last is remembered on disk, so that this holds over restarts. Where the registry
is elsewhere, what was verified is kept on disk too, and a gateway that starts without its registry starts from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trio

from agents.knowledge.seen import read_seen, write_seen
from agents.knowledge.verified_log import VerifiedLog
from bridge import limits
from bridge.logs import get_logger
from inventory.authority import (
    AuthorityError,
    AuthorityState,
    PolicyBody,
    SignedEntry,
    read_head,
    read_log,
    refuse_rollback,
)
from inventory.authority.log import Head, log_changes
from inventory.errors import InputError, MeshError, Unavailable
from inventory.policy_document import PolicyDocument, PolicySlicer, verify_document
from inventory.policy_rules import Rule
from inventory.registries.interface import ANY, Change, Registry
from inventory.strict_json import decode

log = get_logger()

POLICY_PREFIX = "policy/"
_POLICY_MAX_BYTES = 16 * 1024 * 1024


class Ledger:
    """The verified state, the newest signed entry of every key, and the allow rules of the policy in force. All of them
    belong together: they are replaced at once, and only when everything new verifies."""

    def __init__(self, registry: Registry, home: Path, genesis: str, *, kept: Registry | None = None) -> None:
        self._registry = registry
        self._home = home
        self._kept = kept
        self._log = VerifiedLog(registry, genesis, collects=kept is not None)
        self._one_at_a_time = trio.Lock()
        self._remembered = 0
        self.is_alone = False
        """Whether `load` found no registry and took what was kept."""
        self.state = AuthorityState()
        self.latest: Mapping[str, SignedEntry] = {}
        self.allows: tuple[Rule, ...] = ()
        self.slicer: PolicySlicer | None = None
        self._touched: frozenset[str] = frozenset()
        self._policy_kept = 0
        self._policy_unkept: bytes | None = None

    def take_touched(self) -> frozenset[str]:
        """Keys of the entries by which the state differs from what it was when this was last called."""
        touched, self._touched = self._touched, frozenset()
        return touched

    async def load(self) -> None:
        """The whole log, verified from the beginning.

        Raises:
            AuthorityError: it does not verify, is another trust domain's, or went back.
            Unavailable: the registry does not answer, and nothing is kept that could stand in for it.
        """
        seen = read_seen(self._home)
        source = self._registry
        if self._kept is not None and await read_head(self._kept) is not None:
            await self._load_kept(self._kept)
            self._policy_kept = self.state.policy_number
            if seen is None or self.state.number >= seen.number:
                source = self._kept
        if seen is not None:
            refuse_rollback(await read_log(source), number=seen.number, head=seen.head)
            self._remembered = seen.number
        if source is not self._kept:
            await self.refresh()
            return
        # What was verified before is good without the registry. Whoever follows it says what is wrong, and looks again.
        reason = "it does not answer"
        with trio.move_on_after(limits.REGISTRY_PATIENCE):
            try:
                await self.refresh()
                return
            except (Unavailable, AuthorityError) as exc:
                reason = str(exc)
        self.is_alone = True
        log.error("started without the registry", number=self.state.number, reason=reason)

    async def _load_kept(self, kept: Registry) -> None:
        try:
            await self.refresh(kept)
        except MeshError as exc:
            what, hint = f"what was kept of the registry cannot be used: {exc}", "remove kept.db: it is made anew"
            raise InputError(what, where=str(self._home), hint=hint) from None

    async def refresh(self, source: Registry | None = None) -> bool:
        """Take what is new; whether there was anything.

        Args:
            source: as for `VerifiedLog.refresh`.

        Raises:
            InputError: it does not verify (an AuthorityError), or the policy's rules are not there or not the signed
                ones. Nothing new counts then; to be asked again.
            Unavailable: the registry does not answer.
        """
        async with self._one_at_a_time:
            await self._log.refresh(source)
            state, latest = self._log.state, self._log.latest
            if state is self.state:
                return False
            allows, slicer = self.allows, self.slicer
            if state.policy is not None and state.policy_number != self.state.policy_number:
                record = await _policy_record(source or self._registry, state.policy_number)
                # In a thread: hashing and reading 10,000 rules takes a good part of a second.
                allows, slicer = await trio.to_thread.run_sync(_proved, state.policy, record)
                self._policy_unkept = record if self._kept is not None and source is None else None
            self.state, self.latest, self.allows, self.slicer = state, latest, allows, slicer
            self._touched |= self._log.take_touched()
            return True

    async def remember(self) -> None:
        """Note on disk how far the log went, so that it may not go back after a restart either.

        Raises:
            Unavailable: it cannot be written. What is known counts all the same.
        """
        state = self.state
        if self._kept is not None:
            await self._keep(self._kept)
        if state.number != self._remembered:
            await trio.to_thread.run_sync(write_seen, self._home, state)
            self._remembered = state.number

    async def _keep(self, kept: Registry) -> None:
        """Adds what is new to the copy: entries and policy at once, so that it is never one without the other."""
        verified, state = self._log, self.state
        if state is not verified.state or not verified.unkept:
            return
        new, head = list(verified.unkept), Head(state.number, state.head)
        policy = []
        if state.policy_number != self._policy_kept and self._policy_unkept is not None:
            policy = [Change(f"{POLICY_PREFIX}{state.policy_number}", ANY, self._policy_unkept)]
            policy += [Change(f"{POLICY_PREFIX}{self._policy_kept}", ANY, None)] if self._policy_kept else []
        await kept.transact([*log_changes(new, head), *policy])
        del verified.unkept[: len(new)]
        self._policy_kept, self._policy_unkept = state.policy_number, None


def _proved(policy: PolicyBody, record: bytes) -> tuple[tuple[Rule, ...], PolicySlicer]:
    document = decode(record, PolicyDocument, max_bytes=_POLICY_MAX_BYTES, what="policy document")
    return verify_document(policy, document), PolicySlicer(document)


async def _policy_record(registry: Registry, number: int) -> bytes:
    record = await registry.get(f"{POLICY_PREFIX}{number}")
    if record is None:
        raise InputError(f"the policy of entry {number} is missing in the registry", hint="apply the policy again")
    return record.value
