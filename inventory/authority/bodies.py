"""Pure: the bodies of the authority log's entries: everything an operator can say.

Every body checks itself when it is made, so the same rules hold for what we sign and for what we read. Names must be in
canonical form already (C02, C03, C09): nothing is repaired here, because what was signed is never changed.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from inventory.authority.keys import parse_public_key
from inventory.clients import client_key, parse_published, parse_source
from inventory.endpoints import parse_endpoint, parse_target
from inventory.errors import InputError
from inventory.imports import import_key
from inventory.model import Admission, Client, Gateway, Host, Import, Instance, Publication, Reach
from inventory.names import parse_domain, parse_gateway, parse_host, parse_service, parse_site, parse_spiffe_id, shown
from inventory.policy_rules import Rule, parse_label_pair
from inventory.reach import check_reach

MESSAGE_MAX = 1000
TEXT_MAX = 253
BOUND_MAX = 100_000
"""Of streams at once, or in a second: the same as the bridge's GOVERNOR_BOUND_MAX."""
LABELS_MAX = 64
TAGS_MAX = 16
HOST_KEYS_MAX = 16
CREDENTIAL_MAX = 64 * 1024
"""A sealed private key in base64 (see `bridge.limits`)."""
CA_MAX = 64 * 1024
CLIENT_GATEWAYS_MAX = 64
SOURCES_MAX = 256
CERTIFICATES_MAX = 8
PEM_MAX = 16 * 1024

_PEM = "-----BEGIN CERTIFICATE-----\n"
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CONSUL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", re.ASCII)
_TAG = re.compile(r"[\x21-\x7e]{1,253}", re.ASCII)
_HOST_KEY = re.compile(r"(?:@cert-authority )?[a-z0-9@.-]{3,64} [A-Za-z0-9+/]{16,8192}={0,2}", re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)
_INVITE_ID = re.compile(r"[0-9a-z][0-9a-z-]{3,63}", re.ASCII)


def _same(name: str, parsed: str, what: str) -> None:
    if name != parsed:
        raise InputError(f"{what} {shown(name)} is not in canonical form", hint=f"write it as {parsed}")


def parse_hash(text: str, what: str) -> str:
    """A SHA-256 as 64 lower-case hex digits. Raises InputError."""
    if not _HASH.fullmatch(text):
        raise InputError(f"{shown(text)} is not a {what}: expected 64 lower-case hex digits")
    return text


def _check_text(text: str, what: str, most: int = TEXT_MAX) -> None:
    if len(text) > most:
        raise InputError(f"{what} has {len(text)} characters, at most {most} are allowed")
    if not text.isprintable():
        raise InputError(f"{what} {shown(text)} has characters that cannot be printed")


def _check_labels(labels: dict[str, str]) -> None:
    if len(labels) > LABELS_MAX:
        raise InputError(f"{len(labels)} labels, at most {LABELS_MAX} are allowed")
    for key, value in labels.items():
        pair = f"{key}={value}"
        _same(pair, "=".join(parse_label_pair(pair)), "label")


