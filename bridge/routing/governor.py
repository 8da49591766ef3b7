"""Pure: how many streams a backend that falls over is given at once and in a second, and whose turn it is.

    room       fewer streams are open than it takes at once, and fewer began in the last second than it takes
    queue      one for each caller; the callers take turns, those with less than an equal part of the slots first
    deadline   whoever has waited GOVERNOR_WAIT is refused, in words
    outage     while it fails, and a GOVERNOR_RAMP long after, it is given only a part of what it takes

Time is a parameter (monotonic seconds), and nothing is left to chance. A ticket is what the owner knows a stream by.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from bridge import limits

Ticket = TypeVar("Ticket", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a backend takes; None: as much as comes."""

    streams: int | None = None
    """Open at once."""
    rate: int | None = None
    """New ones in any second."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Ticket]):
    """It is a ticket's turn, or it was refused and why."""

    ticket: Ticket
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """For whoever looks. `bounds` are those of this moment: less than agreed while it recovers from an outage."""

    bounds: Bounds
    now: Bounds
    open: int
    waiting: int
    callers: int
    is_recovering: bool


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Ticket]):
    ticket: Ticket
    caller: str
    since: float
    ahead: int
    """How many waited when it came."""


class Governor(Generic[Ticket]):
    """The streams of one instance. After whatever may have changed something call `turn`."""

    def __init__(self, name: str, bounds: Bounds) -> None:
        self._name = name
        self._bounds = bounds
        self._open: dict[Ticket, str] = {}
        """Ticket -> caller, from its turn to its end."""
        self._begun: set[Ticket] = set()
        """Those of them that are known to have connected."""
        self._held: dict[str, int] = {}
        self._queues: OrderedDict[str, deque[_Waiting[Ticket]]] = OrderedDict()
        """By caller, in the order in which they have their turns."""
        self._waiting = 0
        self._recent: deque[float] = deque()
        """When streams connected in the last GOVERNOR_SECOND."""
        self._resting: list[float] = []
        """Until when slots rest whose stream the backend did not end itself."""
        self._check_fails = False
        self._failures = 0
        self._recovered_at: float | None = None

    # --- what happens ---------------------------------------------------------------------------------------------

    def change(self, bounds: Bounds) -> None:
        """What it takes is something else now. Nothing that is open ends."""
        self._bounds = bounds

    def ask(self, ticket: Ticket, caller: str, now: float) -> list[Outcome[Ticket]]:
        """A stream wants a slot; those refused because too many wait. With a full queue the caller that fills it most
        loses the one that came last."""
        outcomes: list[Outcome[Ticket]] = []
        if self._waiting >= limits.GOVERNOR_QUEUE_MAX:
            longest = max(self._queues, key=lambda name: len(self._queues[name]))
            if len(self._queues.get(caller, ())) >= len(self._queues[longest]):
                return [Outcome(ticket, self._words(self._waiting, now))]
            outcomes = [self._refuse(self._queues[longest][-1], now)]
        self._queues.setdefault(caller, deque()).append(_Waiting(ticket, caller, now, self._waiting))
        self._waiting += 1
        return outcomes

    def restore(self, ticket: Ticket, caller: str, now: float) -> None:
        """It had its slot before this governor was there. When others began is not known: a second passes."""
        self._admit(ticket, caller)
        self._begun.add(ticket)
        self._recent.extend([now] * ((self._bounds.rate or 0) - len(self._recent)))

    def began(self, ticket: Ticket, now: float) -> None:
        """It connected."""
        if ticket in self._open and ticket not in self._begun:
            self._begun.add(ticket)
            self._recent.append(now)
            self._answers(now)

    def failed(self, ticket: Ticket, now: float) -> None:
        """It could not connect, and has no slot any more."""
        if ticket in self._open:
            self._failures += 1
            if self._failures >= limits.GOVERNOR_FAILURES:
                self._recovered_at = None
            self.ended(ticket, now)

    def ended(self, ticket: Ticket, now: float, *, rest: bool = False) -> None:
        """It has ended, or waits no longer. With `rest` the backend has not said its own end, and may not have noticed:
        its slot stays taken for a moment."""
        caller = self._open.pop(ticket, None)
        if caller is None:
            self._leave(ticket)
            return
        if ticket in self._begun:
            self._begun.remove(ticket)
        else:
            self._recent.append(now)  # it may have begun
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        if rest:
            self._resting.append(now + limits.GOVERNOR_REST)

    def checked(self, is_failing: bool, now: float) -> None:
        """What the checks say of it."""
        if is_failing:
            self._recovered_at = None
        elif self._check_fails:
            self._recovered_at = now
        self._check_fails = is_failing

    def _answers(self, now: float) -> None:
        if self._failures >= limits.GOVERNOR_FAILURES and not self._check_fails:
            self._recovered_at = now
        self._failures = 0

    # --- whose turn it is -----------------------------------------------------------------------------------------

    def turn(self, now: float) -> list[Outcome[Ticket]]:
        """Who has a slot from now on, and who has waited too long."""
        while self._recent and self._recent[0] + limits.GOVERNOR_SECOND <= now:
            self._recent.popleft()
        self._resting = [until for until in self._resting if until > now]
        late = [w for queue in self._queues.values() for w in queue if w.since + limits.GOVERNOR_WAIT <= now]
        outcomes = [self._refuse(waiting, now) for waiting in late]
        bounds = self.bounds_at(now)
        if self._part(now) >= 1.0:
            self._recovered_at = None
        while self._waiting and self._has_room(bounds):
            waiting = self._next(bounds)
            self._drop(waiting)
            self._admit(waiting.ticket, waiting.caller)
            outcomes.append(Outcome(waiting.ticket))
        return outcomes

    def bounds_at(self, now: float) -> Bounds:
        """What it is given at this moment."""
        part = self._part(now)
        return Bounds(_part_of(self._bounds.streams, part), _part_of(self._bounds.rate, part))

    def _part(self, now: float) -> float:
        first = limits.GOVERNOR_RAMP_SHARE
        if self._is_failing:
            return first
        if self._recovered_at is None:
            return 1.0
        return min(1.0, first + (1.0 - first) * (now - self._recovered_at) / limits.GOVERNOR_RAMP)

    @property
    def _is_failing(self) -> bool:
        return self._check_fails or self._failures >= limits.GOVERNOR_FAILURES

    def _has_room(self, bounds: Bounds) -> bool:
        taken = len(self._open) + len(self._resting)
        # Those on their way count as beginning now: however late they connect, no second has more than the rate.
        begun = len(self._recent) + len(self._open) - len(self._begun)
        return (bounds.streams is None or taken < bounds.streams) and (bounds.rate is None or begun < bounds.rate)

    def _next(self, bounds: Bounds) -> _Waiting[Ticket]:
        """The longest waiting one of the caller whose turn it is."""
        equal = math.inf
        if bounds.streams is not None:
            equal = math.ceil(bounds.streams / len(self._queues.keys() | self._held.keys()))
        caller = next((name for name in self._queues if self._held.get(name, 0) < equal), next(iter(self._queues)))
        self._queues.move_to_end(caller)
        return self._queues[caller][0]

    def _admit(self, ticket: Ticket, caller: str) -> None:
        self._open[ticket] = caller
        self._held[caller] = self._held.get(caller, 0) + 1

    def _refuse(self, waiting: _Waiting[Ticket], now: float) -> Outcome[Ticket]:
        self._drop(waiting)
        return Outcome(waiting.ticket, self._words(waiting.ahead, now))

    def _leave(self, ticket: Ticket) -> None:
        for queue in self._queues.values():
            for waiting in queue:
                if waiting.ticket == ticket:
                    self._drop(waiting)
                    return

    def _drop(self, waiting: _Waiting[Ticket]) -> None:
        queue = self._queues[waiting.caller]
        queue.remove(waiting)
        self._waiting -= 1
        if not queue:
            del self._queues[waiting.caller]

    def _words(self, ahead: int, now: float) -> str:
        agreed, bounds = self._bounds, self.bounds_at(now)
        after = f", {'failing' if self._is_failing else 'coming back'}," if bounds != agreed else ""
        if bounds.streams is not None and len(self._open) + len(self._resting) >= bounds.streams:
            most = f"{bounds.streams} streams at once" if not after else f"{bounds.streams} of {agreed.streams} streams"
            return f"{self._name}{after} takes at most {most}; {len(self._open)} are open and {ahead} waited before you"
        most = f"{bounds.rate} new streams in a second"
        return f"{self._name}{after} takes at most {most}; {ahead} waited before you"

    # --- for whoever looks ----------------------------------------------------------------------------------------

    def next_look(self, now: float) -> float | None:
        """When time alone may change something for those who wait; None: nobody does."""
        if not self._waiting:
            return None
        found = [min(queue[0].since for queue in self._queues.values()) + limits.GOVERNOR_WAIT, *self._resting]
        if self._recent and self._bounds.rate is not None:
            found.append(self._recent[0] + limits.GOVERNOR_SECOND)
        if self._part(now) < 1.0:
            found.append(now + limits.GOVERNOR_LOOK)
        return min(found)

    @property
    def is_idle(self) -> bool:
        """Whether it could be forgotten: nothing is open, waits or rests, and it has not failed lately."""
        is_busy = self._open or self._waiting or self._resting or self._recent
        return not (is_busy or self._check_fails or self._failures) and self._recovered_at is None

    def state(self, now: float) -> State:
        return State(
            bounds=self._bounds,
            now=self.bounds_at(now),
            open=len(self._open),
            waiting=self._waiting,
            callers=len(self._queues.keys() | self._held.keys()),
            is_recovering=self._part(now) < 1.0,
        )


def _part_of(whole: int | None, part: float) -> int | None:
    return None if whole is None else max(1, int(whole * part))
