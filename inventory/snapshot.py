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
from inventory.health import HealthByHost, host_of
from inventory.imports import gateway_of, is_as_signed, place_of
from inventory.model import Health, Host, Instance, Presence, Publication, Service
from inventory.names import SpiffeId
from inventory.policy_index import PolicyIndex
from inventory.policy_rules import Rule

UNKNOWN_HEALTH = Health()


@dataclass(frozen=True, slots=True)
class Touched:
    """What may differ from one snapshot to a later one with the same policy. Never less than what does: who knows what
    a change touched spares the others from being looked at."""

    hosts: frozenset[str] = frozenset()
    """Whose presence, reported instances or health may differ."""
    keys: frozenset[str] = frozenset()
    """Keys of the entries (`host/vm1`) that may differ."""

    def __or__(self, other: Touched) -> Touched:
        return Touched(self.hosts | other.hosts, self.keys | other.keys)

    @property
    def named(self) -> frozenset[str]:
        """The hosts that the keys are about: by their own entry, a revocation, or an instance placed on them; and the
        places of the gateways that they are about, by an import as well."""
        names = set()
        for key in self.keys:
            kind, _, rest = key.partition("/")
            if kind == "host":
                names.add(rest)
            elif kind == "revoke" and rest.startswith("host/"):
                names.add(rest.removeprefix("host/"))
            elif kind == "gateway" or (kind == "revoke" and rest.startswith("gateway/")):
                names.add(place_of(rest.removeprefix("gateway/")))
            elif kind == "import":
                names.add(place_of(rest.partition("/")[2]))
            elif kind == "service":
                names.add(host_of(rest))
        return frozenset(names)

    @property
    def published(self) -> frozenset[str]:
        """The services whose publications may differ."""
        return frozenset(key.split("/")[1] for key in self.keys if key.startswith("publish/"))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """See the module. Mappings given to it must not be changed afterwards."""

    authority: AuthorityState
    allows: tuple[Rule, ...] = ()
    """Allow rules proved against the signed policy (see inventory/policy_document.py)."""
    presence: Mapping[str, Presence] = field(default_factory=dict)
    """By host name."""
    reported: Mapping[str, tuple[Instance, ...]] = field(default_factory=dict)
    """Host name -> what that host says it serves."""
    health: HealthByHost = field(default_factory=HealthByHost)
    """By Instance.id."""
    revision: int = 0

    def health_on(self, host: str) -> Mapping[str, Health]:
        """What is known of the instances on one host, by their ids."""
        return self.health.on(host)

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

    def prepare(self) -> None:
        """Derive now what `evolved` carries over and every question needs: with 100,000 instances it takes a moment."""
        derived = (self.services, self.services_by_target, self.hosts_by_source, self.clients_by_source)
        for _ in (*derived, self._revoked_hosts):
            pass

    def host(self, name: str) -> Host | None:
        """The host as its operator signed it, revoked or not."""
        return self.authority.hosts.get(name)

    def site_of(self, place: str) -> str | None:
        """The site of a host, or of a gateway as a place of instances."""
        gateway = gateway_of(place)
        found = self.host(place) if gateway is None else self.authority.gateways.get(gateway)
        return found.site if found is not None else None

    def served_by(self, place: str) -> str | None:
        """The gateway that takes the streams to a place: it reaches that host, or brings in what is there; None: the
        host's own agent does."""
        host = self.host(place)
        return host.via if host is not None else gateway_of(place)

    def has_agent(self, name: str) -> bool:
        """Whether a peer with a certificate for this host may be it: an agentless host has none, whoever had its name
        before (C10)."""
        host = self.host(name)
        return host is not None and host.via is None

    def why_no_agent(self, name: str) -> str | None:
        """Why nobody may be here as this host; None when its agent may."""
        host = self.host(name)
        if host is None:
            return f"host {name} is not in the authority log"
        if host.via is not None:
            return f"host {name} is reached by gateway {host.via}, and no agent runs on it"
        revoked = self.host_revoked(name)
        return f"revoked: {revoked}" if revoked is not None else None

    def behind(self, gateway: str) -> tuple[str, ...]:
        """The agentless hosts that this gateway reaches, revoked or not, by name."""
        return self._behind.get(gateway, ())

    def service(self, name: str) -> Service | None:
        return self.services.get(name)

    def health_of(self, instance: Instance) -> Health:
        return self.health_on(instance.host).get(instance.id, UNKNOWN_HEALTH)

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

    @cached_property
    def clients_by_source(self) -> Mapping[int, tuple[str, ...]]:
        """Pattern number -> the clients that it means."""
        clients = sorted(self.authority.clients.items())
        return _inverted((name, self.index.client_patterns(client)) for name, client in clients)

    @cached_property
    def published(self) -> Mapping[str, tuple[Publication, ...]]:
        """Service name -> its publications, by id."""
        found: dict[str, list[Publication]] = {}
        for _, one in sorted(self.authority.publications.items()):
            found.setdefault(one.service, []).append(one)
        return {name: tuple(ones) for name, ones in found.items()}

    def speaks_for_client(self, gateway: str, client: str) -> bool:
        """Whether the operator lets this gateway say that the client calls (C10)."""
        entry = self.authority.clients.get(client)
        return entry is not None and gateway in entry.gateways and self.gateway_counts(gateway)

    def speaks_for_host(self, gateway: str, host: str) -> bool:
        """Whether the operator lets this gateway say that the agentless host calls (C10)."""
        entry = self.host(host)
        return entry is not None and entry.via == gateway and self.gateway_counts(gateway)

    def speaks(self, gateway: str) -> bool:
        """Whether there is anybody here for whom this gateway may speak."""
        clients = self.authority.clients.values()
        spoken_for = bool(self.behind(gateway)) or any(gateway in client.gateways for client in clients)
        return spoken_for and self.gateway_counts(gateway)

    def gateway_counts(self, name: str) -> bool:
        """Whether the gateway is in the log, and not revoked."""
        spiffe_id = str(SpiffeId(self.authority.trust_domain, "gateway", name))
        return name in self.authority.gateways and self.is_revoked(spiffe_id) is None

    def placed_on(self, host: str) -> tuple[Instance, ...]:
        """The instances that the operator placed on this host, whether or not they count."""
        return self._signed.get(host, ())

    def offers(self, host: str) -> tuple[Instance, ...]:
        """The instances on this host that count."""
        return self._offers.get(host, ())

    def reported_on(self, host: str) -> tuple[Instance, ...]:
        """Of these, the ones that are there by the host's own word."""
        return self.offers(host)[len(self.placed_on(host)) :]  # see `_offer`

    @cached_property
    def _behind(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for host in self.authority.hosts.values():
            if host.via is not None:
                found.setdefault(host.via, []).append(host.name)
        return {gateway: tuple(sorted(names)) for gateway, names in found.items()}

    @cached_property
    def _revoked_hosts(self) -> dict[str, str]:
        """Host name -> why it is revoked."""
        prefix = self.spiffe_id("")
        identities = [identity for identity in self.authority.revoked_identities if identity.startswith(prefix)]
        return {identity[len(prefix) :]: self.is_revoked(identity) or "" for identity in identities}

    @cached_property
    def _signed(self) -> dict[str, tuple[Instance, ...]]:
        """Host name -> the instances that the operator placed on it, in the order of their ids."""
        by_host: dict[str, list[Instance]] = {}
        for _, instance in sorted(self.authority.instances.items()):
            by_host.setdefault(instance.host, []).append(instance)
        return {host: tuple(instances) for host, instances in by_host.items()}

    @cached_property
    def _offers(self) -> dict[str, tuple[Instance, ...]]:
        """Host name -> the instances on it that count."""
        gateways = {place_of(wanted.gateway) for wanted in self.authority.imports.values()}
        return {name: offer for name in (*self.authority.hosts, *gateways) if (offer := self._offer(name))}

    def _offer(self, name: str) -> tuple[Instance, ...]:
        """What counts of one host: placed by the operator, then reported by itself as far as it may."""
        gateway = gateway_of(name)
        if gateway is not None:
            return self._imported(gateway)
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

    def _imported(self, gateway: str) -> tuple[Instance, ...]:
        """What counts of a gateway: what it says that it found in Consul, as far as the operator's imports go."""
        authority = self.authority
        if not self.gateway_counts(gateway):
            return ()
        counted: dict[str, Instance] = {}
        for instance in self.reported.get(place_of(gateway), ()):
            wanted = authority.imports.get(f"{instance.service}/{gateway}")
            if wanted is not None and is_as_signed(wanted, instance):
                counted.setdefault(instance.id, instance)
        return tuple(counted.values())

    def _service_of(self, name: str, instances: Iterable[Instance]) -> Service:
        """Instances in the order of their ids. Should they disagree on the port, one that is signed decides."""
        ordered = tuple(sorted(instances, key=lambda instance: instance.id))
        signed = (instance for instance in ordered if instance.id in self.authority.instances)
        return Service(name=name, port=next(signed, ordered[0]).port, instances=ordered)

    def evolved(self, touched: Touched | None = None, **changes: Any) -> Snapshot:
        """A snapshot with other values for some of the fields, equal to one made anew, at the cost of the change.

        Args:
            touched: at least what differs, when the caller knows it; otherwise it is found by comparing.
            changes: the new values.
        """
        after = replace(self, **changes)
        same_policy = after.authority.policy is self.authority.policy and (
            after.allows is self.allows or after.allows == self.allows
        )
        same_authority = after.authority is self.authority
        # Each is put into the new snapshot's dictionary, where `cached_property` looks first.
        kept = after.__dict__
        for name in ("rules", "index"):
            if same_policy and name in self.__dict__:
                kept[name] = self.__dict__[name]
        for name in ("_signed", "_revoked_hosts", "_behind"):
            if same_authority and name in self.__dict__:
                kept[name] = self.__dict__[name]
        if not same_authority and touched is not None and "_signed" in self.__dict__:
            kept["_signed"] = _signed_after(self, after, touched)
        if "services" in self.__dict__:
            names = _touched_hosts(self, after) if touched is None else touched.hosts | touched.named
            kept["_offers"], kept["services"], changed = _derive(self, after, names)
            if same_policy and "services_by_target" in self.__dict__:
                kept["services_by_target"] = _targets_after(self, after, changed)
        if same_policy and "hosts_by_source" in self.__dict__:
            if same_authority:
                kept["hosts_by_source"] = self.hosts_by_source
            elif touched is not None:
                kept["hosts_by_source"] = _sources_after(self, after, touched.named)
        same_clients = same_authority or after.authority.clients == self.authority.clients
        if same_policy and same_clients and "clients_by_source" in self.__dict__:
            kept["clients_by_source"] = self.clients_by_source
        return after


def _inverted(items: Iterable[tuple[str, Iterable[int]]]) -> dict[int, tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, numbers in items:
        for number in numbers:
            names.setdefault(number, []).append(name)
    return {number: tuple(found) for number, found in names.items()}


def _reinverted(
    inverted: Mapping[int, tuple[str, ...]], changes: Iterable[tuple[str, Iterable[int], Iterable[int]]]
) -> Mapping[int, tuple[str, ...]]:
    """As `_inverted`, where some names (name, numbers before, numbers after) have others; itself when none has."""
    found: dict[int, tuple[str, ...]] | None = None
    for name, numbers_before, numbers_after in changes:
        before, after = set(numbers_before), set(numbers_after)
        if before == after:
            continue
        found = dict(inverted) if found is None else found
        for number in before - after:
            found[number] = tuple(other for other in found[number] if other != name)
        for number in after - before:
            found[number] = (*found.get(number, ()), name)
    return inverted if found is None else found


def _touched_hosts(old: Snapshot, new: Snapshot) -> set[str]:
    """Hosts whose instances may count differently now, found by comparing all."""
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
    touched.update(place_of(name) for name in before.gateways.keys() | after.gateways.keys())  # there are few
    return touched


def _signed_after(old: Snapshot, new: Snapshot, touched: Touched) -> dict[str, tuple[Instance, ...]]:
    """`_signed` of `new`, from the keys of the entries that differ."""
    ids: dict[str, list[str]] = {}
    for key in touched.keys:
        if key.startswith("service/"):
            instance_id = key.removeprefix("service/")
            ids.setdefault(host_of(instance_id), []).append(instance_id)
    signed = dict(old._signed)
    for host, changed in ids.items():
        mine = {instance.id: instance for instance in signed.get(host, ())}
        for instance_id in changed:
            placed = new.authority.instances.get(instance_id)
            if placed is None:
                mine.pop(instance_id, None)
            else:
                mine[instance_id] = placed
        if mine:
            signed[host] = tuple(mine[instance_id] for instance_id in sorted(mine))
        else:
            signed.pop(host, None)
    return signed


def _derive(
    old: Snapshot, new: Snapshot, touched: Iterable[str]
) -> tuple[dict[str, tuple[Instance, ...]], Mapping[str, Service], set[str]]:
    """The offers and services of `new`, starting from those of `old`, and the names of the services that differ."""
    offers = old._offers
    names: set[str] = set()
    changed: set[str] = set()
    added: dict[str, list[Instance]] = {}
    for host in touched:
        offer, before = new._offer(host), old._offers.get(host, ())
        placed, placed_before = new._signed.get(host, ()), old._signed.get(host, ())
        if offer == before and placed == placed_before:
            continue
        if placed != placed_before:
            names.update(instance.service for instance in (*placed, *placed_before))
        if offers is old._offers:
            offers = dict(offers)
        if offer:
            offers[host] = offer
        else:
            offers.pop(host, None)
        changed.add(host)
        known = {instance.id: instance for instance in before}
        for instance in offer:
            if known.pop(instance.id, None) != instance:
                names.add(instance.service)
        names.update(instance.service for instance in known.values())
    for host in changed:
        for instance in offers.get(host, ()):
            if instance.service in names:
                added.setdefault(instance.service, []).append(instance)
    if not names:
        return offers, old.services, names
    services = dict(old.services)
    differing = set()
    for name in names:
        before_service = services.get(name)
        kept = [i for i in before_service.instances if i.host not in changed] if before_service is not None else []
        instances = kept + added.get(name, [])
        service = new._service_of(name, instances) if instances else None
        if service == before_service:
            continue
        differing.add(name)
        if service is not None:
            services[name] = service
        else:
            services.pop(name, None)
    return offers, services, differing


def _targets_after(old: Snapshot, new: Snapshot, names: Iterable[str]) -> Mapping[int, tuple[str, ...]]:
    """`services_by_target` of `new`, whose policy is that of `old`, where these services differ."""
    changes = ((name, old._target_patterns(name), new._target_patterns(name)) for name in names)
    return _reinverted(old.services_by_target, changes)


def _sources_after(old: Snapshot, new: Snapshot, names: Iterable[str]) -> Mapping[int, tuple[str, ...]]:
    """`hosts_by_source` of `new`, whose policy is that of `old`, where these hosts' entries may differ."""

    def patterns(snapshot: Snapshot, name: str) -> list[int]:
        host = snapshot.host(name)
        return [] if host is None else snapshot.index.source_patterns(host)

    changes = ((name, patterns(old, name), patterns(new, name)) for name in names)
    return _reinverted(old.hosts_by_source, changes)
