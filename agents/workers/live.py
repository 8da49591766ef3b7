"""I/O: (a trio.Event, for `dial`) what a worker knows of one live stream besides its bytes; its flow record."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from itertools import count
from typing import Literal

import trio

from bridge.flows import DIRECT, Flow, Result
from bridge.policy.decide import Permit, Subject
from inventory.clients import Address
from inventory.errors import MeshError

Side = Literal["source", "destination", "control"]

_PREFIX = secrets.token_hex(4)
_numbers = count(1)


def new_flow_id() -> str:
    """Unique in the estate for the life of this process: a random prefix and a number."""
    return f"{_PREFIX}-{next(_numbers):x}"


@dataclass(frozen=True, slots=True)
class Caller:
    """A connection to a published port, and by what its client is known."""

    entrance: str
    """The `ADDR:PORT` of this gateway that it came to, or the host on whose loopback it did."""
    address: Address | None
    key: str | None
    """Hash of the key in its certificate, when it showed one."""


class LiveFlow:
    """Who talks to what, under which permit. `started` is wall-clock unix seconds, `began` and `accepted` monotonic."""

    __slots__ = (
        "accepted", "began", "caller", "connecting", "failure", "host", "id", "instance", "last_refusal", "observed",
        "over", "peer", "permit", "refused_by", "refusing", "result", "service", "settled", "side", "site", "slot",
        "source", "speaker", "started", "subject", "tried", "tries", "user", "via", "waits",
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
        self.slot = 0
        """At an instance with a limit: the number of its slot there, or of its wish for one (see `slots`)."""
        self.waits = False
        """It has no slot yet."""
        self.connecting: float | None = None
        """When it had its slot, and the connect to its target began (monotonic)."""
        self.caller: Caller | None = None
        """At a gateway: the connection of a client that this is, when it is one."""
        self.speaker: str | None = None
        """The gateway on whose word the subject is who it is; None: the peer's certificate says it."""
        self.source: str | None = None
        """Where the subject calls from, `ADDR:PORT`, as far as it is known."""
        self.result: Result | None = None
        """How it ended; None while it goes on."""
        self.over: trio.Event | None = None
        """Set when it ends, for whoever waits for that."""

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
