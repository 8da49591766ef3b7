"""Pure: the immutable, revisioned view of authority and instances that a process works from.

Authority says who exists, who may serve what and what is allowed. Presence, reported instances and health are what
hosts and gateways say: they place and choose, and never allow. What is derived is worked out when first asked for and
kept; `evolved` carries over what a change did not touch, so that one instance more does not cost a walk over all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from inventory.authority.state import AuthorityState
from inventory.model import Health, Host, Instance, Presence, Service
from inventory.names import SpiffeId
from inventory.policy_index import PolicyIndex
from inventory.policy_rules import Rule

UNKNOWN_HEALTH = Health()


@dataclass(frozen=True, eq=False)
class Snapshot:
    """See the module. Two snapshots are compared with `diff`; mappings given to it must not be changed afterwards."""

    authority: AuthorityState
    allows: tuple[Rule, ...] = ()
    """Allow rules proved against the signed policy (see inventory/policy_document.py)."""
    presence: Mapping[str, Presence] = field(default_factory=dict)
    """By host name."""
    reported: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    """Host name -> what that host says it serves."""
    health: Mapping[str, Health] = field(default_factory=dict)
    """By Instance.id."""
    revision: int = 0

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """Denies first, then allows; the order means nothing."""
        return (*(self.authority.policy.denies if self.authority.policy else ()), *self.allows)

    @cached_property
    def index(self) -> PolicyIndex:
        return PolicyIndex(self.rules)

    @cached_property
    def services(self) -> Mapping[str, Service]:
        """By name: every service that has an instance which its host may serve. A revoked host serves nothing."""
        by_name: dict[str, list[Instance]] = {}
        for offer in self._offers.values():
            for instance in offer:
                by_name.setdefault(instance.service, []).append(instance)
        return {name: self._service_of(name, instances) for name, instances in by_name.items()}

    def host(self, name: str) -> Host | None:
        """The host as its operator signed it, revoked or not."""
        return self.authority.hosts.get(name)

    def service(self, name: str) -> Service | None:
        return self.services.get(name)

    def health_of(self, instance: Instance) -> Health:
        return self.health.get(instance.id, UNKNOWN_HEALTH)

    def spiffe_id(self, host: str) -> str:
        return str(SpiffeId(self.authority.trust_domain, "host", host))

    def is_revoked(self, spiffe_id: str, key: str = "") -> str | None:
        """Why this identity, or the key with this hash, is refused; None when it is not.

        Args:
            spiffe_id: as in the certificate.
            key: SHA-256 of the SPKI DER in hex; empty to ask about the identity alone.
        """
        revocation = self.authority.revoked_identities.get(spiffe_id)
        if revocation is not None:
            return revocation.reason or "no reason was given"
        return "its key was revoked" if key in self.authority.revoked_keys else None

    def host_revoked(self, name: str) -> str | None:
        """Why the host is revoked; None when it is not."""
        return self._revoked_hosts.get(name)

    def may_serve(self, host: str, service: str) -> bool:
        """Whether the operator lets this host serve the service: by the host's own entry, or by placing an instance."""
        entry = self.host(host)
        if entry is None or self.host_revoked(host) is not None:
            return False
        return service in entry.serves or any(i.service == service for i in self._signed.get(host, ()))

    @cached_property
    def services_by_target(self) -> Mapping[int, tuple[str, ...]]:
        """Pattern number (see `PolicyIndex.target_patterns`) -> the services that it means in an allow rule."""
        return _inverted((name, self._target_patterns(name)) for name in self.services)

    def _target_patterns(self, name: str) -> list[int]:
        service = self.service(name)
        return [] if service is None else self.index.target_patterns(name, service.instances)[0]

    @cached_property
    def hosts_by_source(self) -> Mapping[int, tuple[str, ...]]:
        """Pattern number (see `PolicyIndex.source_patterns`) -> the hosts that it means, revoked or not."""
        return _inverted((host.name, self.index.source_patterns(host)) for host in self.authority.hosts.values())

    def offers(self, host: str) -> tuple[Instance, ...]:
        """The instances on this host that count."""
        return self._offers.get(host, ())

    @cached_property
    def _revoked_hosts(self) -> dict[str, str]:
        """Host name -> why it is revoked."""
        prefix = self.spiffe_id("")
        identities = [identity for identity in self.authority.revoked_identities if identity.startswith(prefix)]
        return {identity[len(prefix) :]: self.is_revoked(identity) or "" for identity in identities}

    @cached_property
    def _signed(self) -> dict[str, tuple[Instance, ...]]:
        """Host name -> the instances that the operator placed on it."""
        by_host: dict[str, list[Instance]] = {}
        for instance in self.authority.instances.values():
            by_host.setdefault(instance.host, []).append(instance)
        return {host: tuple(instances) for host, instances in by_host.items()}

    @cached_property
    def _offers(self) -> dict[str, tuple[Instance, ...]]:
        """Host name -> the instances on it that count."""
        return {name: offer for name in self.authority.hosts if (offer := self._offer(name))}

    def _offer(self, name: str) -> tuple[Instance, ...]:
        """What counts of one host: placed by the operator, then reported by itself as far as it may."""
        host = self.host(name)
        if host is None or self.host_revoked(name) is not None:
            return ()
        signed = self._signed.get(name, ())
        taken = {instance.id for instance in signed}
        permitted = {*host.serves, *(instance.service for instance in signed)}
        counted = list(signed)
        for instance in self.reported.get(name, ()):
            # A host speaks for itself only (C10).
            if instance.host == name and instance.service in permitted and instance.id not in taken:
                taken.add(instance.id)
                counted.append(instance)
        return tuple(counted)

    def _service_of(self, name: str, instances: Iterable[Instance]) -> Service:
        """Instances in the order of their ids. Should they disagree on the port, one that is signed decides."""
        ordered = tuple(sorted(instances, key=lambda instance: instance.id))
        signed = (instance for instance in ordered if instance.id in self.authority.instances)
        return Service(name=name, port=next(signed, ordered[0]).port, instances=ordered)

    def evolved(self, **changes: Any) -> Snapshot:
        """A snapshot with other values for some of the fields, equal to one made anew, at the cost of the change."""
        after = replace(self, **changes)
        same_policy = after.authority.policy is self.authority.policy and (
            after.allows is self.allows or after.allows == self.allows
        )
        for name in ("rules", "index"):
            if same_policy and name in self.__dict__:
                after.__dict__[name] = self.__dict__[name]
        if same_policy and after.authority is self.authority and "hosts_by_source" in self.__dict__:
            after.__dict__["hosts_by_source"] = self.hosts_by_source
        for name in ("_signed", "_revoked_hosts"):
            if after.authority is self.authority and name in self.__dict__:
                after.__dict__[name] = self.__dict__[name]
        if "services" in self.__dict__:
            offers, services = _derive(self, after)
            after.__dict__["_offers"] = offers
            after.__dict__["services"] = services
            if same_policy and "services_by_target" in self.__dict__:
                after.__dict__["services_by_target"] = _targets_after(self, after)
        return after


