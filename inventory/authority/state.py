"""Pure: what the authority log says as a whole, as an immutable value. It folds entries; whether they count is decided
before they come here, in `log` (the whole chain) or `slices` (single entries). It must never check or ignore one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from inventory.authority.entries import (
    NO_PREVIOUS,
    AdmissionBody,
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
    VerifiedEntry,
)
from inventory.model import Admission, Client, Gateway, Host, Import, Instance, Publication, Reach


@dataclass(frozen=True, kw_only=True)
class AuthorityState:
    """Everything in force at entry `number`. Mappings are never changed once made; `extended` makes new ones.

    Kinds do not cascade: an instance stays listed when its host is removed or revoked, and readers must ask for both.
    So a slice, which has only some of the entries, never says more than the whole log does.
    """

    number: int = 0
    head: str = NO_PREVIOUS
    """SHA-256 of the payload of entry `number`, hex."""
    trust_domain: str = ""
    namespace: str = ""
    root_certificate: str = ""
    """PEM."""
    operators: Mapping[str, str] = field(default_factory=dict)
    """Public key in hex -> name, those who may sign now."""
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    hosts: Mapping[str, Host] = field(default_factory=dict)
    reaches: Mapping[str, Reach] = field(default_factory=dict)
    """By host name; only gateways know any."""
    instances: Mapping[str, Instance] = field(default_factory=dict)
    """By Instance.id."""
    imports: Mapping[str, Import] = field(default_factory=dict)
    """By Import.id."""
    clients: Mapping[str, Client] = field(default_factory=dict)
    admissions: Mapping[str, Admission] = field(default_factory=dict)
    """Client name -> how it is known. Hosts hold none."""
    publications: Mapping[str, Publication] = field(default_factory=dict)
    """By Publication.id. Hosts hold none."""
    invites: Mapping[str, InviteBody] = field(default_factory=dict)
    """By id, expired and spent ones too."""
    revocations: Mapping[str, RevokeBody] = field(default_factory=dict)
    """SPIFFE ID -> its latest revocation, lifted or not."""
    revoked_identities: Mapping[str, RevokeBody] = field(default_factory=dict)
    """SPIFFE ID -> its revocation, without lifted ones."""
    revoked_keys: frozenset[str] = frozenset()
    """SHA-256 of SPKI DER in hex, lifted or not."""
    policy: PolicyBody | None = None
    policy_number: int = 0
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Entry key -> number of its latest entry, removals included."""

    def extended(self, entries: Sequence[VerifiedEntry]) -> AuthorityState:
        """The state after `entries`, in order. Copies once, however many there are."""
        draft = Draft(self)
        for entry in entries:
            draft.apply(entry)
        return draft.state()


V = TypeVar("V")


def _put_or_drop(items: dict[str, V], key: str, value: V, removed: bool) -> None:
    if removed:
        items.pop(key, None)
    else:
        items[key] = value


class Draft:
    """A state under construction: the one mutable thing here, local to whoever builds the next state."""

    def __init__(self, base: AuthorityState) -> None:
        self.number = base.number
        self.head = base.head
        self.domain = (base.trust_domain, base.namespace, base.root_certificate)
        self.operators = dict(base.operators)
        self.gateways = dict(base.gateways)
        self.hosts = dict(base.hosts)
        self.reaches = dict(base.reaches)
        self.instances = dict(base.instances)
        self.imports = dict(base.imports)
        self.clients = dict(base.clients)
        self.admissions = dict(base.admissions)
        self.publications = dict(base.publications)
        self.invites = dict(base.invites)
        self.revocations = dict(base.revocations)
        self.revoked_identities = dict(base.revoked_identities)
        self.revoked_keys = set(base.revoked_keys)
        self.policy = base.policy
        self.policy_number = base.policy_number
        self.numbers = dict(base.numbers)

    @property
    def trust_domain(self) -> str:
        return self.domain[0]

    def apply(self, verified: VerifiedEntry) -> None:
        """One more entry. Nothing is checked."""
        self.number = verified.number
        self.head = verified.hash
        self.numbers[verified.key] = verified.number
        match verified.body:
            case DomainBody() as body:
                self.domain = (body.trust_domain, body.namespace, body.root_certificate)
                self.operators[verified.entry.operator] = body.operator_name
            case OperatorBody() as body:
                _put_or_drop(self.operators, body.key, body.name, body.removed)
            case GatewayBody() as body:
                _put_or_drop(self.gateways, body.gateway.name, body.gateway, body.removed)
            case HostBody() as body:
                _put_or_drop(self.hosts, body.host.name, body.host, body.removed)
            case ReachBody() as body:
                _put_or_drop(self.reaches, body.reach.host, body.reach, body.removed)
            case InstanceBody() as body:
                _put_or_drop(self.instances, body.instance.id, body.instance, body.removed)
            case ImportBody() as body:
                _put_or_drop(self.imports, body.imported.id, body.imported, body.removed)
            case ClientBody() as body:
                _put_or_drop(self.clients, body.client.name, body.client, body.removed)
            case AdmissionBody() as body:
                _put_or_drop(self.admissions, body.admission.client, body.admission, body.removed)
            case PublishBody() as body:
                _put_or_drop(self.publications, body.publication.id, body.publication, body.removed)
            case InviteBody() as body:
                self.invites[body.id] = body
            case PolicyBody() as body:
                self.policy, self.policy_number = body, verified.number
            case RevokeBody() as body:
                self.revocations[body.spiffe_id] = body
                _put_or_drop(self.revoked_identities, body.spiffe_id, body, body.lifted)
                self.revoked_keys.update(body.keys)

    def state(self) -> AuthorityState:
        """The finished value. The draft must not be used again: the value owns its mappings now."""
        trust_domain, namespace, root_certificate = self.domain
        return AuthorityState(
            number=self.number,
            head=self.head,
            trust_domain=trust_domain,
            namespace=namespace,
            root_certificate=root_certificate,
            operators=self.operators,
            gateways=self.gateways,
            hosts=self.hosts,
            reaches=self.reaches,
            instances=self.instances,
            imports=self.imports,
            clients=self.clients,
            admissions=self.admissions,
            publications=self.publications,
            invites=self.invites,
            revocations=self.revocations,
            revoked_identities=self.revoked_identities,
            revoked_keys=frozenset(self.revoked_keys),
            policy=self.policy,
            policy_number=self.policy_number,
            numbers=self.numbers,
        )
