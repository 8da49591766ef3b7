"""Pure: what a host may be told. Each is sent the part of the estate that some rule joins it to, and no more (C46).

"Could" means ever: time windows, end dates and local users are left out of account. So are denies: they are signed and
known to every host anyway, and a host that is told of the service can say which rule refuses it. Rules that are only
observed make nothing visible.
"""

from __future__ import annotations

from dataclasses import dataclass

from inventory.policy_index import bits_of
from inventory.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Visible:
    services: frozenset[str]
    """Those the host could reach, and those it serves."""
    hosts: frozenset[str]
    """Itself, hosts that serve what it could reach, and hosts that could reach what it serves."""
    allow_indices: tuple[int, ...]
    """Positions in `snapshot.allows` of the rules in which it could be subject or destination."""


NOTHING = Visible(frozenset(), frozenset(), ())


def visible(snapshot: Snapshot, host_name: str) -> Visible:
    """The part of the snapshot that may be sent to the host; nothing when it is unknown or revoked."""
    host = snapshot.host(host_name)
    if host is None or snapshot.host_revoked(host_name) is not None:
        return NOTHING
    index = snapshot.index
    own = index.from_host(host) & index.allows
    served = _served(snapshot, host_name)
    towards = 0
    for name in served:
        service = snapshot.service(name)
        towards |= index.to_instances(name, service.instances if service else ())
    towards &= index.allows
    reachable = _reachable(snapshot, own & index.enforced)
    hosts = {host_name}
    hosts.update(i.host for name in reachable for i in snapshot.services[name].instances)
    hosts.update(_callers(snapshot, towards & index.enforced))
    first_allow = len(snapshot.rules) - len(snapshot.allows)
    indices = tuple(bit - first_allow for bit in bits_of(own | towards))
    return Visible(frozenset(reachable | served), frozenset(hosts), indices)


def _served(snapshot: Snapshot, host_name: str) -> set[str]:
    """What the host serves, and what it may serve as soon as it reports an instance."""
    entry = snapshot.authority.hosts[host_name]
    return {*entry.serves, *(instance.service for instance in snapshot.offers(host_name))}


def _reachable(snapshot: Snapshot, allows: int) -> set[str]:
    """Services to which one of these rules leads. The host's own rules were chosen before, so this is one `&` each."""
    if not allows:
        return set()
    index = snapshot.index
    return {service.name for service in snapshot.services.values() if index.to_service(service) & allows}


def _callers(snapshot: Snapshot, allows: int) -> set[str]:
    """Hosts that one of these rules lets in, without revoked ones."""
    if not allows:
        return set()
    index = snapshot.index
    hosts = snapshot.authority.hosts.values()
    found = {host.name for host in hosts if index.from_host(host) & allows}
    return {name for name in found if snapshot.host_revoked(name) is None}
