"""Pure: how long things live if nothing comes back: no gateway, no issuer, no registry ("outage budget").

What ends first is what counts: a certificate of a node, or that of the issuer or of the root above them. Who renews
knows more than this: while an issuer is there, only the last two say how long it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bridge import limits
from bridge.errors import clock as clock_words
from bridge.identity import certificates


class Ending(NamedTuple):
    at: float
    """Unix seconds."""
    of: str
    """`host vm1`, `the issuer`."""


@dataclass(frozen=True, slots=True)
class OutageBudget:
    """Args:
    nodes: ends of certificates by whose they are, `host vm1`.
    issuer, root: ends of theirs; None where it is not known.
    """

    nodes: Mapping[str, float]
    issuer: float | None
    root: float | None

    @property
    def first_node(self) -> Ending:
        return min(Ending(at, of) for of, at in self.nodes.items())

    @property
    def endings(self) -> list[Ending]:
        """The first certificate of a node, the issuer's and the root's, as far as they are known."""
        above = [(self.issuer, "the issuer"), (self.root, "the root")]
        return [self.first_node, *(Ending(at, of) for at, of in above if at is not None)]

    @property
    def first(self) -> Ending:
        return min(self.endings)

    def status(self, now: float) -> dict[str, Any]:
        return {
            "outage_budget": span(self.first.at - now),
            "outage_budget_seconds": max(0, int(self.first.at - now)),
            "endings": [
                {"certificate": of, "ends": clock_words(at), "left": span(at - now), "seconds": max(0, int(at - now))}
                for at, of in self.endings
            ],
        }

    def worries(self, *, now: float, life: float, renews: bool) -> Iterable[str]:
        """What an operator should hear of.

        Args:
            life: of the certificates of nodes, seconds.
            renews: somebody who issues certificates is here, or can be reached.
        """
        at, of = self.first_node
        left = at - now
        when = f"ends in {span(left)} ({clock_words(at)})" if left > 0 else f"ended at {clock_words(at)}"
        ends = f"the certificate of {of} {when}"
        if left < limits.OUTAGE_WARNED and not renews:
            yield f"nothing renews certificates now: {ends}"
        elif left < min(limits.OUTAGE_WARNED, limits.RENEWAL_OVERDUE * life):
            yield f"{ends}; it should have been renewed long ago"
        for end in self.endings[1:]:
            if end.at - now < limits.ISSUER_WARNED:
                yield f"the certificate of {end.of} ends in {span(end.at - now)}: nothing it signed outlives it"


def end_of(chain_pem: str, place: int) -> float | None:
    """When the certificate at this place of a chain ends: 0 is the leaf, 1 its issuer. None when it is not there."""
    chain = certificates.parse_certificates(chain_pem)
    return chain[place].not_valid_after_utc.timestamp() if place < len(chain) else None


def span(seconds: float) -> str:
    """A length of time for people: `11 h 58 min`."""
    left = max(0, int(seconds))
    days, hours, minutes = left // 86400, left // 3600 % 24, left // 60 % 60
    if days >= 3:
        return f"{days} days"
    if left >= 3600:
        return f"{days * 24 + hours} h {minutes} min"
    return f"{minutes} min {left % 60} s" if left >= 60 else f"{left} s"
