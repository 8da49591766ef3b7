"""I/O: the live streams of one worker: under which permit each runs, what it moved, and how it ended.

Every stream that is open holds a permit. All are decided again when what is known changes, when the time of one comes,
and when somebody sets the clock; a stream that lost its permit is cut here, whatever the other end thinks (C31).
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from agents import clock
from agents.workers.live import LiveFlow
from agents.workers.slots import Slots
from bridge import limits
from bridge.counters import Tally
from bridge.flows import Flow, Result
from bridge.policy.decide import Permit, Refusal
from bridge.policy.permits import PermitCache
from bridge.relay.local import LocalSocket
from bridge.relay.loop import Loop
from bridge.relay.splice import Splice
from bridge.tunnels.frames import Code, Reason
from inventory.errors import Unavailable
from inventory.health import host_of
from inventory.snapshot import Snapshot

_CLOCK_STEP = 2.0
"""Seconds by which the wall clock must have moved against the monotonic one for it to have been set."""
_SPLICE_FDS = 6
"""Two sockets and two pipes."""
_CUT = "cut: "


class StreamsOwner(Protocol):
    """The worker, as far as its streams need it."""

    name: str

    @property
    def draining(self) -> str | None: ...
    def stream_accepted(self, flow: LiveFlow) -> None:
        """The far end took a stream of ours."""

    def stream_refused(self, local: LocalSocket, flow: LiveFlow, reason: Reason) -> None:
        """The far end did not take a stream of ours, or the tunnel broke before it could: try again, or abort."""

    def path_ended(self, path_id: int, moved: int, reason: str) -> None:
        """A path between two hosts that this gateway carried is over."""


class Streams:
    """What is open now. Callbacks of local sockets and splices end here (LocalOwner)."""

    def __init__(
        self,
        loop: Loop,
        owner: StreamsOwner,
        tally: Tally,
        snapshot: Snapshot,
        *,
        now: Callable[[], float] = clock.now,
        slots: Slots | None = None,
    ) -> None:
        self._loop = loop
        self._owner = owner
        self._tally = tally
        self._now = now
        self._slots = slots
        self._permits = PermitCache(snapshot)
        self._live: set[LocalSocket] = set()
        self._opening: set[LocalSocket] = set()
        """Those of the live ones that were not accepted yet."""
        self._splices: dict[Splice, LiveFlow | int] = {}
        """Streams that stay on this host, and paths (by their id) between two others."""
        self._loads: dict[str, int] = {}
        self._ended_flows: list[Flow] = []
        self._next_due = math.inf
        """Wall clock: the first moment at which time alone may take a live permit away."""
        self._clock_ahead = now() - time.monotonic()

    # --- counts ---------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Open streams, without control streams and paths."""
        return sum(1 for local in self._live if _flow(local).side != "control") + len(self._local_splices())

    def count_by_host(self) -> dict[str, int]:
        """Host of the instance -> open streams to it."""
        flows = [_flow(local) for local in self._live] + [flow for _, flow in self._local_splices()]
        return dict(Counter(host for flow in flows if (host := host_of(flow.instance))))

    @property
    def descriptors(self) -> int:
        return len(self._live) + _SPLICE_FDS * len(self._splices)

    def load_of(self, instance_id: str) -> int:
        return self._loads.get(instance_id, 0)

    @property
    def has_records(self) -> bool:
        return bool(self._ended_flows)

    def take_records(self, most: int) -> tuple[Flow, ...]:
        """Records of streams that ended since, the oldest first."""
        taken, self._ended_flows = self._ended_flows[:most], self._ended_flows[most:]
        return tuple(taken)

    # --- permits --------------------------------------------------------------------------------------------------

    def know(self, snapshot: Snapshot) -> None:
        """Decide from this one from now on; live streams are not looked at."""
        self._permits.update(snapshot)

    def judge(self, flow: LiveFlow) -> Refusal | None:
        """Decide, and put the permit into the flow, or return the refusal."""
        decision = self._permits.get(flow.subject, flow.service, flow.user, self._now())
        flow.observed = decision.observed
        if decision.observed:
            self._tally.decision("observe")
        if isinstance(decision, Permit):
            draining = self._owner.draining
            if draining is not None and flow.side == "source":
                reason = f"{self._owner.name} is draining: {draining}"
                return Refusal(rule=None, reason=reason, subject=flow.subject, service=flow.service)
            flow.permit = decision
            self._hold(decision)
            self._tally.decision("allow")
            return None
        self._tally.decision("deny")
        return decision

    def needs_user(self, flow: LiveFlow) -> bool:
        """Whether the answer depends on the local user."""
        return self._permits.get(flow.subject, flow.service, None, self._now()).needs_user

    def recheck(self, due: float | None = None) -> None:
        """Decide every live permit again; with `due`, those whose time has come by then. Cuts what lost its own."""
        self._next_due = math.inf
        for local in list(self._live):
            lost = self._lost(_flow(local), due)
            if lost is not None:
                local.abort(Code.CUT, "cut", lost)
        for splice, owner in list(self._splices.items()):
            if isinstance(owner, LiveFlow) and (lost := self._lost(owner, due)) is not None:
                splice.close(_CUT + lost)

    def _lost(self, flow: LiveFlow, due: float | None) -> str | None:
        """Why the flow may not go on; None when it may."""
        if flow.permit is None:
            return None
        if due is None or (flow.permit.expires_at is not None and flow.permit.expires_at <= due):
            decision = self._permits.get(flow.subject, flow.service, flow.user, self._now())
            if not isinstance(decision, Permit):
                return f"rule {flow.permit.rule!r} no longer allows it: {decision.reason}"
            flow.permit = decision
        self._hold(flow.permit)
        return None

    def _hold(self, permit: Permit) -> None:
        """A live flow has this permit: look at it again when its time comes."""
        if permit.expires_at is not None:
            self._next_due = min(self._next_due, permit.expires_at)

    def tick(self) -> None:
        """About once a second, with the loop's clock up to date."""
        now = self._now()
        ahead, self._clock_ahead = self._clock_ahead, now - self._loop.now
        if abs(ahead - self._clock_ahead) > _CLOCK_STEP:
            self.recheck()  # somebody set the clock (F32)
        elif now >= self._next_due:
            self.recheck(now)
        self._end_late()
        for splice in [splice for splice, owner in self._splices.items() if isinstance(owner, int)]:
            splice.tick(self._loop.now)

    def _end_late(self) -> None:
        """Streams that nobody accepted in time, and connects to targets that do not answer."""
        for local in list(self._opening):
            flow = _flow(local)
            waited = self._loop.now - flow.began
            if flow.waits and flow.side == "destination":
                if waited > limits.GOVERNOR_WAIT + limits.GOVERNOR_ANSWER:
                    local.refuse(Code.TIMEOUT, f"{flow.host} is too busy to count the streams to {flow.service}")
            elif (
                flow.side == "destination" and self._loop.now - (flow.connecting or flow.began) > limits.CONNECT_TIMEOUT
            ):
                text = f"{_target(flow)} did not answer within {limits.CONNECT_TIMEOUT:.0f} s"
                self.not_connected(flow)
                local.refuse(Code.CONNECT_FAILED, text)
            elif flow.side == "source" and waited > limits.OPEN_WAIT_TIMEOUT:
                local.abort(Code.TIMEOUT, "failed", f"not accepted within {limits.OPEN_WAIT_TIMEOUT:.0f} s")

    # --- beginning ------------------------------------------------------------------------------------------------

    def live(self, local: LocalSocket) -> None:
        """It exists from now on, and is watched until it ends."""
        if local.ended:
            return
        self._live.add(local)
        flow = _flow(local)
        if flow.accepted is None and flow.side != "control":
            self._opening.add(local)

    def placed(self, flow: LiveFlow, instance_id: str) -> None:
        """The flow goes to this instance now, and is load of no other (two random choices look at it)."""
        self._count_load(flow.instance, -1)
        flow.instance = instance_id
        self._count_load(flow.instance, 1)

    def _count_load(self, instance_id: str, change: int) -> None:
        left = self._loads.get(instance_id, 0) + change
        if left > 0:
            self._loads[instance_id] = left
        else:
            self._loads.pop(instance_id, None)

    def not_live(self, flow: LiveFlow, result: Result, reason: str, rule: str | None) -> None:
        """A stream that was refused before it had a socket."""
        self._tally.stream_not_opened(flow.service, result)
        self._record(flow.record(now=self._loop.now, result=result, reason=reason, rule=rule))

    def local_connected(self, local: LocalSocket) -> None:
        self._accepted(local)

    def local_accepted(self, local: LocalSocket) -> None:
        flow = _flow(local)
        if flow.side == "source":
            self._owner.stream_accepted(flow)
        self._accepted(local)

    def _accepted(self, local: LocalSocket) -> None:
        self._opening.discard(local)
        flow = _flow(local)
        flow.accepted = self._loop.now
        if flow.slot and self._slots is not None:
            self._slots.connected(flow.slot)
        if flow.settled is not None:
            flow.settled.set()
        if flow.side != "control":
            self._tally.stream_opened(flow.service, flow.accepted - flow.began)

    def local_connect_failed(self, local: LocalSocket, error: int) -> None:
        self.not_connected(_flow(local))
        local.refuse(Code.CONNECT_FAILED, f"connect to {_target(_flow(local))} failed: {os.strerror(error)}")

    def not_connected(self, flow: LiveFlow) -> None:
        """Its target could not be reached: where there is a limit, that is counted."""
        if flow.slot and self._slots is not None:
            slot, flow.slot = flow.slot, 0
            self._slots.failed(slot)

    def local_refused(self, local: LocalSocket, reason: Reason) -> None:
        flow = _flow(local)
        if flow.side == "control":
            local.abort(Code.NO_ERROR, "refused", reason.reason)
        else:
            self._owner.stream_refused(local, flow, reason)

    # --- splices --------------------------------------------------------------------------------------------------

    def splice_live(self, splice: Splice, local: LocalSocket) -> None:
        """The flow stays on this host and its two sockets are joined: `splice` stands for `local` now."""
        self._live.discard(local)
        self._splices[splice] = _flow(local)
        self._accepted(local)

    def join_path(self, path_id: int, a: socket.socket, b: socket.socket) -> None:
        """Carry a path between two other hosts. Owns both sockets."""
        try:
            splice = Splice(self._loop, a, b, self.splice_ended)
        except OSError as exc:  # it has closed both
            self._owner.path_ended(path_id, 0, f"out of descriptors: {exc.strerror}")
            return
        self._splices[splice] = path_id

    def end_path(self, path_id: int, reason: str) -> None:
        for splice in [splice for splice, owner in self._splices.items() if owner == path_id]:
            splice.close(reason)

    def splice_ended(self, splice: Splice, reason: str) -> None:
        owner = self._splices.pop(splice, None)
        if isinstance(owner, LiveFlow):
            result: Result = "cut" if reason.startswith(_CUT) else "failed" if reason else "ok"
            self._ended(owner, result, reason.removeprefix(_CUT), *splice.moved_each_way)
        elif owner is not None:
            self._owner.path_ended(owner, splice.moved, reason)

    def _local_splices(self) -> list[tuple[Splice, LiveFlow]]:
        return [(splice, owner) for splice, owner in self._splices.items() if isinstance(owner, LiveFlow)]

    # --- ending ---------------------------------------------------------------------------------------------------

    def local_ended(self, local: LocalSocket, result: str, reason: str) -> None:
        self._live.discard(local)
        self._opening.discard(local)
        flow = _flow(local)
        if flow.settled is not None:
            if flow.accepted is None and flow.failure is None:
                flow.failure = Unavailable(reason or "it ended before it was accepted")
            flow.settled.set()
        if flow.side != "control":
            self._ended(flow, _result(result), reason, *_moved(local))

    def _ended(self, flow: LiveFlow, result: Result, reason: str, to_service: int, from_service: int) -> None:
        self._count_load(flow.instance, -1)
        if flow.slot and self._slots is not None:
            self._free(self._slots, flow, result)
        flow.result = result
        if flow.over is not None:
            flow.over.set()
        if flow.accepted is None:
            self._tally.stream_not_opened(flow.service, result)
        else:
            self._tally.moved(flow.service, bytes_in=to_service, bytes_out=from_service)
            self._tally.stream_closed(flow.service, result)
        self._record(
            flow.record(now=self._loop.now, result=result, reason=reason, bytes_in=to_service, bytes_out=from_service)
        )

    def _free(self, slots: Slots, flow: LiveFlow, result: Result) -> None:
        """Give back the slot. If the stream ended well its target ended it too; another one may not know of the end."""
        slot, flow.slot = flow.slot, 0
        slots.ended(slot, rest=result != "ok" and not flow.waits)

    def _record(self, flow: Flow) -> None:
        if len(self._ended_flows) < limits.FLOWS_KEPT:
            self._ended_flows.append(flow)

    def records(self) -> list[Flow]:
        """Live streams as flow records so far; their result says "ok" because nothing has gone wrong yet."""
        moved = [(flow, _moved(local)) for local in self._live if (flow := _flow(local)).side != "control"]
        moved += [(flow, splice.moved_each_way) for splice, flow in self._local_splices()]
        records = [
            flow.record(now=self._loop.now, result="ok", reason="", bytes_in=to_service, bytes_out=from_service)
            for flow, (to_service, from_service) in moved
        ]
        return sorted(records, key=lambda record: record.ts)

    def cut_all(self, reason: str, host: str | None = None) -> list[Flow]:
        """End every stream, or those to instances on one host; their records."""
        records = [record for record in self.records() if host in (None, host_of(record.instance))]
        for local in list(self._live):
            if _flow(local).side != "control" and host in (None, host_of(_flow(local).instance)):
                local.abort(Code.DRAINING, "cut", reason)
        for splice, flow in self._local_splices():
            if host in (None, host_of(flow.instance)):
                splice.close(_CUT + reason)
        return records

    def cut_hosts(self, gone: Mapping[str, str]) -> None:
        """End the streams to instances on these hosts, for the reason given with each."""
        if gone:
            self.cut_where(lambda flow: gone.get(host_of(flow.instance)))

    def cut_where(self, why: Callable[[LiveFlow], str | None]) -> None:
        """End the streams for which there is a reason."""
        for local in list(self._live):
            reason = why(_flow(local))
            if reason is not None:
                local.abort(Code.CUT, "cut", reason)
        for splice, flow in self._local_splices():
            reason = why(flow)
            if reason is not None:
                splice.close(_CUT + reason)


def _flow(local: LocalSocket) -> LiveFlow:
    assert isinstance(local.context, LiveFlow)
    return local.context


def _target(flow: LiveFlow) -> str:
    return flow.instance.rpartition("/")[2]


def _moved(local: LocalSocket) -> tuple[int, int]:
    """Bytes towards the service, and from it."""
    if _flow(local).side == "destination":
        return local.bytes_in, local.bytes_out
    return local.bytes_out, local.bytes_in


def _result(word: str) -> Result:
    return word  # type: ignore[return-value]
