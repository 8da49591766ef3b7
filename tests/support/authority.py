"""Pure: authority logs for tests: operators with fixed seeds, one plausible body of each kind, signed chains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from inventory.authority import (
    AuthorityState,
    Body,
    DomainBody,
    Entry,
    GatewayBody,
    HostBody,
    ImportBody,
    InstanceBody,
    InviteBody,
    OperatorBody,
    OperatorKey,
    PolicyBody,
    ReachBody,
    RevokeBody,
    SignedEntry,
    genesis_fingerprint,
    sign_entry,
    verify_log,
)
from inventory.authority.entries import ENTRY_CONTEXT, NO_PREVIOUS, payload_hash
from inventory.model import Gateway, Host, Import, Instance, Reach

NOW = 1_800_000_000
TRUST_DOMAIN = "t.internal"
ROOT = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def operator(number: int) -> OperatorKey:
    return OperatorKey(hashlib.sha256(b"operator %d" % number).digest())


ALICE, BOB, MALLORY = operator(1), operator(2), operator(3)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def domain(**changes: str) -> DomainBody:
    values = {
        "trust_domain": TRUST_DOMAIN,
        "namespace": "bridge.internal",
        "root_certificate": ROOT,
        "operator_name": "alice",
    }
    return DomainBody(**{**values, **changes})


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS"


def host(
    name: str = "vm1",
    *serves: str,
    removed: bool = False,
    labels: dict[str, str] | None = None,
    via: str | None = None,
) -> HostBody:
    return HostBody(host=Host(name=name, serves=serves, labels=labels or {}, via=via), removed=removed)


def reach(
    name: str = "aix1",
    via: str = "gw1",
    url: str = "ssh://bridge@192.0.2.7",
    *,
    removed: bool = False,
    **fields: object,
) -> ReachBody:
    """A host reached by ssh has HOST_KEY unless `fields` say otherwise."""
    keys = {"host_keys": (HOST_KEY,)} if url.startswith("ssh:") else {}
    made = Reach(host=name, gateway=via, url=url, **{**keys, **fields})  # type: ignore[arg-type]
    return ReachBody(reach=made, removed=removed)


def gateway(name: str = "gw1", address: str = "127.0.0.1:7443", *, removed: bool = False) -> GatewayBody:
    return GatewayBody(gateway=Gateway(name=name, address=address), removed=removed)


def instance(service: str = "web", on: str = "vm1", *, port: int = 8080, removed: bool = False) -> InstanceBody:
    return InstanceBody(
        instance=Instance(service=service, host=on, target="127.0.0.1:9000", port=port), removed=removed
    )


def imported(
    service: str = "web", through: str = "gw1", *, source: str = "web", removed: bool = False, **fields: object
) -> ImportBody:
    wanted = Import(service=service, gateway=through, source=source, **fields)  # type: ignore[arg-type]
    return ImportBody(imported=wanted, removed=removed)


def invite(
    number: int = 1, name: str = "vm1", *, secret: bytes = b"secret", expires_at: int = NOW + 3600
) -> InviteBody:
    return InviteBody(
        id=f"invite-{number}",
        role="host",
        name=name,
        secret_hash=hashlib.sha256(secret).hexdigest(),
        expires_at=expires_at,
    )


def policy(text: str = "policy", count: int = 1) -> PolicyBody:
    return PolicyBody(denies=(), allow_root=digest(text), allow_count=count, source_hash=digest(text + " source"))


def revoke(name: str = "vm1", *keys: str, lifted: bool = False) -> RevokeBody:
    return RevokeBody(
        spiffe_id=f"spiffe://{TRUST_DOMAIN}/host/{name}",
        keys=tuple(digest(key) for key in keys),
        reason="stolen",
        lifted=lifted,
    )


def add_operator(key: OperatorKey, name: str = "bob", *, removed: bool = False) -> OperatorBody:
    return OperatorBody(key=key.public, name=name, removed=removed)


def entry(number: int, body: Body, *, by: OperatorKey = ALICE, previous: str = NO_PREVIOUS) -> SignedEntry:
    """One signed entry with any number, as a thief of the key could make it."""
    return sign_entry(
        Entry(number=number, previous=previous, at=NOW, operator=by.public, message="test", body=body), by
    )


def sign_bytes(payload: bytes, *, by: OperatorKey = ALICE) -> SignedEntry:
    """A good signature over bytes of any kind."""
    return SignedEntry(payload, by.sign(ENTRY_CONTEXT + payload))


def tampered(signed: SignedEntry, **changes: object) -> bytes:
    """The payload with fields of the entry replaced."""
    fields = msgspec.json.decode(signed.payload)
    return msgspec.json.encode({**fields, **changes})


class Chain:
    """A log under construction that does not ask whether what it is given makes sense."""

    def __init__(self, *bodies: Body) -> None:
        self.log: list[SignedEntry] = []
        self.add(domain(), *bodies)

    def add(self, *bodies: Body, by: OperatorKey = ALICE) -> list[SignedEntry]:
        """Signs the bodies as the next entries; returns them."""
        added = []
        for body in bodies:
            previous = payload_hash(self.log[-1].payload) if self.log else NO_PREVIOUS
            added.append(entry(len(self.log) + 1, body, by=by, previous=previous))
            self.log.append(added[-1])
        return added

    @property
    def fingerprint(self) -> str:
        return genesis_fingerprint(self.log[0])

    @property
    def state(self) -> AuthorityState:
        return verify_log(self.log)


def chain_of(bodies: Sequence[Body]) -> list[SignedEntry]:
    return Chain(*bodies).log
