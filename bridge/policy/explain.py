"""Pure: the same answer as `decide`, in words. Which rules came close, and what of each did or did not apply.

A rule came close when it is about the subject or about the service. It decides nothing here: the answer is taken from
`decide`, and the words are about the same rules, so the two cannot drift apart unnoticed (a property test compares).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.policy.decide import Decision, Permit, Subject, decide, why_not_now
from inventory.model import Host, Service
from inventory.names import shown
from inventory.policy_index import CompiledRule, bits_of
from inventory.policy_rules import TargetPattern, parse_target
from inventory.snapshot import Snapshot

RULES_SHOWN = 20
REMARKS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class RuleRemark:
    """One rule that came close. `missing` says what kept it from acting; empty when it did act."""

    rule: str
    effect: str
    missing: tuple[str, ...]

    def __str__(self) -> str:
        verdict = f"does not apply: {'; '.join(self.missing)}" if self.missing else "applies"
        return f"{self.effect} {self.rule!r} {verdict}"


@dataclass(frozen=True, slots=True)
class Explanation:
    decision: Decision
    remarks: tuple[str, ...]
    """About the subject and the service themselves: unknown, revoked, draining."""
    rules: tuple[RuleRemark, ...]
    """Those that acted first, then the nearest misses; at most 20."""
    left_out: int
    """Rules that came close and are not among `rules`."""

    def lines(self) -> list[str]:
        """For people: the answer, then why."""
        decision = self.decision
        if isinstance(decision, Permit):
            answer = f"allowed: {decision.subject} may reach {decision.service} by rule {decision.rule!r}"
        else:
            answer = f"refused: {decision.subject} may not reach {shown(decision.service)[1:-1]}: {decision.reason}"
        rest = [f"{self.left_out} more rules came close"] if self.left_out else []
        return [answer, *self.remarks, *(str(remark) for remark in self.rules), *rest]


def explain(
    snapshot: Snapshot, subject: Subject, service_name: str, *, now: float, user: str | None = None
) -> Explanation:
    """Why `decide` answers as it does. Arguments as there."""
    index = snapshot.index
    host = snapshot.host(subject.name) if subject.kind == "host" else None
    service = snapshot.service(service_name)
    about_subject = _rules_about(snapshot, subject, host)
    # A service without instances still has a name, and rules may be about it.
    about_service = index.to_instances(service_name, service.instances if service else ())
    remarks = []
    for bit in bits_of(about_subject | about_service):
        rule = index.rules[bit]
        missing: list[str] = []
        if not about_subject >> bit & 1:
            missing.append(_source_missed(rule, subject))
        if not about_service >> bit & 1:
            missing.append(_target_missed(rule, service_name, service))
        if (later := why_not_now(rule, now, user)) is not None:
            missing.append(later)
        remarks.append(RuleRemark(rule.rule.name, rule.rule.effect, tuple(missing)))
    words = _about_names(snapshot, subject, service_name, host=host, service=service)
    remarks.sort(key=lambda r: (len(r.missing), r.effect == "allow", r.rule))
    return Explanation(
        decision=decide(snapshot, subject, service_name, now=now, user=user),
        remarks=tuple(words[:REMARKS_SHOWN]),
        rules=tuple(remarks[:RULES_SHOWN]),
        left_out=max(0, len(remarks) - RULES_SHOWN),
    )


def _rules_about(snapshot: Snapshot, subject: Subject, host: Host | None) -> int:
    if subject.kind == "client":
        client = snapshot.authority.clients.get(subject.name)
        return snapshot.index.from_client(client) if client is not None else 0
    return snapshot.index.from_host(host) if host is not None else 0


def _list(texts: Iterable[str]) -> str:
    """At most three, so that a rule with a thousand subjects stays one line."""
    every = list(texts)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")


def _source_missed(rule: CompiledRule, subject: Subject) -> str:
    words = f"its from is {_list(rule.rule.sources)}, which {subject} is not"
    starred = any(text.startswith(f"{subject.kind}:") and "*" in text for text in rule.rule.sources)
    # The usual surprise: `host:*` leaves out every host with a dot in its name.
    return f"{words} (* stays inside one label, ** spans several)" if starred and "." in subject.name else words


def _target_missed(rule: CompiledRule, service_name: str, service: Service | None) -> str:
    """Why none of the rule's targets is the service. A label carried by some instances only is the usual surprise."""
    for target in (parse_target(text) for text in rule.rule.to):
        if target.key and service is not None and (words := _lacking(target, service)):
            return words
    return f"its to is {_list(rule.rule.to)}, which {shown(service_name)[1:-1]} is not"


def _lacking(target: TargetPattern, service: Service) -> str:
    """In words, the instances without the label, when others have it."""
    lacking = [instance.id for instance in service.instances if not target.carried_by(instance)]
    if len(lacking) == len(service.instances):
        return ""
    return f"{len(lacking)} of {len(service.instances)} instances do not carry {target}: {_list(lacking)}"


def _about_names(
    snapshot: Snapshot, subject: Subject, service_name: str, *, host: Host | None, service: Service | None
) -> list[str]:
    """Unknown, revoked and draining, each with what to look at next."""
    words = []
    if subject.kind == "host":
        if host is None:
            words.append(f"host {subject.name} is not known here{_nearest(subject.name, snapshot.authority.hosts)}")
        elif (reason := snapshot.host_revoked(subject.name)) is not None:
            words.append(f"host {subject.name} is revoked: {reason}")
        elif host.why_silent is not None:
            words.append(f"host {subject.name} is draining: {host.why_silent}")
    elif subject.name not in snapshot.authority.clients:
        nearest = _nearest(subject.name, snapshot.authority.clients)
        words.append(f"client {subject.name} is not known here{nearest}: see `meshbridge client list`")
    if service is None:
        words.append(f"nothing serves {shown(service_name)[1:-1]} here{_nearest(service_name, snapshot.services)}")
        return words
    for instance in service.instances:
        if instance.draining is not None:
            words.append(f"instance {instance.id} is draining: {instance.draining}")
        serving = snapshot.host(instance.host)
        if serving is not None and serving.draining is not None:
            words.append(f"host {instance.host}, which serves {service.name}, is draining: {serving.draining}")
    return list(dict.fromkeys(words))


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f" (is {found[0]} meant?)" if found else ""
