"""Pure: what Consul's catalog should say of a host: a node, a service for each instance, and their checks.

Names are ours alone. A node is `meshbridge_DOMAIN_HOST`: `_` is in no name of a domain or host, so no two hosts of any
two estates have one name, and a token can be given that prefix and nothing else. What is said of hosts and instances
goes into JSON as data; the alphabet that Consul wants for the names of metadata is the only thing it is fitted to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from inventory.endpoints import parse_endpoint
from inventory.model import Health, Host, Instance
from inventory.registries.consul_catalog_wire import Check, Entry, Key, Mark, Node, Service
from inventory.snapshot import Snapshot

META_MAX = 64
"""Pairs of metadata that Consul takes of one entry; labels past that are among the tags only."""
VALUE_MAX = 512
"""Characters of a value of metadata that Consul takes."""
HOST_CHECK = "meshbridge:host"
_CHECK = "meshbridge:"
_STATUS = {"passing": "passing", "failing": "critical", "unknown": "warning"}
_UNKNOWN = "not checked yet"


def node_prefix(domain: str) -> str:
    return f"meshbridge_{domain}_"


def hosts_of(snapshot: Snapshot, services: Iterable[str]) -> frozenset[str]:
    """Where these services are: what is said of them there may be otherwise."""
    found = (service for name in services if (service := snapshot.service(name)) is not None)
    return frozenset(instance.host for service in found for instance in service.instances)


def wanted_on(snapshot: Snapshot, host: str, mark: Mark) -> dict[Key, Entry]:
    """The entries of one host; none when there is no such host in the estate."""
    known = snapshot.host(host)
    if known is None:
        return {}
    node = node_prefix(mark.domain) + host
    entries: list[Entry] = [
        Node(name=node, address=_address(snapshot, host), meta=_node_meta(known, mark)),
        _host_check(snapshot, known, node, mark),
    ]
    for instance in snapshot.offers(host):
        service = _service(snapshot, known, instance, node, mark)
        entries += [service, _check(snapshot.health_of(instance), known, instance, service, mark)]
    return {entry.key: entry for entry in entries}


def _address(snapshot: Snapshot, host: str) -> str:
    """Where its agent can be dialled; else its name, whether or not the world knows it under that."""
    presence = snapshot.presence.get(host)
    return parse_endpoint(presence.advertise).host if presence is not None and presence.advertise else host


def _node_meta(host: Host, mark: Mark) -> dict[str, str]:
    meta = {"external-node": "true", "external-probe": "false", **mark.meta, "meshbridge-host": host.name}
    if host.site is not None:
        meta["meshbridge-site"] = host.site
    return with_labels(meta, host.labels)


def with_labels(meta: dict[str, str], labels: Mapping[str, str]) -> dict[str, str]:
    """`meta` and the labels, whose dots Consul would not take in the name of metadata."""
    for key, value in sorted(labels.items()):
        if len(meta) < META_MAX:
            meta.setdefault("label-" + key.replace(".", "_"), value)
    return meta


def _host_check(snapshot: Snapshot, host: Host, node: str, mark: Mark) -> Check:
    presence, revoked = snapshot.presence.get(host.name), snapshot.host_revoked(host.name)
    if revoked is not None:
        status, output = "critical", f"revoked: {revoked}"
    elif presence is None or not presence.online:
        status, output = "critical", "not connected to a gateway"
    elif host.draining is not None:
        status, output = "warning", f"connected; draining: {host.draining}"
    else:
        status, output = "passing", "connected"
    return Check(
        node=node, id=HOST_CHECK, name="connected to meshbridge", status=status, notes=mark.notes, output=output
    )


def _service(snapshot: Snapshot, host: Host, instance: Instance, node: str, mark: Mark) -> Service:
    service = snapshot.service(instance.service)
    meta = {
        "external-source": "meshbridge",
        **mark.meta,
        "meshbridge-host": host.name,
        "meshbridge-target": instance.target,
    }
    if host.site is not None:
        meta["meshbridge-site"] = host.site
    places = [one.listen for one in snapshot.published.get(instance.service, ()) if one.listen is not None]
    if places:
        meta["meshbridge-published"] = " ".join(places)[:VALUE_MAX]
    return Service(
        node=node,
        id=instance.id,
        name=instance.service,
        # What a program on a host of the estate connects to; the instance's own target is an address on its host.
        address=f"{instance.service}.{snapshot.authority.namespace}",
        port=service.port if service is not None else instance.port,
        tags=tuple(sorted(f"{key}={value}" for key, value in instance.labels.items())),
        meta=with_labels(meta, instance.labels),
        weights=(max(instance.weight, 1), 1),  # Consul knows no 0
    )


def _check(health: Health, host: Host, instance: Instance, service: Service, mark: Mark) -> Check:
    draining = instance.draining if instance.draining is not None else host.draining
    if draining is not None:
        status, output = "critical", f"draining: {draining}"
    else:
        status = _STATUS[health.state]
        output = health.reason or (_UNKNOWN if health.state == "unknown" else "")
    return Check(
        node=service.node,
        id=_CHECK + instance.id,
        name=f"health of {instance.service}",
        status=status,
        notes=mark.notes,
        output=output,
        service_id=instance.id,
        service_name=instance.service,
    )
