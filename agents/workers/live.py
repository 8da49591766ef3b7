"""I/O: (a trio.Event, for `dial`) what a worker knows of one live stream besides its bytes; its flow record."""

from __future__ import annotations

import secrets
from itertools import count
from typing import Literal

import trio

from bridge.flows import DIRECT, Flow, Result
from bridge.policy.decide import Permit, Subject
from inventory.errors import MeshError

Side = Literal["source", "destination", "control"]

_PREFIX = secrets.token_hex(4)
_numbers = count(1)


def new_flow_id() -> str:
    """Unique in the estate for the life of this process: a random prefix and a number."""
    return f"{_PREFIX}-{next(_numbers):x}"


class LiveFlow:
    """Who talks to what, under which permit. `started` is wall-clock unix seconds, `began` and `accepted` monotonic."""

    __slots__ = (
        "accepted", "began", "failure", "host", "id", "instance", "last_refusal", "observed", "peer", "permit",
        "refused_by", "refusing", "service", "settled", "side", "site", "started", "subject", "tried", "tries", "user",
        "via",
    )  # fmt: skip

    def __init__(
        self, *, side: Side, subject: Subject, service: str, site: str | None, host: str, started: float, began: float,
        flow_id: str | None = None, user: str | None = None,
    ) -> None:  # fmt: skip
        self.id = flow_id or new_flow_id()
        self.side = side
        self.subject = subject
        self.service = service
        self.site = site
        self.host = host
        self.started = started
        self.began = began
        self.accepted: float | None = None
        self.user = user
        self.permit: Permit | None = None
        self.refused_by = ""
        self.observed: tuple[str, ...] = ()
        self.instance = ""
        self.peer = ""
        self.via: str | None = None
        self.tried: frozenset[str] = frozenset()
        """Instances that failed it."""
        self.refusing: frozenset[str] = frozenset()
        """Those of them to which somebody tried to connect for it."""
        self.tries = 0
        """Streams opened for it so far."""
        self.last_refusal = ""
        """Why the instance tried last did not take it, in words."""
        self.settled: trio.Event | None = None
        """Set when it was accepted or failed, for whoever waits to be told (`dial`)."""
        self.failure: MeshError | None = None

    def _deciding_rule(self, result: Result) -> str:
        """The far end's rule where it refused what we would have permitted; else the one of our permit."""
        if result == "refused":
            return self.refused_by
        return self.permit.rule if self.permit is not None else ""

    def record(
        self, *, now: float, result: Result, reason: str, rule: str | None = None, bytes_in: int = 0, bytes_out: int = 0
    ) -> Flow:
        """The flow record; `now` is monotonic. `bytes_in` are those towards the service."""
        return Flow(
            ts=round(self.started, 3),
            id=self.id,
            trace_id=self.id,
            subject=f"{self.subject.kind}:{self.subject.name}",
            user=self.user or "",
            service=self.service,
            instance=self.instance,
            host=self.host,
            rule=rule or self._deciding_rule(result),
            via=self.via or DIRECT,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            duration_ms=round(max(0.0, now - self.began) * 1000, 3),
            connect_ms=round(max(0.0, (self.accepted or self.began) - self.began) * 1000, 3),
            result=result,
            reason=reason,
            observed="; ".join(self.observed),
        )
