"""Pure: what a host may be told. Each is sent the part of the estate that some rule joins it to, and no more (C46).

"Could" means ever: time windows, end dates and local users are left out of account. So are denies: they are signed and
known to every host anyway, and a host that is told of the service can say which rule refuses it. Rules that are only
observed make nothing visible.
"""

from __future__ import annotations

from dataclasses import dataclass

from inventory.policy_index import CompiledRule, bits_of
from inventory.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Visible:
    services: frozenset[str]
    """Those the host could reach, and those it serves."""
    hosts: frozenset[str]
    """Itself, hosts that serve what it could reach, and hosts that could reach what it serves.

    Also those that serve what it serves, where instances differ in a label that a rule asks for: without them the
    label would be on "all" instances that this host knows.
    """
    allow_indices: tuple[int, ...]
    """Positions in `snapshot.allows` of the rules in which it could be subject or destination."""
    clients: frozenset[str] = frozenset()
    """Those that could reach what it serves, so that it knows whose word for them counts."""


NOTHING = Visible(frozenset(), frozenset(), ())


def visible(snapshot: Snapshot, host_name: str) -> Visible:
    """The part of the snapshot that may be sent to the host; nothing when it is unknown or revoked.

    The host's own rules come first and only what they name is looked at, so the cost is that of the answer.
    """
    host = snapshot.host(host_name)
    if host is None or snapshot.host_revoked(host_name) is not None:
        return NOTHING
    index = snapshot.index
    served = _served(snapshot, host_name)
    outwards = index.from_host(host) & index.allows
    inwards = 0
    for name in served:
        service = snapshot.service(name)
        inwards |= index.to_service(service) if service is not None else index.to_instances(name, ())
    inwards &= index.allows
    reachable = _reachable(snapshot, [index.rules[bit] for bit in bits_of(outwards & index.enforced)])
    entrances = [index.rules[bit] for bit in bits_of(inwards & index.enforced)]
    callers = _callers(snapshot, entrances)
    whole = reachable | {name for name in served if _is_mixed(snapshot, name)}
    serving = {instance.host for name in whole for instance in snapshot.services[name].instances}
    first_allow = len(snapshot.rules) - len(snapshot.allows)
    return Visible(
        services=frozenset(reachable | served),
        hosts=frozenset(callers | serving | {host_name}),
        clients=frozenset(_clients(snapshot, entrances)),
        allow_indices=tuple(bit - first_allow for bit in bits_of(outwards | inwards)),
    )


def _served(snapshot: Snapshot, host_name: str) -> set[str]:
    """What the host serves, and what it may serve as soon as it reports an instance."""
    entry = snapshot.authority.hosts[host_name]
    return {*entry.serves, *(instance.service for instance in snapshot.offers(host_name))}


def _is_mixed(snapshot: Snapshot, name: str) -> bool:
    """Whether a label that some rule asks for is on some instances only: who sees fewer might decide otherwise."""
    service = snapshot.service(name)
    return service is not None and bool(snapshot.index.target_patterns(name, service.instances)[1])


def _reachable(snapshot: Snapshot, allows: list[CompiledRule]) -> set[str]:
    """Services to which one of these rules leads."""
    patterns = {number for rule in allows for number in rule.targets}
    return {name for number in patterns for name in snapshot.services_by_target.get(number, ())}


def _callers(snapshot: Snapshot, allows: list[CompiledRule]) -> set[str]:
    """Hosts that one of these rules lets in, without revoked ones."""
    patterns = {number for rule in allows for number in rule.sources}
    found = {name for number in patterns for name in snapshot.hosts_by_source.get(number, ())}
    return {name for name in found if snapshot.host_revoked(name) is None}


def _clients(snapshot: Snapshot, allows: list[CompiledRule]) -> set[str]:
    """Clients that one of these rules lets in."""
    patterns = {number for rule in allows for number in rule.sources}
    return {name for number in patterns for name in snapshot.clients_by_source.get(number, ())}