def _check_bounds(taken: Instance | Import) -> None:
    for number, what in ((taken.max_streams, "a number of streams"), (taken.max_rate, "a number of streams a second")):
        if number is not None and not 1 <= number <= BOUND_MAX:
            raise InputError(f"{number} is not {what}", hint=f"give a number from 1 to {BOUND_MAX}")


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What all kinds share: immutable, strict, told apart by `kind`."""


class DomainBody(_Body, frozen=True, tag="domain"):
    """Entry number 1, and only that: the trust domain, its root, and the operator who signs it."""

    trust_domain: str
    namespace: str
    """The domain that service names end in: `bridge.internal`."""
    root_certificate: str
    """PEM."""
    operator_name: str

    def __post_init__(self) -> None:
        _same(self.trust_domain, parse_domain(self.trust_domain), "trust domain")
        _same(self.namespace, parse_domain(self.namespace), "namespace")
        if not self.root_certificate.startswith(_PEM):
            raise InputError("the root certificate is not PEM")
        _check_text(self.operator_name, "operator name")


class OperatorBody(_Body, frozen=True, tag="operator"):
    key: str
    """Ed25519 public key, hex."""
    name: str
    removed: bool = False

    def __post_init__(self) -> None:
        parse_public_key(self.key)
        _check_text(self.name, "operator name")


class GatewayBody(_Body, frozen=True, tag="gateway"):
    gateway: Gateway
    removed: bool = False

    def __post_init__(self) -> None:
        _same(self.gateway.name, parse_gateway(self.gateway.name), "gateway name")
        parse_endpoint(self.gateway.address)
        if self.gateway.site is not None:
            _same(self.gateway.site, parse_site(self.gateway.site), "site")


class HostBody(_Body, frozen=True, tag="host"):
    host: Host
    removed: bool = False

    def __post_init__(self) -> None:
        _same(self.host.name, parse_host(self.host.name), "host name")
        if self.host.site is not None:
            _same(self.host.site, parse_site(self.host.site), "site")
        for service in self.host.serves:
            _same(service, parse_service(service), "service name")
        _check_labels(self.host.labels)
        _check_text(self.host.draining or "", "drain reason")
        if self.host.serving_only and self.host.draining is None:
            raise InputError("a host that is in service is not drained in part")
        if self.host.via is not None:
            _same(self.host.via, parse_gateway(self.host.via), "gateway name")
            if self.host.serves:
                raise InputError("no agent runs on it that could serve anything by its own word: place its services")


class ReachBody(_Body, frozen=True, tag="reach"):
    """How a gateway reaches a host on which no agent runs."""

    reach: Reach
    removed: bool = False

    def __post_init__(self) -> None:
        reach = self.reach
        _same(reach.host, parse_host(reach.host), "host name")
        _same(reach.gateway, parse_gateway(reach.gateway), "gateway name")
        if len(reach.host_keys) > HOST_KEYS_MAX:
            raise InputError(f"{len(reach.host_keys)} host keys, at most {HOST_KEYS_MAX} are allowed")
        wrong = next((key for key in reach.host_keys if not _HOST_KEY.fullmatch(key)), None)
        if wrong is not None:
            raise InputError(f"{shown(wrong)} is not a public key in OpenSSH's form")
        sealed = reach.credential
        if sealed is not None and (len(sealed) > CREDENTIAL_MAX or not _BASE64.fullmatch(sealed)):
            raise InputError("the sealed credential is not base64 of a possible length")
        if reach.ca is not None and not (len(reach.ca) <= CA_MAX and reach.ca.startswith(_PEM)):
            raise InputError("the certificate authority is not PEM of a possible length")
        check_reach(reach)


class InviteBody(_Body, frozen=True, tag="invite"):
    """The right to enrol one machine under one name, once. Only a hash of its secret exists here (C21)."""

    id: str
    role: Literal["host", "gateway"]
    name: str
    secret_hash: str
    """SHA-256 of the secret, hex."""
    expires_at: int
    """Unix seconds."""

    def __post_init__(self) -> None:
        if not _INVITE_ID.fullmatch(self.id):
            raise InputError(f"{shown(self.id)} is not an invite id: expected 4 to 64 of a-z, 0-9 and -")
        parse = parse_host if self.role == "host" else parse_gateway
        _same(self.name, parse(self.name), f"{self.role} name")
        parse_hash(self.secret_hash, "secret hash")


class PolicyBody(_Body, frozen=True, tag="policy"):
    """The policy in force: its deny rules in full, its allow rules as a Merkle root that each is proved against."""

    denies: tuple[Rule, ...]
    allow_root: str
    allow_count: int
    source_hash: str
    """SHA-256 of the TOML text, hex."""

    def __post_init__(self) -> None:
        parse_hash(self.allow_root, "Merkle root")
        parse_hash(self.source_hash, "source hash")
        if self.allow_count < 0:
            raise InputError(f"a policy cannot have {self.allow_count} allow rules")
        wrong = next((rule.name for rule in self.denies if rule.effect != "deny"), None)
        if wrong is not None:
            raise InputError(f"rule {shown(wrong)} stands among the deny rules but is none")


class RevokeBody(_Body, frozen=True, tag="revoke"):
    """An identity refused from now on, with every key it ever lost. `lifted`: it may enrol again, with a new key.

    The listed keys stay revoked for ever, so each later entry for an identity lists at least those of the one before.
    """

    spiffe_id: str
    keys: tuple[str, ...]
    """SHA-256 of SPKI DER, hex."""
    reason: str
    lifted: bool = False

    def __post_init__(self) -> None:
        parse_spiffe_id(self.spiffe_id)
        for key in self.keys:
            parse_hash(key, "key hash")
        _check_text(self.reason, "reason", MESSAGE_MAX)


class InstanceBody(_Body, frozen=True, tag="service"):
    instance: Instance
    removed: bool = False

    def __post_init__(self) -> None:
        instance = self.instance
        _same(instance.service, parse_service(instance.service), "service name")
        _same(instance.host, parse_host(instance.host), "host name")
        _same(instance.target, str(parse_target(instance.target)), "target")
        if not 1 <= instance.port <= 65535:
            raise InputError(f"{instance.port} is not a port", hint="give a number from 1 to 65535")
        if not 0 <= instance.weight <= 65535:
            raise InputError(f"{instance.weight} is not a weight", hint="give a number from 0 to 65535")
        _check_bounds(instance)
        _check_labels(instance.labels)
        _check_text(instance.check or "", "check", MESSAGE_MAX)
        _check_text(instance.draining or "", "drain reason")


class ImportBody(_Body, frozen=True, tag="import"):
    """A gateway may bring in a service that others registered in Consul."""

    imported: Import
    removed: bool = False

    def __post_init__(self) -> None:
        imported = self.imported
        _same(imported.service, parse_service(imported.service), "service name")
        _same(imported.gateway, parse_gateway(imported.gateway), "gateway name")
        if not _CONSUL_NAME.fullmatch(imported.source):
            raise InputError(f"{shown(imported.source)} is not the name of a service in Consul")
        wrong = next((tag for tag in imported.tags if not _TAG.fullmatch(tag)), None)
        if wrong is not None:
            raise InputError(f"{shown(wrong)} is not a tag", hint="1 to 253 letters, digits and signs, without spaces")
        if len(imported.tags) > TAGS_MAX:
            raise InputError(f"{len(imported.tags)} tags, at most {TAGS_MAX} are allowed")
        if imported.port is not None and not 1 <= imported.port <= 65535:
            raise InputError(f"{imported.port} is not a port", hint="give a number from 1 to 65535")
        _check_bounds(imported)
        _check_labels(imported.labels)


class ClientBody(_Body, frozen=True, tag="client"):
    """A client that certain gateways may speak for."""

    client: Client
    removed: bool = False

    def __post_init__(self) -> None:
        client = self.client
        _same(client.name, parse_host(client.name), "client name")
        if not 1 <= len(client.gateways) <= CLIENT_GATEWAYS_MAX:
            raise InputError(f"{len(client.gateways)} gateways, 1 to {CLIENT_GATEWAYS_MAX} are allowed")
        for gateway in client.gateways:
            _same(gateway, parse_gateway(gateway), "gateway name")
        _check_labels(client.labels)


class AdmissionBody(_Body, frozen=True, tag="admission"):
    """How gateways know a client."""

    admission: Admission
    removed: bool = False

    def __post_init__(self) -> None:
        admission = self.admission
        _same(admission.client, parse_host(admission.client), "client name")
        if len(admission.sources) > SOURCES_MAX:
            raise InputError(f"{len(admission.sources)} sources, at most {SOURCES_MAX} are allowed")
        for source in admission.sources:
            _same(source, str(parse_source(source)), "source")
        if len(admission.certificates) > CERTIFICATES_MAX:
            raise InputError(f"{len(admission.certificates)} certificates, at most {CERTIFICATES_MAX} are allowed")
        for key, certificate in admission.certificates.items():
            parse_hash(key, "key hash")
            if not certificate.startswith("-----BEGIN CERTIFICATE-----\n") or len(certificate) > PEM_MAX:
                raise InputError("a client's certificate is not PEM, or too long")
        if not (admission.sources or admission.certificates or self.removed):
            raise InputError(f"nothing says how client {admission.client} is known")


class PublishBody(_Body, frozen=True, tag="publish"):
    """A service is at a port where clients find it."""

    publication: Publication
    removed: bool = False

    def __post_init__(self) -> None:
        wanted = self.publication
        _same(wanted.service, parse_service(wanted.service), "service name")
        if (wanted.gateway is None) == (wanted.host is None):
            raise InputError("a publication is at a gateway or on a host")
        if wanted.gateway is not None:
            _same(wanted.gateway, parse_gateway(wanted.gateway), "gateway name")
            if wanted.listen is None or wanted.port is not None:
                raise InputError("a publication at a gateway has an address to listen on, and no other port")
            _same(wanted.listen, str(parse_published(wanted.listen)), "address")
        if wanted.host is not None:
            _same(wanted.host, parse_host(wanted.host), "host name")
            if wanted.port is None or not 1 <= wanted.port <= 65535:
                raise InputError(f"{wanted.port} is not a port", hint="give a number from 1 to 65535")
            if wanted.listen is not None or wanted.tls:
                raise InputError("a publication on a host's loopback has a port and nothing else")


Body = (
    DomainBody
    | OperatorBody
    | GatewayBody
    | HostBody
    | ReachBody
    | InviteBody
    | PolicyBody
    | RevokeBody
    | InstanceBody
    | ImportBody
    | ClientBody
    | AdmissionBody
    | PublishBody
)


def entry_key(body: Body) -> str:
    """What the body is about. A later entry with the same key replaces an earlier one."""
    match body:
        case DomainBody():
            return "domain"
        case OperatorBody():
            return f"operator/{body.key}"
        case GatewayBody():
            return f"gateway/{body.gateway.name}"
        case HostBody():
            return f"host/{body.host.name}"
        case ReachBody():
            return f"reach/{body.reach.host}"
        case InviteBody():
            return f"invite/{body.id}"
        case PolicyBody():
            return "policy"
        case RevokeBody():
            spiffe = parse_spiffe_id(body.spiffe_id)
            return f"revoke/{spiffe.role}/{spiffe.name}"
        case InstanceBody():
            return f"service/{body.instance.id}"
        case ImportBody():
            return import_key(body.imported.service, body.imported.gateway)
        case ClientBody():
            return client_key(body.client.name)
        case AdmissionBody():
            return f"admission/{body.admission.client}"
        case PublishBody():
            return f"publish/{body.publication.id}"
