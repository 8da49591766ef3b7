"""Pure: may this subject open a stream to this service? The one place where the policy is evaluated.

    default     no
    deny        an enforced deny that matches wins over every allow
    allow       otherwise one enforced allow that matches is enough
    order       means nothing; where several rules would do, the first by name is named
    observe     such rules never change the answer; those that matched are reported with it
    user        an allow for some users needs to know the user; a deny for some users holds while the user is unknown
    subject     an unknown or revoked host is refused, an unknown client too; what they are like is what is signed
    service     an unknown service is refused

An error while evaluating is a refusal (C46). This module must never ask a clock, wait, or remember an answer: the
memory is bridge/policy/permits.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from inventory.errors import InputError
from inventory.model import Service
from inventory.names import parse_host, shown
from inventory.policy_index import CompiledRule, bits_of
from inventory.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks: a host by its certificate, or an agentless client for which a gateway speaks. The name is canonical."""

    kind: Literal["host", "client"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def parse_subject_name(text: str) -> Subject:
    """`host:web1`, `client:lpar7`, or `web1` for a host. Raises InputError."""
    kind, colon, name = text.partition(":")
    if not colon:
        return Subject("host", parse_host(text))
    if kind == "host":
        return Subject("host", parse_host(name))
    if kind == "client":
        return Subject("client", parse_host(name))
    raise InputError(f"{shown(text)} is not a subject", hint="write host:NAME or client:NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The right to open one stream. Whoever opens a stream must hold one, and lets go when deciding again says no."""

    rule: str
    """The allow rule that gives it."""
    subject: Subject
    service: str
    expires_at: float | None
    """Unix seconds at which a time window or end date may change this answer; None: time alone never does."""
    needs_user: bool
    """Whether another user would have been refused."""
    observed: tuple[str, ...] = ()
    """Rules in observe mode that matched, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No. `rule` is the deny rule that says so, or None when there is another reason."""

    rule: str | None
    reason: str
    subject: Subject
    service: str
    expires_at: float | None = None
    needs_user: bool = False
    """Whether some other user would have been permitted."""
    observed: tuple[str, ...] = ()


Decision = Permit | Refusal


@dataclass(frozen=True, slots=True)
class Case:
    """A subject and a service with every rule that is about both. What is left to ask is the time and the user."""

    subject: Subject
    service: Service
    rules: tuple[CompiledRule, ...]
    names_users: bool
    """Whether any of the rules asks who the user is."""


def open_case(snapshot: Snapshot, subject: Subject, service_name: str) -> Case | Refusal:
    """The rules to weigh, or a refusal that needs no rule."""

    def refused(reason: str) -> Refusal:
        return Refusal(rule=None, reason=reason, subject=subject, service=service_name)

    index = snapshot.index
    if subject.kind == "client":
        client = snapshot.authority.clients.get(subject.name)
        if client is None:
            return refused(f"client {subject.name} is not known here")
        mask = index.from_client(client)
    else:
        host = snapshot.host(subject.name)
        if host is None:
            return refused(f"host {subject.name} is not known here")
        revoked = snapshot.host_revoked(subject.name)
        if revoked is not None:
            return refused(f"host {subject.name} is revoked: {revoked}")
        mask = index.from_host(host)
    service = snapshot.service(service_name)
    if service is None:
        return refused(
            f"service {shown(service_name)} is not known here: nothing serves it, or no rule makes it visible"
        )
    mask &= index.to_service(service)
    rules = tuple(index.rules[bit] for bit in bits_of(mask))
    return Case(subject, service, rules, bool(mask & index.naming_users))


def _user_matches(rule: CompiledRule, user: str | None) -> bool:
    if not rule.users:
        return True
    return rule.rule.effect == "deny" if user is None else user in rule.users


def _first(rules: list[CompiledRule]) -> str:
    """The rule to name: one that asks for no user if there is one, and the first by name."""
    return min(rules, key=lambda c: (bool(c.users), c.rule.name)).rule.name


def _depends_on_user(allows: list[CompiledRule], denies: list[CompiledRule]) -> bool:
    """Whether these rules, all in force, would answer differently for two users."""
    if any(not rule.users for rule in denies):
        return False
    denied = frozenset[str]().union(*(rule.users for rule in denies))
    if any(not rule.users for rule in allows):
        return bool(denied)
    return bool(frozenset[str]().union(*(rule.users for rule in allows)) - denied)


def weigh(case: Case, now: float, user: str | None) -> Decision:
    """The answer to a case at a time for a user. Raises ValueError when `now` is not a time."""
    if not math.isfinite(now):
        raise ValueError(now)
    timed = [(rule, *rule.in_force(now)) for rule in case.rules]
    held = [rule for rule, holds, _ in timed if holds]
    enforced = [rule for rule in held if rule.rule.mode == "enforce"]
    allows = [rule for rule in enforced if rule.rule.effect == "allow"]
    denies = [rule for rule in enforced if rule.rule.effect == "deny"]
    expires_at = min((edge for _, _, edge in timed if edge is not None), default=None)
    needs_user = _depends_on_user(allows, denies)
    observed = tuple(sorted(r.rule.name for r in held if r.rule.mode == "observe" and _user_matches(r, user)))
    denying = [rule for rule in denies if _user_matches(rule, user)]
    allowing = [rule for rule in allows if _user_matches(rule, user)]
    if allowing and not denying:
        return Permit(
            rule=_first(allowing),
            subject=case.subject,
            service=case.service.name,
            expires_at=expires_at,
            needs_user=needs_user,
            observed=observed,
        )
    return Refusal(
        rule=_first(denying) if denying else None,
        reason=_denied(denying, user) if denying else _not_allowed(case, now, user),
        subject=case.subject,
        service=case.service.name,
        expires_at=expires_at,
        needs_user=needs_user,
        observed=observed,
    )


def _denied(denying: list[CompiledRule], user: str | None) -> str:
    only_some = user is None and all(rule.users for rule in denying)
    return f"rule {_first(denying)!r} denies it" + (" to some users, and the user is unknown" if only_some else "")


def why_not_now(rule: CompiledRule, now: float, user: str | None) -> str | None:
    """In words, what of its user, time and mode keeps a rule that is about the case from acting; None: nothing."""
    if not rule.in_force(now)[0]:
        if not rule.readable:
            return f"its window {shown(rule.rule.when or '')} cannot be read on this machine"
        if rule.ends_at is not None and now >= rule.ends_at:
            return f"it ended with {rule.rule.until}"
        return f"it holds only {rule.rule.when}"
    if not _user_matches(rule, user):
        who = "unknown" if user is None else shown(user)
        return f"it is for {', '.join(sorted(rule.users))}, and the user is {who}"
    return "it is only observed" if rule.rule.mode == "observe" else None


def _not_allowed(case: Case, now: float, user: str | None) -> str:
    """Default deny in words, with the allow that came closest."""
    none = f"no rule allows {case.subject} to reach {case.service.name}"
    for rule in sorted(case.rules, key=lambda c: c.rule.name):
        missing = why_not_now(rule, now, user)
        if rule.rule.effect == "allow" and missing is not None:
            return f"{none}: of rule {rule.rule.name!r}, {missing}"
    return none


def decide(snapshot: Snapshot, subject: Subject, service_name: str, *, now: float, user: str | None = None) -> Decision:
    """May `subject` open a stream to `service_name` at `now` (unix seconds)? Never raises.

    Args:
        snapshot: authority, rules and instances to decide on.
        subject: who asks.
        service_name: canonical name of the service; any other spelling is an unknown service.
        now: unix seconds.
        user: the connecting process's local user as attested by the subject's agent; None when unknown.
    """
    try:
        case = open_case(snapshot, subject, service_name)
        return case if isinstance(case, Refusal) else weigh(case, now, user)
    except Exception as exc:
        # Whatever it was, it must not become a yes.
        return failed(subject, service_name, exc)


def failed(subject: Subject, service_name: str, exc: Exception) -> Refusal:
    """The refusal for an evaluation that broke. It names the error's type only: its text may hold anything."""
    reason = f"the policy could not be evaluated ({type(exc).__name__})"
    return Refusal(rule=None, reason=reason, subject=subject, service=service_name)
