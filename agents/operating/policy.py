"""I/O: what an operator does with the policy: apply it, read it back, compare it.

The registry keeps the text and the allow rules beside the log, under `policy/<entry number>`; both count only when they
are what the entry says they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from agents.estate import Operator
from agents.knowledge.ledger import POLICY_PREFIX
from inventory.authority import AuthorityState
from inventory.authority.log import NUMBER_MARK
from inventory.errors import InputError
from inventory.imports import instance_of
from inventory.loading.policy_file import PolicyFile
from inventory.policy_document import PolicyDocument, build, verify_document
from inventory.policy_rules import Rule, parse_subject, parse_target
from inventory.registries.interface import VALUE_MAX, Registry
from inventory.strict_json import decode


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """The policy in force. `number` is 0 and the rest empty when none was ever applied."""

    number: int = 0
    source: str = ""
    rules: tuple[Rule, ...] = ()
    """Denies, then allows."""
    allows: tuple[Rule, ...] = ()


async def read_policy(registry: Registry, state: AuthorityState) -> AppliedPolicy:
    """The policy in force, checked against its signed entry.

    Raises:
        InputError: the registry has lost it, or holds another.
    """
    if state.policy is None:
        return AppliedPolicy()
    record = await registry.get(f"{POLICY_PREFIX}{state.policy_number}")
    if record is None:
        raise InputError(
            f"the text of policy entry {state.policy_number} is missing in the registry", hint="apply the policy again"
        )
    document = decode(record.value, PolicyDocument, max_bytes=VALUE_MAX, what="policy document")
    allows = verify_document(state.policy, document)
    return AppliedPolicy(state.policy_number, document.source, (*state.policy.denies, *allows), allows)


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """By rule name, each sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed)


def compare(before: Iterable[Rule], after: Iterable[Rule]) -> PolicyChange:
    """Pure: what a new policy changes."""
    old, new = ({rule.name: rule for rule in rules} for rules in (before, after))
    return PolicyChange(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )


def matching_nothing(rules: Iterable[Rule], state: AuthorityState) -> list[str]:
    """Pure: what the rules name that is not in the estate (yet), in words. Ahead of time that is right; it may also be
    a slip, and in a deny rule a slip protects nothing."""
    hosts, clients = tuple(state.hosts.values()), tuple(state.clients.values())
    instances = (*state.instances.values(), *(instance_of(i, "", port=0) for i in state.imports.values()))
    services = {i.service for i in instances} | {service for host in hosts for service in host.serves}
    found = []
    for rule in rules:
        for text in rule.sources:
            subject = parse_subject(text)
            if not (any(map(subject.matches_host, hosts)) or any(map(subject.matches_client, clients))):
                what = "client" if subject.kind == "client" else "host"
                found.append(f"{rule.effect} {rule.name!r}: no {what} is {text}")
        for text in rule.to:
            target = parse_target(text)
            carried = any(map(target.carried_by, instances))
            if not (carried if target.key else any(map(target.glob.matches, services))):
                found.append(f"{rule.effect} {rule.name!r}: no service is {text}")
    return found


async def apply_policy(operator: Operator, file: PolicyFile, message: str) -> int:
    """Signs the policy in the file; the number of its entry. The very text that is in force already changes nothing."""
    body, document = build(file.rules, file.source)

    def is_news(state: AuthorityState) -> bool:
        return state.policy is None or state.policy.source_hash != body.source_hash

    await operator.append(
        lambda state: [body] if is_news(state) else [],
        message=message,
        attachments={f"{POLICY_PREFIX}{NUMBER_MARK}": msgspec.json.encode(document)},
    )
    return operator.state.policy_number
