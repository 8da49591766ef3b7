"""Pure: the health of many instances, held host by host, so that one host's news copies what is that host's alone.

An instance's id names its host (`web/vm1/127.0.0.1:9000`), so it is still looked up by its id alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from inventory.model import Health

NONE: Mapping[str, Health] = {}


def host_of(instance_id: str) -> str:
    """The host (or the place of a gateway) that an instance id names; empty when it is no such id."""
    return instance_id.partition("/")[2].partition("/")[0]


class HealthByHost(Mapping[str, Health]):
    """Instance id -> health. Never changed once made: `with_host` and `changed` make another."""

    __slots__ = ("_hosts",)

    def __init__(self, health: Mapping[str, Health] = NONE) -> None:
        hosts: dict[str, dict[str, Health]] = {}
        for instance_id, state in health.items():
            hosts.setdefault(host_of(instance_id), {})[instance_id] = state
        self._hosts: Mapping[str, Mapping[str, Health]] = hosts

    @classmethod
    def _of(cls, hosts: Mapping[str, Mapping[str, Health]]) -> HealthByHost:
        made = cls()
        made._hosts = hosts
        return made

    @property
    def hosts(self) -> Iterable[str]:
        """Those of which anything is known."""
        return self._hosts.keys()

    def on(self, host: str) -> Mapping[str, Health]:
        """What is known of the instances on one host."""
        return self._hosts.get(host, NONE)

    def with_host(self, host: str, health: Mapping[str, Health]) -> HealthByHost:
        """With this, and nothing else, about the host's instances."""
        hosts = dict(self._hosts)
        if health:
            hosts[host] = health
        else:
            hosts.pop(host, None)
        return self._of(hosts)

    def with_hosts(self, health: Mapping[str, Mapping[str, Health]]) -> HealthByHost:
        """As `with_host` for many at once; itself for none."""
        if not health:
            return self
        return self._of({host: states for host, states in {**self._hosts, **health}.items() if states})

    def without(self, gone: Iterable[str]) -> HealthByHost:
        """Without what was known of these hosts' instances; itself when that is nothing."""
        left_out = set(gone)
        hosts = {host: health for host, health in self._hosts.items() if host not in left_out}
        return self if len(hosts) == len(self._hosts) else self._of(hosts)

    def changed(self, changes: Mapping[str, Health | None]) -> HealthByHost:
        """With these changes, in which None takes away; itself when there are none."""
        if not changes:
            return self
        hosts = dict(self._hosts)
        mine: dict[str, dict[str, Health]] = {}
        for instance_id, health in changes.items():
            host = host_of(instance_id)
            if host not in mine:
                mine[host] = dict(self.on(host))
            if health is None:
                mine[host].pop(instance_id, None)
            else:
                mine[host][instance_id] = health
        for host, states in mine.items():
            if states:
                hosts[host] = states
            else:
                hosts.pop(host, None)
        return self._of(hosts)

    def since(self, before: HealthByHost) -> dict[str, Health | None]:
        """What makes `before` like this one when `changed` is given it."""
        changes: dict[str, Health | None] = {}
        for host in self._hosts.keys() | before._hosts.keys():
            old, new = before.on(host), self.on(host)
            if old is not new:
                changes.update((i, new.get(i)) for i in old.keys() | new.keys() if old.get(i) != new.get(i))
        return changes

    def __getitem__(self, instance_id: str) -> Health:
        return self._hosts[host_of(instance_id)][instance_id]

    def __iter__(self) -> Iterator[str]:
        for health in self._hosts.values():
            yield from health

    def __len__(self) -> int:
        return sum(map(len, self._hosts.values()))
