"""Pure: who a peer is and whether it may be here. Decides; never touches a socket, a clock or a file.

OpenSSL has checked the signatures, the path lengths and the name constraints before anything comes here (contexts.py).
What it does not know is checked here after every handshake: that the certificate has the one shape we issue, its times
against our clock, revocation, and whether this role and name may do what it came for. Every doubt is a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from bridge import limits
from bridge.errors import PeerRefused, clock
from bridge.identity.certificates import PublicKey, constrained_domain, is_p256, key_hash
from bridge.identity.der import check_counts
from inventory.errors import InputError
from inventory.names import Role, SpiffeId, parse_spiffe_id, shown

IsRevoked: TypeAlias = Callable[[str, str], str | None]
"""(SPIFFE ID, key hash) -> the reason why either is revoked, or None. Raising means: not known, so refused (C18)."""


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a verified certificate says. Times are unix seconds; `key` is the hex SHA-256 of the public key's DER."""

    spiffe: SpiffeId
    key: str
    serial: int
    not_after: float
    not_before: float


@dataclass(frozen=True, slots=True)
class PeerChain:
    """DER certificates: `verified` from the leaf to our root, as OpenSSL built it; `sent` counts what the peer sent."""

    verified: tuple[bytes, ...]
    sent: int


def verify_peer(
    chain: PeerChain,
    *,
    now: float,
    trust_domain: str,
    roles: Collection[Role],
    purpose: str,
    is_revoked: IsRevoked,
    name: str | None = None,
) -> PeerIdentity:
    """All checks after a handshake, in one call.

    Args:
        now: our clock, unix seconds.
        roles: which roles may do this; `purpose` says what it is: "open a tunnel".
        name: the name that the peer must have; None when any name of these roles will do.

    Raises:
        PeerRefused: with the first reason found.
    """
    if not chain.verified or len(chain.verified) > limits.CHAIN_MAX or chain.sent > limits.CHAIN_MAX:
        longest = max(len(chain.verified), chain.sent)
        raise PeerRefused("chain", f"a chain of {longest} certificates, from 1 to {limits.CHAIN_MAX} are allowed")
    peer = parse_peer(chain.verified[0], now)
    authorise(peer, trust_domain=trust_domain, roles=roles, purpose=purpose, is_revoked=is_revoked, name=name)
    _check_issuers(chain.verified[1:], peer, now=now, is_revoked=is_revoked)
    return peer


def parse_peer(der: bytes, now: float, *, tolerance: float = limits.CLOCK_TOLERANCE) -> PeerIdentity:
    """The identity in a leaf certificate of the one shape we issue, good at `now`.

    Args:
        der: the certificate as the peer sent it.
        now: our clock, unix seconds; `tolerance` is how far the peer's and the issuer's may be from it.

    Raises:
        PeerRefused: codes "certificate" (not of that shape), "identity" (no acceptable SPIFFE ID), "validity".
    """
    peer = read_leaf(der)
    _check_times(peer.not_before, peer.not_after, now, tolerance, f"the certificate of {peer.spiffe}")
    return peer


def read_leaf(der: bytes) -> PeerIdentity:
    """As `parse_peer`, without a look at the clock: for showing a certificate, never for admitting its holder."""
    certificate = _parse(der)
    try:
        extensions = certificate.extensions
        public_key = certificate.public_key()
        serial = certificate.serial_number
    except Exception:
        raise _bad("it cannot be read") from None
    if not isinstance(public_key, PublicKey) or not is_p256(public_key):
        raise _bad("its key is not ECDSA P-256")
    _check_usage(extensions)
    return PeerIdentity(
        spiffe=_only_name(extensions),
        key=key_hash(public_key),
        serial=serial,
        not_after=certificate.not_valid_after_utc.timestamp(),
        not_before=certificate.not_valid_before_utc.timestamp(),
    )


