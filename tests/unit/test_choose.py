"""Pure: the rules of choice, one at a time."""

from __future__ import annotations

import random
from collections import Counter

from bridge.routing.choose import Candidate, choose
from inventory.model import Instance


def make(host: str, *, weight: int = 1, draining: str | None = None) -> Instance:
    return Instance(service="web", host=host, target="127.0.0.1:80", port=80, weight=weight, draining=draining)


NONE: frozenset[str] = frozenset()


def chosen(
    candidates: list[Candidate],
    *,
    site: str | None = None,
    exclude: frozenset[str] = NONE,
    avoid: frozenset[str] = NONE,
) -> set[str]:
    """Every host that is ever chosen."""
    rng = random.Random(1)
    picks = (choose(candidates, site=site, rng=rng, exclude=exclude, avoid=avoid) for _ in range(200))
    return {pick.host if pick else "none" for pick in picks}


def test_no_instance_gives_none() -> None:
    assert choose([], site=None, rng=random.Random(1)) is None


def test_draining_and_unreachable_instances_are_never_chosen() -> None:
    a, b, c = (
        Candidate(instance=make("a", draining="disk")),
        Candidate(instance=make("b"), usable=False),
        Candidate(instance=make("c"), healthy=False),
    )
    assert chosen([a, b, c]) == {"c"}
    assert chosen([a, b]) == {"none"}


def test_failing_and_ejected_instances_wait_while_half_are_good() -> None:
    bad = [Candidate(instance=make("a"), healthy=False), Candidate(instance=make("b"), ejected=True)]
    good = [Candidate(instance=make("c")), Candidate(instance=make("d"))]
    assert chosen(bad + good) == {"c", "d"}


def test_f37_below_half_healthy_all_are_used_again() -> None:
    bad = [Candidate(instance=make(name), healthy=False) for name in "ab"]
    assert chosen([*bad, Candidate(instance=make("c"))]) == {"a", "b", "c"}


def test_own_site_first() -> None:
    near, far = Candidate(instance=make("near"), site="dc1"), Candidate(instance=make("far"), site="dc2")
    assert chosen([near, far], site="dc1") == {"near"}
    assert chosen([near, far], site="dc3") == {"near", "far"}
    assert chosen([near, far], site=None) == {"near", "far"}


def test_own_site_is_left_when_nothing_good_is_there() -> None:
    near = Candidate(instance=make("near"), site="dc1", healthy=False)
    assert chosen([near, Candidate(instance=make("far"), site="dc2")], site="dc1") == {"far"}


def test_tried_ones_are_never_chosen_again() -> None:
    a, b = Candidate(instance=make("a")), Candidate(instance=make("b"), healthy=False)
    assert chosen([a, b]) == {"a"}
    assert chosen([a, b], exclude=frozenset({a.instance.id})) == {"b"}
    assert chosen([a, b], exclude=frozenset({a.instance.id, b.instance.id})) == {"none"}


def test_doubtful_ones_are_chosen_last() -> None:
    near, far = Candidate(instance=make("near"), site="dc1"), Candidate(instance=make("far"), site="dc2")
    assert chosen([near, far], avoid=frozenset({near.instance.id})) == {"far"}
    assert chosen([near, far], avoid=frozenset({near.instance.id, far.instance.id})) == {"near", "far"}
    assert chosen([near, far], site="dc1", avoid=frozenset({near.instance.id})) == {"near"}


def test_of_two_the_less_loaded() -> None:
    busy, idle = Candidate(instance=make("busy"), load=9), Candidate(instance=make("idle"), load=1)
    assert chosen([busy, idle]) == {"idle"}


def test_weight_shares_out_equal_load() -> None:
    rng = random.Random(1)
    pool = [Candidate(instance=make("big", weight=9)), *(Candidate(instance=make(n)) for n in "ab")]
    counts = Counter(pick.host for _ in range(2000) if (pick := choose(pool, site=None, rng=rng)))
    assert counts["big"] > 1400
    assert counts["a"] > 50 and counts["b"] > 50


def test_weight_zero_is_used_only_when_alone() -> None:
    zero = Candidate(instance=make("zero", weight=0))
    assert chosen([zero]) == {"zero"}
    assert chosen([zero, Candidate(instance=make("busy"), load=9)]) == {"busy"}
    assert chosen([zero, Candidate(instance=make("a")), Candidate(instance=make("b"))]) == {"a", "b"}
