"""Pure: the governor agrees with a slow and obvious one, and keeps its promises whatever happens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from bridge import limits
from bridge.routing.governor import Bounds, Governor

CALLERS = ("a", "b", "c")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("ask", "ask", "ask", "began", "failed", "ended", "rested", "check", "change")),
        st.integers(0, 30),
        st.sampled_from((0.0, 0.01, 0.25, 1.05, 3.0)),
    ),
    max_size=60,
)
BOUNDS = st.builds(Bounds, st.none() | st.integers(1, 5), st.none() | st.integers(1, 5))


@dataclass
class Stream:
    """All that ever happened to one."""

    number: int
    caller: str
    asked: float
    given: float | None = None
    began: float | None = None
    ended: float | None = None
    rests: bool = False
    gone: bool = False
    """Refused, or went away before its turn."""

    @property
    def waits(self) -> bool:
        return self.given is None and not self.gone

    @property
    def is_open(self) -> bool:
        return self.given is not None and self.ended is None


class Twin:
    """Looks through everything that ever happened, each time."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.streams: dict[int, Stream] = {}
        self.rotation: list[str] = []
        self.checks: list[tuple[int, float, bool]] = []
        self.connects: list[tuple[int, float, bool]] = []

    def part(self, now: float) -> float:
        """Goes through the story of its health from the beginning."""
        story = [(at, order, "check", bad) for order, at, bad in self.checks]
        story += [(at, order, "connect", bad) for order, at, bad in self.connects]
        checked_bad, failed, back = False, 0, None
        for at, _, kind, bad in sorted(story, key=lambda event: event[1]):
            was_bad = checked_bad or failed >= limits.GOVERNOR_FAILURES
            if kind == "check":
                back = at if checked_bad and not bad else None if bad else back
                checked_bad = bad
                continue
            failed = failed + 1 if bad else 0
            if failed >= limits.GOVERNOR_FAILURES:
                back = None
            elif was_bad and not checked_bad:
                back = at
        if checked_bad or failed >= limits.GOVERNOR_FAILURES:
            return limits.GOVERNOR_RAMP_SHARE
        if back is None:
            return 1.0
        grown = limits.GOVERNOR_RAMP_SHARE + (1 - limits.GOVERNOR_RAMP_SHARE) * (now - back) / limits.GOVERNOR_RAMP
        return min(1.0, grown)

    def allowed(self, whole: int | None, now: float) -> float:
        return math.inf if whole is None else max(1, int(whole * self.part(now)))

    def taken(self, now: float) -> int:
        rests = (s for s in self.streams.values() if s.rests and s.ended is not None)
        resting = sum(s.ended + limits.GOVERNOR_REST > now for s in rests if s.ended is not None)
        return sum(s.is_open for s in self.streams.values()) + resting

    def begun(self, now: float) -> int:
        """In the last second, or on their way."""
        found = 0
        for s in self.streams.values():
            at = s.began if s.began is not None else s.ended
            found += s.given is not None and (at is None or at + limits.GOVERNOR_SECOND > now)
        return found

    def turn(self, now: float) -> tuple[list[int], list[int]]:
        refused = [s for s in self.waiting() if s.asked + limits.GOVERNOR_WAIT <= now]
        for s in refused:
            s.gone = True
        given = []
        while self.waiting():
            most = self.allowed(self.bounds.streams, now)
            if self.taken(now) >= most or self.begun(now) >= self.allowed(self.bounds.rate, now):
                break
            s = self.next(most)
            s.given = now
            given.append(s.number)
        return given, [s.number for s in refused]

    def waiting(self) -> list[Stream]:
        return [s for s in self.streams.values() if s.waits]

    def next(self, most: float) -> Stream:
        waiting = {s.caller for s in self.waiting()}
        self.rotation = [name for name in self.rotation if name in waiting]
        holds = {name: sum(s.is_open and s.caller == name for s in self.streams.values()) for name in CALLERS}
        equal = math.ceil(most / len(waiting | {n for n in holds if holds[n]})) if most < math.inf else math.inf
        below = [name for name in self.rotation if holds[name] < equal]
        caller = (below or self.rotation)[0]
        self.rotation.remove(caller)
        self.rotation.append(caller)
        return next(s for s in self.waiting() if s.caller == caller)

    def ask(self, number: int, caller: str, now: float) -> None:
        waiting = {s.caller for s in self.waiting()}
        self.rotation = [name for name in self.rotation if name in waiting]
        if caller not in self.rotation:
            self.rotation.append(caller)
        self.streams[number] = Stream(number, caller, now)


