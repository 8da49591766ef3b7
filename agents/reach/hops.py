"""Pure: the agentless hosts of one gateway, by the signed log: what its ssh worker is told of them, and which way leads
back to the gateway and is not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.workers.ssh_messages import Forward, LastHop
from inventory.model import Gateway, Reach
from inventory.policy_rules import parse_until
from inventory.reach import ReachUrl, parse_reach, profiles_now, why_leads_back
from inventory.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One host, and how this gateway gets there."""

    host: str
    reach: Reach | None
    url: ReachUrl | None
    problem: str = ""
    """Why it is not dialled; empty when it is."""

    @property
    def has_worker(self) -> bool:
        """Whether the ssh worker goes there, and says how it is."""
        return not self.problem and self.url is not None and self.url.scheme != "tcp"


def reached(snapshot: Snapshot, gateway: str) -> dict[str, Reached]:
    """Every host behind the gateway, by name."""
    me = snapshot.authority.gateways.get(gateway)
    return {name: _reached(snapshot, name, me) for name in snapshot.behind(gateway)}


def _reached(snapshot: Snapshot, host: str, gateway: Gateway | None) -> Reached:
    reach = snapshot.authority.reaches.get(host)
    revoked = snapshot.host_revoked(host)
    if revoked is not None:
        return Reached(host=host, reach=reach, url=_url(reach), problem=f"revoked: {revoked}")
    if gateway is None:
        return Reached(host=host, reach=reach, url=_url(reach), problem="this gateway was removed from the estate")
    if reach is None or reach.gateway != gateway.name:
        return Reached(host=host, reach=None, url=None, problem="nobody has signed how this gateway reaches it")
    why = why_leads_back(reach, gateway) or ""
    return Reached(host=host, reach=reach, url=_url(reach), problem=why)


def _url(reach: Reach | None) -> ReachUrl | None:
    return parse_reach(reach.url) if reach is not None else None


def last_hops(
    hosts: Mapping[str, Reached], snapshot: Snapshot, suspended: Mapping[str, str], now: float
) -> tuple[LastHop, ...]:
    """What the ssh worker is told: every host that it goes to.

    Args:
        suspended: hosts that must not be dialled now, and why.
        now: unix seconds.
    """
    forwards: dict[str, list[Forward]] = {}
    for _, published in sorted(snapshot.authority.publications.items()):
        if published.host is not None and published.port is not None:
            found = Forward(service=published.service, port=published.port)
            forwards.setdefault(published.host, []).append(found)
    return tuple(
        _last_hop(one, tuple(forwards.get(name, ())), suspended.get(name, ""), now)
        for name, one in sorted(hosts.items())
        if one.has_worker
    )


def _last_hop(one: Reached, forwards: tuple[Forward, ...], suspended: str, now: float) -> LastHop:
    reach, url = one.reach, one.url
    assert reach is not None and url is not None and url.scheme != "tcp"
    allowance = reach.allowance
    return LastHop(
        host=one.host,
        scheme=url.scheme,
        address=url.address,
        port=url.port,
        user=url.user,
        host_keys=reach.host_keys,
        credential=reach.credential,
        ca=reach.ca,
        allow_loopback=reach.allow_loopback,
        allowed=profiles_now(reach, now),
        allowed_until=parse_until(allowance.until) if allowance is not None else 0.0,
        forwards=forwards if url.scheme == "ssh" else (),
        suspended=suspended,
    )
