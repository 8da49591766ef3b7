"""Pure: what is known of Consul's catalog: of each node of ours what is on it, and which service names others have.

A reading takes a while, and this gateway goes on writing meanwhile: what it wrote since the reading began is newer than
what was read, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable

from inventory.registries.consul_catalog_wire import Found, Key, Mark, Operation, Service

OnNode = dict[Key, Found]


class Mirror:
    def __init__(self, mark: Mark) -> None:
        self.nodes: dict[str, OnNode] = {}
        self.taken: set[str] = set()
        """Names of services that others have in the catalog."""
        self._mark = mark
        self._written: set[str] = set()

    def begin_reading(self) -> None:
        self._written = set()

    def read_all(
        self, nodes_and_checks: Iterable[Found], services: Iterable[Found] | None, *, names: Iterable[str] = ()
    ) -> tuple[set[str], set[str]]:
        """Takes a whole reading in; the nodes of ours that are otherwise than they were known to be, and the service
        names that others have now and had not, or the other way round.

        Args:
            services: of all `names`, on whatever nodes; None when none has changed since they were read last.
        """
        services = self._services() if services is None else list(services)
        read: dict[str, OnNode] = {}
        for one in (*nodes_and_checks, *services):
            read.setdefault(one.entry.key.node, {})[one.entry.key] = one
        read = {node: on for node, on in read.items() if any(f.entry.is_ours(self._mark) for f in on.values())}
        changed = {node for node in read.keys() | self.nodes.keys() if read.get(node) != self.nodes.get(node)}
        changed -= self._written
        for node in changed:
            if node in read:
                self.nodes[node] = read[node]
            else:
                del self.nodes[node]
        before = set(self.taken)
        for name in names:
            self.read_name(name, (f for f in services if isinstance(f.entry, Service) and f.entry.name == name))
        return changed, before ^ self.taken

    def _services(self) -> list[Found]:
        return [f for on in self.nodes.values() for f in on.values() if isinstance(f.entry, Service)]

    def read_name(self, name: str, services: Iterable[Found]) -> None:
        """Takes in who has services of one name."""
        if all(found.entry.is_ours(self._mark) for found in services):
            self.taken.discard(name)
        else:
            self.taken.add(name)

    def read_node(self, node: str, found: Iterable[Found]) -> None:
        """Takes in what there is under one node's name, whoever's it is."""
        on = {one.entry.key: one for one in found}
        self._written.add(node)
        if on:
            self.nodes[node] = on
        else:
            self.nodes.pop(node, None)

    def wrote(self, operations: Iterable[Operation], versions: Iterable[int]) -> None:
        """These were made; those that wrote something got these versions, in their order."""
        given = iter(versions)
        for operation in operations:
            node = operation.key.node
            on = self.nodes.setdefault(node, {})
            self._written.add(node)
            if operation.removes:
                on.pop(operation.key, None)
            else:
                on[operation.key] = Found(operation.entry, next(given))
            if not on:
                del self.nodes[node]

    def count(self, kind: str) -> int:
        """How many entries of ours there are."""
        return sum(
            1 for on in self.nodes.values() for key, f in on.items() if key.kind == kind and f.entry.is_ours(self._mark)
        )
