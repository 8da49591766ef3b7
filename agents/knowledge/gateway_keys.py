"""I/O: the keys by which a gateway reaches agentless hosts, and how others come to know their public halves.

    seal.key       X25519: what operators seal to this gateway; read by its ssh worker alone once it runs
    ssh_ca.key     Ed25519: the gateway's own ssh certificate authority

    gateway-keys/NAME    in the registry: the public halves, signed with the gateway's identity, with its certificates

The registry is not trusted: what is there counts once its chain leads to our root, names that gateway, is not revoked
and has signed it. One attempt; only callers retry.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from bridge import limits
from bridge.errors import PeerRefused
from bridge.identity import certificates
from bridge.identity.identity_file import Identity, was_issued
from bridge.identity.seal_keys import GatewaySealKey
from bridge.identity.ssh_ca import SshCa
from bridge.identity.verify import PeerChain, verify_peer
from inventory.authority import AuthorityState
from inventory.errors import AnswerIsNo, InputError
from inventory.home import read_secret, write_new_secret
from inventory.names import Role, SpiffeId
from inventory.registries.interface import ANY, Change, Registry
from inventory.strict_json import decode

SEAL_KEY = "seal.key"
SSH_CA_KEY = "ssh_ca.key"

_PREFIX = "gateway-keys/"
_CONTEXT = b"meshbridge gateway keys v1\n"
"""Signed in front of the payload, so that a signature made for anything else never fits."""


class GatewayKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a gateway says of itself."""

    trust_domain: str
    gateway: str
    seal: str
    """X25519 public key, hex."""
    ssh_ca: str
    """A line of OpenSSH's."""


class _Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    payload: bytes
    signature: bytes
    chain: str
    """PEM."""


def seal_key_of(home: Path) -> GatewaySealKey:
    """This gateway's; made when there is none. Raises MeshError: it cannot be read, written or understood."""
    path = home / SEAL_KEY
    if not path.exists():
        write_new_secret(path, GatewaySealKey.generate().to_bytes())
    try:
        return GatewaySealKey.from_bytes(read_secret(path))
    except InputError as exc:
        raise InputError(exc.what, where=str(path), hint=exc.hint) from None


def ssh_ca_of(home: Path) -> SshCa:
    """As `seal_key_of`."""
    path = home / SSH_CA_KEY
    if not path.exists():
        write_new_secret(path, SshCa.generate().to_bytes())
    try:
        return SshCa.from_bytes(read_secret(path))
    except InputError as exc:
        raise InputError(exc.what, where=str(path), hint=exc.hint) from None


def own_keys(home: Path, trust_domain: str, gateway: str) -> GatewayKeys:
    """Of the gateway whose home this is. Raises MeshError."""
    seal, ca = seal_key_of(home), ssh_ca_of(home)
    return GatewayKeys(trust_domain=trust_domain, gateway=gateway, seal=seal.public, ssh_ca=ca.line)


async def publish(registry: Registry, keys: GatewayKeys, identity: Identity) -> None:
    """Say in the registry what these are, under this identity. Raises Unavailable."""
    payload = msgspec.json.encode(keys)
    signature = identity.key.sign(_CONTEXT + payload, ec.ECDSA(hashes.SHA256()))
    record = _Published(payload=payload, signature=signature, chain=identity.chain_pem)
    await registry.transact([Change(_PREFIX + keys.gateway, ANY, msgspec.json.encode(record))])


async def published_keys(registry: Registry, state: AuthorityState, gateway: str, *, now: float) -> GatewayKeys:
    """What the gateway itself said of its keys.

    Raises:
        AnswerIsNo: it has said nothing yet.
        InputError: what is there is not its word.
        Unavailable: the registry does not answer.
    """
    record = await registry.get(_PREFIX + gateway)
    if record is None:
        hint = "it publishes them when it runs; start it, and try again"
        raise AnswerIsNo(f"gateway {gateway} has not said yet what its keys are", hint=hint)
    try:
        return _verified(record.value, state, gateway, now)
    except (InputError, PeerRefused) as exc:
        what = f"what the registry holds as the keys of gateway {gateway} is not its word: {exc.what}"
        raise InputError(what, hint=f"restart gateway {gateway}: it publishes them again") from None


def _verified(value: bytes, state: AuthorityState, gateway: str, now: float) -> GatewayKeys:
    published = decode(value, _Published, max_bytes=limits.GATEWAY_KEYS_MAX_BYTES, what="record of a gateway's keys")
    chain = certificates.parse_certificates(published.chain)
    spiffe = SpiffeId(state.trust_domain, "gateway", gateway)
    root = certificates.parse_certificates(state.root_certificate)[0]

    def is_revoked(identity: str, key: str) -> str | None:
        revoked = state.revoked_identities.get(identity)
        return revoked.reason if revoked is not None else "its key" if key in state.revoked_keys else None

    roles: tuple[Role, ...] = ("gateway",)
    ders = tuple(certificates.to_der(certificate) for certificate in (*chain, root))
    peer = verify_peer(
        PeerChain(verified=ders, sent=len(chain)),
        now=now,
        trust_domain=state.trust_domain,
        roles=roles,
        purpose="say what its keys are",
        is_revoked=is_revoked,
        name=gateway,
    )
    if not was_issued(published.chain, spiffe, key=peer.key, root_pem=state.root_certificate):
        raise InputError("its certificate does not lead to our root")
    signer = chain[0].public_key()
    assert isinstance(signer, ec.EllipticCurvePublicKey)
    try:
        signer.verify(published.signature, _CONTEXT + published.payload, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise InputError("its signature does not fit") from None
    keys = decode(published.payload, GatewayKeys, max_bytes=limits.GATEWAY_KEYS_MAX_BYTES, what="a gateway's keys")
    if (keys.trust_domain, keys.gateway) != (state.trust_domain, gateway):
        raise InputError("it is about another gateway")
    return keys
