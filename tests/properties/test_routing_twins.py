"""Pure: the fast routing parts agree with slow and obvious ones."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from hypothesis import given
from hypothesis import strategies as st

from bridge import limits
from bridge.routing.budget import SLOT, RetryBudget
from bridge.routing.choose import Candidate, choose
from bridge.routing.ejection import Ejections
from inventory.model import Instance

SITES = st.sampled_from([None, "dc1", "dc2"])


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[Candidate]:
    flags = st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans())
    rows = draw(st.lists(st.tuples(flags, SITES, st.integers(0, 3), st.integers(0, 5)), max_size=8))
    return [
        Candidate(
            instance=Instance(
                service="s",
                host=f"h{n}",
                target="127.0.0.1:1",
                port=1,
                weight=weight,
                draining="x" if flags[3] and flags[2] else None,
            ),
            site=site,
            healthy=flags[0],
            ejected=flags[1] and not flags[0],
            usable=flags[2] or flags[0],
            load=float(load),
        )
        for n, (flags, site, weight, load) in enumerate(rows)
    ]


def may_be_chosen(
    candidates: Sequence[Candidate], site: str | None, exclude: set[str], avoid: Set[str] = frozenset()
) -> set[str]:
    """The obvious twin: who is allowed at all, by filtering once per rule."""
    serving = {c.instance.id: c for c in candidates if c.usable and c.instance.draining is None}
    if not serving:
        return set()
    healthy = {i for i, c in serving.items() if c.healthy and not c.ejected}
    left = set(serving) - exclude
    pool = left
    if len(healthy) / len(serving) >= limits.PANIC_SHARE and left & healthy:
        pool = left & healthy
    if site is not None and any(serving[i].site == site for i in left & healthy):
        pool = {i for i in pool if serving[i].site == site}
    return pool - avoid or pool


@given(candidate_lists(), SITES, st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)), st.integers())
def test_choice_stays_within_what_the_rules_allow(
    candidates: list[Candidate], site: str | None, tried: set[int], doubtful: set[int], seed: int
) -> None:
    exclude = {f"s/h{n}/127.0.0.1:1" for n in tried}
    avoid = {f"s/h{n}/127.0.0.1:1" for n in doubtful}
    allowed = may_be_chosen(candidates, site, exclude, avoid)
    picked = choose(candidates, site=site, rng=random.Random(seed), exclude=exclude, avoid=avoid)
    assert (picked.id in allowed) if picked else not allowed


@given(candidate_lists(), st.integers())
def test_with_two_in_the_pool_the_busier_is_never_chosen(candidates: list[Candidate], seed: int) -> None:
    allowed = may_be_chosen(candidates, None, set())
    picked = choose(candidates, site=None, rng=random.Random(seed))
    weighty = [c for c in candidates if c.instance.id in allowed and c.instance.weight > 0]
    loads = sorted(c.load for c in weighty)
    if picked is not None and len(loads) == 2:
        assert next(c.load for c in candidates if c.instance.id == picked.id) == loads[0]


EVENTS = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.floats(0, 400, allow_nan=False)), max_size=40)


@given(EVENTS)
def test_ejections_agree_with_a_replayed_history(events: list[tuple[str, bool, float]]) -> None:
    fast, now = Ejections(), 0.0
    history: dict[str, list[tuple[float, float]]] = {name: [] for name in "abcd"}  # ejections since the last success
    for name, failed, step in events:
        now += step
        if not failed:
            fast.report_success(name, now)
            history[name] = []
        else:
            fast.report_failure(name, now)
            if all(end <= now for _, end in history[name]):
                length = min(limits.EJECT_FIRST * 2 ** len(history[name]), limits.EJECT_MAX)
                history[name].append((now, now + length))
        out = {n for n, spans in history.items() if any(start <= now < end for start, end in spans)}
        assert {n for n in "abcd" if fast.is_ejected(n, now)} == out
        assert fast.ejected("abcd", now) <= out
        assert len(fast.ejected("abcd", now)) == min(len(out), 2)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 8, allow_nan=False)), max_size=120))
def test_budget_agrees_with_counting_every_event(events: list[tuple[bool, float]]) -> None:
    fast, now = RetryBudget(), 0.0
    firsts: list[int] = []
    agains: list[int] = []
    for is_first, step in events:
        now += step if step > 4 else 0.0
        slot = int(now // SLOT)
        if is_first:
            fast.count_first(now)
            firsts.append(slot)
            continue
        recent = [s for s in firsts if s > slot - 10]
        allowed = sum(s > slot - 10 for s in agains) + 1 <= max(limits.RETRY_FLOOR, limits.RETRY_BUDGET * len(recent))
        assert fast.allow_again(now) is allowed
        if allowed:
            agains.append(slot)
