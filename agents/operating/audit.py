"""Pure: the authority log as an audit trail: who allowed what, when, with what message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from inventory.authority import (
    AdmissionBody,
    Body,
    ClientBody,
    DomainBody,
    GatewayBody,
    HostBody,
    ImportBody,
    InstanceBody,
    InviteBody,
    OperatorBody,
    PolicyBody,
    PublishBody,
    ReachBody,
    RevokeBody,
    SignedEntry,
    entry_key,
    verify_entry,
)
from inventory.model import Import, Instance


class AuditLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `at` is unix seconds by the operator's clock."""

    number: int
    at: int
    operator: str
    """The operator's name, as the log gives it at that point."""
    operator_key: str
    key: str
    """What it is about: `host/vm1`, `policy`."""
    what: str
    message: str
    body: Any
    """The whole entry's content."""


def audit_trail(entries: Iterable[SignedEntry]) -> list[AuditLine]:
    """Every entry, oldest first. Raises AuthorityError when one does not verify."""
    names: dict[str, str] = {}
    lines = []
    for signed in entries:
        verified = verify_entry(signed)
        entry = verified.entry
        if isinstance(entry.body, DomainBody):
            names[entry.operator] = entry.body.operator_name
        elif isinstance(entry.body, OperatorBody):
            names[entry.body.key] = entry.body.name
        lines.append(
            AuditLine(
                number=entry.number,
                at=entry.at,
                operator=names.get(entry.operator, "unknown"),
                operator_key=entry.operator,
                key=entry_key(entry.body),
                what=describe(entry.body),
                message=entry.message,
                body=msgspec.to_builtins(entry.body),
            )
        )
    return lines


def _list(words: Sequence[str]) -> str:
    return ", ".join(words)


def describe(body: Body) -> str:
    """One line of words for an entry."""
    match body:
        case DomainBody():
            return f"trust domain {body.trust_domain}, names under {body.namespace}"
        case OperatorBody():
            return f"operator {body.name} {'removed' if body.removed else 'added'}"
        case GatewayBody():
            return f"gateway {body.gateway.name} {'removed' if body.removed else f'at {body.gateway.address}'}"
        case HostBody():
            return _describe_host(body)
        case ReachBody():
            return _describe_reach(body)
        case InviteBody():
            return f"token for {body.role} {body.name}"
        case PolicyBody():
            return f"policy of {body.allow_count} allow and {len(body.denies)} deny rules"
        case RevokeBody():
            return f"{body.spiffe_id} {'admitted again, with a new key' if body.lifted else f'revoked: {body.reason}'}"
        case InstanceBody():
            instance = body.instance
            drained = f", draining: {instance.draining}" if instance.draining is not None else ""
            where = f"service {instance.service} on {instance.host} at {instance.target}"
            return f"{where} removed" if body.removed else f"{where}, port {instance.port}{_limit(instance)}{drained}"

        case ImportBody():
            wanted = body.imported
            where = f"service {wanted.service} from {wanted.check} through gateway {wanted.gateway}"
            port = f", port {wanted.port}" if wanted.port is not None else ""
            loopback = ", loopback allowed" if wanted.allow_loopback else ""
            return f"{where} removed" if body.removed else f"{where}{port}{_limit(wanted)}{loopback}"
        case ClientBody():
            return _describe_client(body)
        case AdmissionBody():
            return _describe_admission(body)
        case PublishBody():
            return _describe_publication(body)


def _limit(taken: Instance | Import) -> str:
    streams = f", at most {taken.max_streams} streams at once" if taken.max_streams is not None else ""
    return streams + (f", at most {taken.max_rate} a second" if taken.max_rate is not None else "")


def _describe_publication(body: PublishBody) -> str:
    wanted = body.publication
    place = f"through gateway {wanted.gateway} at {wanted.listen}"
    place = f"on host {wanted.host} at its port {wanted.port}" if wanted.host is not None else place
    how = ", for clients with a certificate" if wanted.tls else ""
    return f"service {wanted.service} {'no longer published' if body.removed else 'published'} {place}{how}"


def _describe_client(body: ClientBody) -> str:
    client = body.client
    labels = f", labels {_list([f'{k}={v}' for k, v in client.labels.items()])}" if client.labels else ""
    through = f"through {_list(client.gateways)}{labels}"
    return f"client {client.name} {'removed' if body.removed else through}"


def _describe_admission(body: AdmissionBody) -> str:
    admission = body.admission
    if body.removed:
        return f"client {admission.client} no longer known by anything"
    keys = [f"the certificate with key {key[:16]}…" for key in admission.certificates]
    return f"client {admission.client} known by {_list([*admission.sources, *keys])}"


def _describe_host(body: HostBody) -> str:
    host = body.host
    if body.removed:
        return f"host {host.name} removed"
    parts = [
        f"reached by gateway {host.via}" if host.via else "",
        f"site {host.site}" if host.site else "",
        f"labels {_list([f'{k}={v}' for k, v in host.labels.items()])}" if host.labels else "",
        f"may serve {_list(host.serves)}" if host.serves else "",
        f"draining{' of what it serves' * host.serving_only}: {host.draining}" if host.draining is not None else "",
    ]
    return _list([f"host {host.name}", *(part for part in parts if part)])


def _describe_reach(body: ReachBody) -> str:
    reach = body.reach
    if body.removed:
        return f"host {reach.host} is no longer reached by {reach.gateway}"
    allowance = reach.allowance
    parts = [
        f"{_counted(len(reach.host_keys), 'host key')}" if reach.host_keys else "",
        "with a sealed key" if reach.credential is not None else "",
        "with a certificate authority of its own" if reach.ca is not None else "",
        "loopback allowed" if reach.allow_loopback else "",
        f"crypto {_list(allowance.profiles)} until {allowance.until} ({allowance.owner})" if allowance else "",
    ]
    where = f"host {reach.host} is reached at {reach.url} by gateway {reach.gateway}"
    return _list([where, *(part for part in parts if part)])


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
