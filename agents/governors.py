"""I/O: the limits of the instances that this node connects to, one governor for each. Every stream to one asks here,
whichever data worker carries it and whoever calls, so there is one count and one queue.

A worker that ends gives its slots back. Nothing here is asked about instances without a limit.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

import msgspec
import trio

from agents.guards import must_pass
from agents.handover import HeldSlot
from agents.supervisor import DataWorkerProcess, Latest
from agents.workers import messages as m
from bridge import limits
from bridge.bugs import tell_bug
from bridge.routing.governor import Bounds, Governor, Outcome, State
from inventory.model import Health, Instance

_LOOK = 1.0
"""Between two looks at what the checks say of the instances that are watched."""
_REFUSED_LATELY = 60.0

CHECK = "check"
"""The caller that our own checks are."""
Ticket = tuple[DataWorkerProcess | None, int]
"""A worker and its number for it; None: a check of our own."""


@dataclass(slots=True)
class _Watched:
    service: str
    governor: Governor[Ticket]
    asked_at: float
    refused: int = 0
    refused_at: float = -math.inf
    refusal: str = ""


class Governors:
    """Args:
    health: what the checks say of an instance.
    leaves: whether another program is about to take our place: what is not answered yet is left to it.
    """

    def __init__(self, health: Callable[[str], Health], leaves: Callable[[], bool]) -> None:
        self._health = health
        self._leaves = leaves
        self._watched: dict[str, _Watched] = {}
        self._refused: dict[str, int] = {}
        """By service, since they were taken."""
        self._next_look = math.inf
        self._wake = Latest()
        self._checks: dict[int, tuple[trio.Event, list[str | None]]] = {}
        self._check_numbers = count(1)

    # --- what workers say -----------------------------------------------------------------------------------------

    def heard(self, worker: DataWorkerProcess, message: m.SlotAsked | m.SlotUsed | m.SlotLeft) -> None:
        now = trio.current_time()
        if isinstance(message, m.SlotAsked):
            held = HeldSlot(
                instance=message.instance,
                service=message.service,
                caller=message.caller,
                max_streams=message.max_streams,
                max_rate=message.max_rate,
            )
            worker.slots[message.id] = held
            if not self._leaves():
                one = self._watch(held, now)
                self._answer(one, one.governor.ask((worker, message.id), held.caller, now), now)
                self._turn(one, now)
            return
        known = worker.slots.get(message.id)
        if known is None:
            return  # it was refused meanwhile
        if not (isinstance(message, m.SlotUsed) and message.connected):
            del worker.slots[message.id]
        found = self._watched.get(known.instance)
        if found is None:
            return  # it is left to the next program
        ticket = (worker, message.id)
        if isinstance(message, m.SlotLeft):
            found.governor.ended(ticket, now, rest=message.rest)
        elif message.connected:
            found.governor.began(ticket, now)
        else:
            found.governor.failed(ticket, now)
        self._turn(found, now)

    @asynccontextmanager
    async def checking(self, instance: Instance) -> AsyncIterator[bool]:
        """A check of it is a connection like any other, and waits for a slot, if not for long: other checks wait for
        this one. Whether there was one."""
        now = trio.current_time()
        held = HeldSlot(
            instance=instance.id,
            service=instance.service,
            caller=CHECK,
            max_streams=instance.max_streams,
            max_rate=instance.max_rate,
        )
        one = self._watch(held, now)
        ticket = (None, next(self._check_numbers))
        answered = self._checks[ticket[1]] = (trio.Event(), [])
        self._answer(one, one.governor.ask(ticket, CHECK, now), now)
        self._turn(one, now)
        try:
            with trio.move_on_after(limits.GOVERNOR_CHECK_WAIT):
                await answered[0].wait()
            is_given = answered[1] == [None]
            if is_given:
                one.governor.began(ticket, trio.current_time())
            yield is_given
        finally:
            del self._checks[ticket[1]]
            now = trio.current_time()
            one.governor.ended(ticket, now, rest=answered[1] == [None])
            self._turn(one, now)

    def inherited(self, workers: Iterable[DataWorkerProcess]) -> None:
        """What workers had, and waited for, when the program before us gave us its place."""
        now = trio.current_time()
        for worker in workers:
            for number, held in list(worker.slots.items()):
                one = self._watch(held, now)
                if held.given:
                    one.governor.restore((worker, number), held.caller, now)
                else:
                    self._answer(one, one.governor.ask((worker, number), held.caller, now), now)
        self._look_by(now)

    def worker_gone(self, worker: DataWorkerProcess) -> None:
        """The kernel has closed its sockets; whether their targets have noticed is another matter."""
        now = trio.current_time()
        slots, worker.slots = worker.slots, {}
        for number, held in slots.items():
            found = self._watched.get(held.instance)
            if found is not None:
                found.governor.ended((worker, number), now, rest=True)
        for instance in {held.instance for held in slots.values()}:
            if instance in self._watched:
                self._turn(self._watched[instance], now)

    def _watch(self, held: HeldSlot, now: float) -> _Watched:
        bounds = Bounds(held.max_streams, held.max_rate)
        found = self._watched.get(held.instance)
        if found is None:
            found = self._watched[held.instance] = _Watched(held.service, Governor(held.service, bounds), now)
            self._look_by(now + _LOOK)
        found.governor.change(bounds)
        found.asked_at = now
        return found

    # --- turns ----------------------------------------------------------------------------------------------------

    def _turn(self, one: _Watched, now: float) -> None:
        if self._leaves():
            return
        self._answer(one, one.governor.turn(now), now)
        look = one.governor.next_look(now)
        if look is not None:
            self._look_by(look)

    def _look_by(self, moment: float) -> None:
        if moment < self._next_look:
            self._next_look = moment
            self._wake.ask()

    def _answer(self, one: _Watched, outcomes: Iterable[Outcome[Ticket]], now: float) -> None:
        for outcome in outcomes:
            worker, number = outcome.ticket
            if worker is None:
                event, answer = self._checks[number]
                answer.append(outcome.refusal)
                event.set()
            elif outcome.refusal is None:
                worker.slots[number] = msgspec.structs.replace(worker.slots[number], given=True)
                worker.tell(m.SlotGiven(id=number))
            else:
                del worker.slots[number]
                one.refused, one.refused_at, one.refusal = one.refused + 1, now, outcome.refusal
                self._refused[one.service] = self._refused.get(one.service, 0) + 1
                worker.tell(m.SlotRefused(id=number, reason=outcome.refusal))

    async def run(self) -> NoReturn:
        """What time alone changes, until cancelled."""
        while True:
            with trio.move_on_at(self._next_look):
                await self._wake.asked()
            now = trio.current_time()
            if now < self._next_look:
                continue
            self._next_look = now + _LOOK if self._watched else math.inf
            for instance, one in list(self._watched.items()):
                try:
                    one.governor.checked(self._health(instance).state == "failing", now)
                    self._turn(one, now)
                    if one.governor.is_idle and now - one.asked_at > limits.GOVERNOR_KEPT:
                        del self._watched[instance]
                except BaseException as exc:
                    if must_pass(exc):
                        raise
                    tell_bug("a limit could not be looked at", exc, instance=instance)

    # --- for whoever looks ----------------------------------------------------------------------------------------

    def states(self) -> list[tuple[str, State]]:
        """Of each instance that is watched, with its service."""
        now = trio.current_time()
        return [(one.service, one.governor.state(now)) for _, one in sorted(self._watched.items())]

    def take_refused(self) -> dict[str, int]:
        """How many streams were refused since the last time, by service."""
        refused, self._refused = self._refused, {}
        return refused

    def status(self) -> list[dict[str, Any]]:
        now = trio.current_time()
        return [
            {"instance": instance, **_row(one.governor.state(now)), "refused": one.refused}
            for instance, one in sorted(self._watched.items())
        ]

    def warnings(self) -> list[str]:
        now = trio.current_time()
        return [
            f"{instance} has more callers than it takes, the last one was refused {now - one.refused_at:.0f} s ago: "
            f"{one.refusal}"
            for instance, one in sorted(self._watched.items())
            if now - one.refused_at < _REFUSED_LATELY
        ]


def _row(state: State) -> dict[str, Any]:
    return {
        "max_streams": state.bounds.streams,
        "max_rate": state.bounds.rate,
        "streams_now": state.now.streams,
        "rate_now": state.now.rate,
        "open": state.open,
        "waiting": state.waiting,
        "callers": state.callers,
        "recovering": state.is_recovering,
    }
