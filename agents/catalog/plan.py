"""Pure: what has to be written so that one node of Consul's catalog says what is wanted: the difference, and no more.

Only entries with our mark are ever written over or removed. What others have under a name of ours is left as it is, and
named as a conflict. A service and its check are one group, written in one transaction: Consul takes a service without a
check for a healthy one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from inventory.registries.consul_catalog_wire import Check, Entry, Found, Key, Mark, Operation, Service

Group = tuple[Operation, ...]
"""Made together or not at all."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What is not written because others are in the way."""

    what: str
    """In words, for `status`."""


@dataclass(frozen=True, slots=True)
class Denied:
    """What the token may not write, as Consul has said."""

    nodes: Collection[str] = frozenset()
    services: Collection[str] = frozenset()
    """By name."""


@dataclass(slots=True)
class Plan:
    groups: list[Group] = field(default_factory=list)
    """In the order in which they can be made."""
    conflicts: list[Conflict] = field(default_factory=list)


def plan(
    node: str,
    wanted: Mapping[Key, Entry],
    found: Mapping[Key, Found],
    *,
    mark: Mark,
    taken: Collection[str] = frozenset(),
    denied: Denied = Denied(),  # frozen
) -> Plan:
    """What makes `found` say what is `wanted`; both are of this node alone.

    Args:
        taken: names of services that others have in the catalog, on whatever node.
    """
    made = Plan()
    node_key = Key("node", node)
    there = found.get(node_key)
    if there is not None and not there.entry.is_ours(mark):
        if wanted:
            made.conflicts.append(Conflict(f"node {node} is somebody else's"))
        wanted = {}
    wanted = _without_taken(wanted, found, mark, taken, made)
    ours = {key: entry for key, entry in found.items() if entry.entry.is_ours(mark)}
    operations = {
        key: operation
        for key in sorted(wanted.keys() | ours.keys())
        if (operation := _operation(wanted.get(key), ours.get(key))) is not None
    }
    sets = [o for o in operations.values() if not o.removes]
    removals = [o for o in operations.values() if o.removes]
    for service_id in sorted({_id_of(o.entry) for o in removals} - {""}):
        # The check first: Consul removes it along with its service.
        group = [o for o in removals if _id_of(o.entry) == service_id]
        _add(made, _in_order(group, ("check", "service")), found, denied)
    for service_id in sorted({_id_of(o.entry) for o in sets}):  # "", the node's own, comes first
        group = [o for o in sets if _id_of(o.entry) == service_id]
        _add(made, _in_order(group, ("node", "service", "check")), found, denied)
    own = [o for o in removals if _id_of(o.entry) == ""]
    if any(o.key == node_key for o in own) and len(ours) < len(found):
        made.conflicts.append(Conflict(f"node {node} stays, because others have put something on it"))
        own = [o for o in own if o.key != node_key]
    _add(made, _in_order(own, ("check", "service", "node")), found, denied)
    return made


def _operation(wanted: Entry | None, found: Found | None) -> Operation | None:
    if wanted is None:
        return Operation(found.entry, found.version, removes=True) if found is not None else None
    if found is None:
        return Operation(wanted, 0)
    return None if wanted == found.entry else Operation(wanted, found.version)


def _without_taken(
    wanted: Mapping[Key, Entry], found: Mapping[Key, Found], mark: Mark, taken: Collection[str], made: Plan
) -> Mapping[Key, Entry]:
    """Without services that others have, by name or by id, and without those whose check is another's."""
    left_out: set[str] = set()
    kept = dict(wanted)
    for key, entry in wanted.items():
        there = found.get(key)
        is_theirs = there is not None and not there.entry.is_ours(mark)
        if isinstance(entry, Service) and entry.name in taken:
            made.conflicts.append(Conflict(f"service {entry.name} is somebody else's"))
        elif is_theirs and key.kind != "node":
            made.conflicts.append(Conflict(f"{key.kind} {key.id} on node {key.node} is somebody else's"))
        else:
            continue
        del kept[key]
        left_out.add(_id_of(entry))
    left_out.discard("")
    return {key: entry for key, entry in kept.items() if _id_of(entry) not in left_out}


def _id_of(entry: Entry) -> str:
    match entry:
        case Service():
            return entry.id
        case Check():
            return entry.service_id
        case _:
            return ""


def _in_order(group: Sequence[Operation], kinds: Sequence[str]) -> Group:
    return tuple(sorted(group, key=lambda operation: kinds.index(operation.key.kind)))


def _add(made: Plan, group: Group, found: Mapping[Key, Found], denied: Denied) -> None:
    """Unless the token may not, or the node is not there for want of that."""
    if not group:
        return
    node = group[0].key.node
    names = {name_of(operation.entry) for operation in group}
    about_node = "" in names
    if (node in denied.nodes and (about_node or Key("node", node) not in found)) or names & set(denied.services):
        return
    made.groups.append(group)


def name_of(entry: Entry) -> str:
    """Name of the service whose right it takes; empty: it takes the node's."""
    match entry:
        case Service():
            return entry.name
        case Check():
            return entry.service_name
        case _:
            return ""
