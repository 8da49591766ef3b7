"""Pure: decisions remembered. The data path asks here for every stream; the answer is always that of `decide`.

A decision is kept while nothing it was made from has changed: the authority and the allow rules (else everything is
dropped), the service with its instances (compared by identity at each look-up), and time (until `expires_at`). The
user is part of the question only where some rule about the subject and the service names users.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bridge.limits import PERMIT_USERS_CACHED, PERMITS_CACHED
from bridge.policy.decide import Case, Decision, Refusal, Subject, failed, open_case, weigh
from inventory.snapshot import Snapshot


@dataclass(slots=True)
class _Kept:
    """What is remembered of one subject and one service: the rules about both, and answers with when they hold."""

    case: Case
    answers: dict[str | None, tuple[float, float, Decision]] = field(default_factory=dict)


class PermitCache:
    """Decisions on one snapshot after another. Not shared between threads."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._services = snapshot.services
        self._kept: dict[tuple[Subject, str], _Kept] = {}

    @property
    def snapshot(self) -> Snapshot:
        return self._snapshot

    def update(self, snapshot: Snapshot) -> None:
        """Work from another snapshot from now on. Holders of permits must ask again for what they hold."""
        old = self._snapshot
        self._snapshot = snapshot
        self._services = snapshot.services
        if snapshot.authority is not old.authority or snapshot.allows is not old.allows:
            self._kept.clear()

    def get(self, subject: Subject, service_name: str, user: str | None, now: float) -> Decision:
        """As `decide` on the current snapshot. Never raises."""
        kept = self._kept.get((subject, service_name))
        if kept is not None and self._services.get(service_name) is kept.case.service:
            answer = kept.answers.get(user if kept.case.names_users else None)
            if answer is not None and answer[0] <= now < answer[1]:
                return answer[2]
        try:
            return self._decided(kept, subject, service_name, user=user, now=now)
        except Exception as exc:
            return failed(subject, service_name, exc)

    def _decided(
        self, kept: _Kept | None, subject: Subject, service_name: str, *, user: str | None, now: float
    ) -> Decision:
        """Decide and remember. An error is not remembered, nor is a refusal that needed no rule."""
        if kept is None or self._services.get(service_name) is not kept.case.service:
            case = open_case(self._snapshot, subject, service_name)
            if isinstance(case, Refusal):
                return case
            if len(self._kept) >= PERMITS_CACHED:
                self._kept.clear()
            kept = self._kept[subject, service_name] = _Kept(case)
        decision = weigh(kept.case, now, user)
        if len(kept.answers) >= PERMIT_USERS_CACHED:
            kept.answers.clear()
        until = math.inf if decision.expires_at is None else decision.expires_at
        kept.answers[user if kept.case.names_users else None] = (now, until, decision)
        return decision
