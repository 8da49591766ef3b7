"""Pure: what a change did to each host: itself as others see it, before and after, and what of it is otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from inventory.health import host_of
from inventory.imports import place_of
from inventory.sight import Place, patterns
from inventory.snapshot import Snapshot, Touched


@dataclass(slots=True)
class Moved:
    """What a change did to one host."""

    before: Place
    after: Place
    presence: bool
    reported: bool
    ids: set[str]
    """Instances that differ, or whose health does."""
    services: set[str]
    """Of these, and those whose import differs."""
    entry: bool = False
    """The host's own entry differs, or its revocation."""

    def all_of(self, services: Iterable[str]) -> set[str]:
        """The ids of all instances of these services, before and after."""
        return {i for name in services for place in (self.before, self.after) for i in place.ids.get(name, ())}


class Changes:
    """What happened to each host from one snapshot to another. `places` are those that are known of the old one."""

    def __init__(self, old: Snapshot, new: Snapshot, places: Mapping[str, Place]) -> None:
        self._old, self._new = old, new
        self._places = places
        self.moved: dict[str, Moved] = {}
        self.reshaped: set[str] = set()
        """Services whose patterns differ: all their hosts moved."""

    def look_at(self, host: str) -> None:
        old, new = self._old, self._new
        before = after = self._places.get(host) or Place(old, host)
        if before.offers is not new.offers(host) or old.authority is not new.authority:
            after = Place(new, host)  # otherwise somebody came or went, or is ill: it is looked at in the same way
        differing: set[str] = set()
        if before.offers != after.offers:
            differing = _differing(before.instances, after.instances)
        health_before, health_after = old.health_on(host), new.health_on(host)
        ill = _differing(health_before, health_after) if health_before is not health_after else set()
        ids = differing | ill
        self.moved[host] = Moved(
            before,
            after,
            presence=old.presence.get(host) != new.presence.get(host),
            reported=before.own != after.own,
            ids=ids,
            services={instance_id.partition("/")[0] for instance_id in ids},
        )

    def count_keys(self, touched: Touched) -> None:
        """What the keys say of the hosts that were looked at, and who moved because a service's patterns differ."""
        old, new, moved = self._old, self._new, self.moved
        for key in touched.keys:
            kind, _, rest = key.partition("/")
            if kind == "service":
                one = moved[host_of(rest)]
                one.ids.add(rest)
                one.services.add(rest.partition("/")[0])
            elif kind == "import":
                service, _, gateway = rest.partition("/")
                moved[place_of(gateway)].services.add(service)
            elif kind in ("host", "revoke"):
                about = moved.get(rest.removeprefix("host/"))
                if about is not None:
                    about.entry = True
        names = {name for one in moved.values() for name in one.services}
        self.reshaped = {name for name in names if patterns(old, name) != patterns(new, name)}
        renewed: set[str] = set()
        for name in self.reshaped:
            services = (old.service(name), new.service(name))
            for instance in (i for service in services if service is not None for i in service.instances):
                host = instance.host
                if host not in moved:
                    self.look_at(host)
                if host not in renewed:
                    renewed.add(host)
                    moved[host].after = Place(new, host)
                moved[host].ids.add(instance.id)
                moved[host].services.add(name)
                moved[host].reported = True


def _differing(old: Mapping[str, object], new: Mapping[str, object]) -> set[str]:
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
