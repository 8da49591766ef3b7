"""Pure: which instance of a service takes a stream. Looks only at its arguments and never remembers anything.

    ready     not draining, reachable, not tried before
    good      ready, passing its checks and not ejected
    pool      the good ones; all ready ones when too few are good (the checks are then the likelier liars)
    of these  the caller's own site if it has a good one, then those not to be avoided if there are any, then two at
              random by weight, then the less loaded

Two random choices: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

from bridge import limits
from inventory.model import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One instance with what is known of it now.

    Args:
        site: the site of the instance's host.
        healthy: its last check passed, or nothing has checked it yet.
        ejected: callers found it broken (see `ejection`).
        load: live streams divided by weight.
        usable: its host is online, or can be dialled directly.
    """

    instance: Instance
    site: str | None = None
    healthy: bool = True
    ejected: bool = False
    load: float = 0.0
    usable: bool = True

    @property
    def good(self) -> bool:
        return self.healthy and not self.ejected


def choose(
    candidates: Sequence[Candidate],
    *,
    site: str | None,
    rng: Random,
    exclude: Collection[str] = frozenset(),
    avoid: Collection[str] = frozenset(),
) -> Instance | None:
    """The instance to try next, or None when there is none left.

    Args:
        candidates: every instance of one service, each once.
        site: the caller's own site; None prefers no site.
        rng: two draws are made from it at most.
        exclude: ids of the instances already tried for this stream; never chosen again, not even when all are bad.
        avoid: ids of those that are likely to fail as well; chosen only where nothing else may be.
    """
    serving = [c for c in candidates if c.usable and c.instance.draining is None]
    # The share is taken before the exclusion: having tried an instance says nothing about the health of the others.
    panic = sum(c.good for c in serving) < limits.PANIC_SHARE * len(serving)
    ready = [c for c in serving if c.instance.id not in exclude] if exclude else serving
    good = [c for c in ready if c.good]
    pool = ready if panic or not good else good
    if site is not None and any(c.site == site for c in good):
        pool = [c for c in pool if c.site == site]
    if avoid:
        pool = [c for c in pool if c.instance.id not in avoid] or pool
    return _less_loaded_of_two(pool, rng)


def _less_loaded_of_two(pool: list[Candidate], rng: Random) -> Instance | None:
    if not pool:
        return None
    if len(pool) == 1:
        return pool[0].instance
    weights = [c.instance.weight for c in pool]
    if min(weights) <= 0 < max(weights):  # weight 0 takes nothing while another can
        return _less_loaded_of_two([c for c in pool if c.instance.weight > 0], rng)
    first = _draw(weights, rng)
    one = pool[first]
    second = _draw([*weights[:first], *weights[first + 1 :]], rng)
    other = pool[second + (second >= first)]
    return other.instance if other.load < one.load else one.instance


def _draw(weights: Sequence[int], rng: Random) -> int:
    """An index at random by weight; the weights are all positive or all 0."""
    total = sum(weights)
    if total == len(weights) * weights[0]:
        return int(rng.random() * len(weights))
    left = rng.random() * total
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return max(range(len(weights)), key=weights.__getitem__)  # rounding took the last step away