class Both:
    """One story told to the governor and to its twin."""

    def __init__(self, bounds: Bounds) -> None:
        self.now = 0.0
        self.one: Governor[int] = Governor("s", bounds)
        self.twin = Twin(bounds)
        self.events = 0

    def step(self, what: str, number: int, passes: float) -> None:
        self.now += passes
        self.events += 1
        streams = self.twin.streams
        opened = [s for s in streams.values() if s.is_open]
        match what:
            case "ask":
                self.one.ask(self.events, CALLERS[number % 3], self.now)
                self.twin.ask(self.events, CALLERS[number % 3], self.now)
            case "began" if opened:
                s = opened[number % len(opened)]
                self.one.began(s.number, self.now)
                if s.began is None:
                    s.began = self.now
                    self.twin.connects.append((self.events, self.now, False))
            case "failed" if on_way := [s for s in opened if s.began is None]:
                s = on_way[number % len(on_way)]
                self.one.failed(s.number, self.now)
                s.ended = self.now
                self.twin.connects.append((self.events, self.now, True))
            case "ended" | "rested" if living := [s for s in streams.values() if s.is_open or s.waits]:
                s = living[number % len(living)]
                self.one.ended(s.number, self.now, rest=what == "rested")
                if s.waits:
                    s.gone = True
                else:
                    s.ended, s.rests = self.now, what == "rested"
            case "check":
                self.one.checked(number % 2 == 0, self.now)
                self.twin.checks.append((self.events, self.now, number % 2 == 0))
            case "change":
                bounds = Bounds(number % 6 or None, number % 4 or None)
                self.one.change(bounds)
                self.twin.bounds = bounds
            case _:
                pass

    def turn(self) -> None:
        outcomes = self.one.turn(self.now)
        given, refused = self.twin.turn(self.now)
        assert [o.ticket for o in outcomes if o.refusal is None] == given
        assert sorted(o.ticket for o in outcomes if o.refusal is not None) == sorted(refused)


@given(BOUNDS, STEPS)
def test_it_does_what_its_slow_twin_does(bounds: Bounds, steps: list[tuple[str, int, float]]) -> None:
    both = Both(bounds)
    for what, number, passes in steps:
        both.step(what, number, passes)
        both.turn()


@given(st.integers(1, 5), st.integers(1, 5), STEPS)
def test_never_more_than_it_takes_at_once_nor_in_any_second(
    streams: int, rate: int, steps: list[tuple[str, int, float]]
) -> None:
    both = Both(Bounds(streams, rate))
    for what, number, passes in steps:
        if what != "change":
            both.step(what, number, passes)
            both.turn()
            assert both.twin.taken(both.now) <= streams
    begun = sorted(s.began for s in both.twin.streams.values() if s.began is not None)
    for first, last in zip(begun, begun[rate:], strict=False):
        assert last >= first + limits.GOVERNOR_SECOND


@given(st.integers(1, 4), st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 20))
def test_nobody_who_waits_is_passed_over_for_ever(streams: int, others: list[int], mine: int) -> None:
    """However many the others ask for, each of whose streams ends at once: a caller's turn comes after one of each."""
    one: Governor[int] = Governor("s", Bounds(streams))
    for ticket in range(streams):
        one.ask(ticket, "a", 0.0)
    held = [outcome.ticket for outcome in one.turn(0.0)]
    for ticket, caller in enumerate(others, 100):
        one.ask(ticket, CALLERS[caller], 0.0)
    for ticket in range(200, 200 + mine):
        one.ask(ticket, "mine", 0.0)
    turns: list[int] = []
    while not any(ticket >= 200 for ticket in turns):
        one.ended(held.pop(0), 0.0)
        held += [outcome.ticket for outcome in one.turn(0.0)]
        turns.append(held[-1])
    assert len(turns) <= len(CALLERS) + 1