def _inverted(items: Iterable[tuple[str, Iterable[int]]]) -> dict[int, tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, numbers in items:
        for number in numbers:
            names.setdefault(number, []).append(name)
    return {number: tuple(found) for number, found in names.items()}


def _touched_hosts(old: Snapshot, new: Snapshot) -> set[str]:
    """Hosts whose instances may count differently now."""
    names = old.reported.keys() | new.reported.keys()
    touched = {name for name in names if old.reported.get(name) is not new.reported.get(name)}
    if old.authority is new.authority:
        return touched
    before, after = old.authority, new.authority
    for name in before.hosts.keys() | after.hosts.keys():
        spiffe_id = new.spiffe_id(name)
        if (
            before.hosts.get(name) is not after.hosts.get(name)
            or before.revoked_identities.get(spiffe_id) is not after.revoked_identities.get(spiffe_id)
            or old._signed.get(name) != new._signed.get(name)
        ):
            touched.add(name)
    return touched


def _derive(old: Snapshot, new: Snapshot) -> tuple[dict[str, tuple[Instance, ...]], Mapping[str, Service]]:
    """The offers and services of `new`, starting from those of `old`."""
    touched = _touched_hosts(old, new)
    offers = dict(old._offers)
    names: set[str] = set()
    added: dict[str, list[Instance]] = {}
    for host in touched:
        names.update(instance.service for instance in offers.pop(host, ()))
        offer = new._offer(host)
        if offer:
            offers[host] = offer
        for instance in offer:
            added.setdefault(instance.service, []).append(instance)
    if not names and not added:
        return offers, old.services
    services = dict(old.services)
    for name in names | added.keys():
        before = services.pop(name, None)
        kept = [i for i in before.instances if i.host not in touched] if before is not None else []
        instances = kept + added.get(name, [])
        if instances:
            service = new._service_of(name, instances)
            services[name] = before if before is not None and before == service else service
    return offers, services


def _targets_after(old: Snapshot, new: Snapshot) -> Mapping[int, tuple[str, ...]]:
    """`services_by_target` of `new`, whose policy is that of `old`."""
    services = dict(old.services_by_target)
    for name in old.services.keys() | new.services.keys():
        if old.services.get(name) is new.services.get(name):
            continue
        before, after = set(old._target_patterns(name)), set(new._target_patterns(name))
        for number in before - after:
            services[number] = tuple(other for other in services[number] if other != name)
        for number in after - before:
            services[number] = (*services.get(number, ()), name)
    return services


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two snapshots, by name."""

    services: frozenset[str]
    """Instances, their port or their health differ."""
    hosts: frozenset[str]
    """Entry, revocation or presence differ."""
    policy: bool
    """Rules differ, or a revoked key."""


def diff(old: Snapshot, new: Snapshot) -> Changes:
    """What changed from `old` to `new`."""
    services = set(_differing(old.services, new.services))
    unwell = set(_differing(old.health, new.health))
    if unwell:
        services.update(s.name for s in new.services.values() if any(i.id in unwell for i in s.instances))
    hosts = {*_differing(old.authority.hosts, new.authority.hosts), *_differing(old.presence, new.presence)}
    revoked = set(_differing(old.authority.revoked_identities, new.authority.revoked_identities))
    if revoked:
        hosts.update(name for name in new.authority.hosts if new.spiffe_id(name) in revoked)
    same_keys = old.authority.revoked_keys == new.authority.revoked_keys
    return Changes(frozenset(services), frozenset(hosts), not same_keys or old.rules != new.rules)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[str]:
    if old is new:
        return ()
    return [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