def authorise(
    peer: PeerIdentity,
    *,
    trust_domain: str,
    roles: Collection[Role],
    purpose: str,
    is_revoked: IsRevoked,
    name: str | None = None,
) -> None:
    """Whether this identity may do `purpose` here and now. Called again for live tunnels when trust changes.

    Raises:
        PeerRefused: codes "trust-domain", "role", "name", "revoked", "revocation-unknown".
    """
    if peer.spiffe.trust_domain != trust_domain:
        raise PeerRefused("trust-domain", f"{peer.spiffe} is not of trust domain {trust_domain}")
    if peer.spiffe.role not in roles:
        raise PeerRefused("role", f"role {peer.spiffe.role} may not {purpose} ({peer.spiffe})")
    if name is not None and peer.spiffe.name != name:
        raise PeerRefused("name", f"expected {name}, the peer is {peer.spiffe}")
    _check_revocation(peer.spiffe, peer.key, is_revoked)


def _parse(der: bytes) -> x509.Certificate:
    if len(der) > limits.CERTIFICATE_MAX_BYTES:
        raise _bad(f"it has {len(der)} bytes, at most {limits.CERTIFICATE_MAX_BYTES} are allowed")
    try:
        check_counts(der, extensions_max=limits.EXTENSIONS_MAX, names_max=limits.SAN_MAX)
    except ValueError as exc:
        raise _bad(str(exc)) from None
    try:
        return x509.load_der_x509_certificate(der)
    except Exception:
        raise _bad("it cannot be read") from None


def _check_usage(extensions: x509.Extensions) -> None:
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extended = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as exc:
        raise _bad(f"it lacks the extension {exc.oid.dotted_string}") from None
    if basic.ca or usage.key_cert_sign:
        raise _bad("it is the certificate of a CA, not of a node")
    if not usage.digital_signature:
        raise _bad("its key may not sign")
    if ExtendedKeyUsageOID.SERVER_AUTH not in extended or ExtendedKeyUsageOID.CLIENT_AUTH not in extended:
        raise _bad("its extended key usage is not server and client authentication")


def _only_name(extensions: x509.Extensions) -> SpiffeId:
    try:
        names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = []
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        kinds = ", ".join(type(name).__name__ for name in names) or "none"
        raise PeerRefused(
            "identity", f"invalid SPIFFE ID: exactly one URI name is required, the certificate has {kinds}"
        )
    try:
        return parse_spiffe_id(names[0].value)
    except InputError as exc:
        raise PeerRefused("identity", exc.what) from None


def _check_times(begin: float, end: float, now: float, tolerance: float, whose: str) -> None:
    if begin - tolerance <= now <= end + tolerance:
        return
    word = "has expired" if now > end else "is not yet valid"
    raise PeerRefused(
        "validity",
        f"{whose} {word}: it is good from {clock(begin)} to {clock(end)}, our clock says {clock(now)}",
        hint="compare the clocks of both machines; a node with an expired certificate must be enrolled again",
    )


def _check_issuers(issuers: Sequence[bytes], peer: PeerIdentity, *, now: float, is_revoked: IsRevoked) -> None:
    for der in issuers:
        certificate = _parse(der)
        try:
            public_key, domain = certificate.public_key(), constrained_domain(certificate)
            begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        except Exception:
            raise _bad("its issuer's certificate cannot be read") from None
        if domain != peer.spiffe.trust_domain or not isinstance(public_key, PublicKey):
            raise PeerRefused("chain", f"the issuer of {peer.spiffe} may speak for {shown(domain or 'anyone')}")
        _check_times(begin, end, now, limits.CLOCK_TOLERANCE, f"the issuer's certificate of {peer.spiffe}")
        _check_revocation(peer.spiffe, key_hash(public_key), is_revoked, "the issuer of ")


def _check_revocation(spiffe: SpiffeId, key: str, is_revoked: IsRevoked, whose: str = "") -> None:
    try:
        reason = is_revoked(str(spiffe), key)
    except Exception as exc:
        # Whatever went wrong, we do not know that it is not revoked.
        text = f"cannot tell whether {whose}{spiffe} is revoked: {shown(str(exc))}"
        raise PeerRefused("revocation-unknown", text) from exc
    if reason is not None:
        raise PeerRefused("revoked", f"{whose}{spiffe} is revoked: {shown(reason)}")


def _bad(reason: str) -> PeerRefused:
    return PeerRefused("certificate", f"the certificate is refused: {reason}")
