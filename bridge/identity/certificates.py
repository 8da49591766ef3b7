"""Pure: keys and certificates as we make them. Nothing else builds one, and nothing here decides who gets one.

    root          10 years, made by `init`, path length 1
    intermediate   1 year, held by the issuer gateway, path length 0
    leaf          24 hours, exactly one name: the URI spiffe://TRUST-DOMAIN/ROLE/NAME (X.509-SVID standard)

Root and intermediate carry a critical name constraint (RFC 5280, 4.2.1.10): the only URI host below them is the trust
domain, so a stolen issuer key cannot speak for a sister estate (C13). All keys are ECDSA P-256. The subject of a leaf
is empty: there is no common name that anyone could take for an identity (C08).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bridge import limits
from inventory.errors import InputError
from inventory.names import SpiffeId, parse_domain, parse_spiffe_id, shown

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_COMMON_NAME_MAX = 64
_RESTORE = "put the file back from a backup"


def generate_key() -> PrivateKey:
    """A new ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def is_p256(key: object) -> bool:
    return isinstance(key, PublicKey) and isinstance(key.curve, ec.SECP256R1)


def key_hash(key: PublicKey) -> str:
    """Hex SHA-256 of the key's SubjectPublicKeyInfo in DER: what a revocation names.

    It is computed from the parsed key, written anew, so no other encoding of the same key has another hash (C16).
    """
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def fingerprint(certificate_der: bytes) -> str:
    """Hex SHA-256 of a certificate, for people to compare. Never the key of a revocation: see `key_hash`."""
    return hashlib.sha256(certificate_der).hexdigest()


def to_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def to_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def private_key_pem(key: PrivateKey) -> str:
    """PKCS#8, unencrypted: for a file that only its owner can read."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def parse_private_key(pem: str, *, where: str = "") -> PrivateKey:
    """The first private key in `pem`.

    Raises:
        InputError: there is none, or it is not ECDSA P-256. The text of the file is never part of the message.
    """
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except Exception:  # whatever the parser raises, its text could quote the key
        raise InputError("no private key could be read", where=where, hint=_RESTORE if where else "") from None
    if not isinstance(key, PrivateKey) or not is_p256(key.public_key()):
        raise InputError("the private key is not ECDSA P-256", where=where)
    return key


def parse_certificates(pem: str, *, where: str = "", hint: str = _RESTORE) -> list[x509.Certificate]:
    """All certificates in `pem`, in order; at least one and at most CHAIN_MAX.

    Raises:
        InputError: there is none, there are too many, or one cannot be read.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise InputError("no certificate could be read", where=where, hint=hint if where else "") from None
    if len(found) > limits.CHAIN_MAX:
        raise InputError(f"{len(found)} certificates, at most {limits.CHAIN_MAX} are allowed", where=where)
    return found


def root_fingerprint(root_pem: str) -> str:
    """Fingerprint of the root that a node trusts. Raises InputError as `parse_certificates` does."""
    return fingerprint(to_der(parse_certificates(root_pem)[0]))


def constrained_domain(certificate: x509.Certificate) -> str | None:
    """The one trust domain that a CA certificate may speak for; None when it is not limited to exactly one."""
    try:
        value = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None
    permitted = value.permitted_subtrees or []
    if len(permitted) != 1 or not isinstance(permitted[0], x509.UniformResourceIdentifier):
        return None
    return permitted[0].value


def create_root(key: PrivateKey, trust_domain: str, *, now: float) -> x509.Certificate:
    """The self-signed root of a trust domain. `now` is unix seconds. Raises InputError for a bad trust domain."""
    name = _ca_name(f"{parse_domain(trust_domain)} root")
    builder = _ca_builder(key.public_key(), trust_domain, path_length=1)
    builder = _dated(builder, now, now + limits.ROOT_LIFETIME).subject_name(name).issuer_name(name)
    return _signed_by(builder, key)


def create_intermediate(
    key: PublicKey, *, root_key: PrivateKey, root: x509.Certificate, now: float
) -> x509.Certificate:
    """An issuer under `root`, for the same trust domain.

    Raises:
        InputError: `root` is not limited to one trust domain, or has expired.
    """
    trust_domain = constrained_domain(root)
    if trust_domain is None:
        raise InputError("the root certificate is not limited to one trust domain")
    builder = _ca_builder(key, trust_domain, path_length=0)
    builder = _dated(builder, now, min(now + limits.INTERMEDIATE_LIFETIME, _end(root)))
    builder = builder.subject_name(_ca_name(f"{trust_domain} issuer")).issuer_name(root.subject)
    return _signed_by(builder, root_key)


def create_leaf(
    key: PublicKey,
    spiffe: SpiffeId,
    *,
    issuer_key: PrivateKey,
    issuer: x509.Certificate,
    now: float,
    lifetime: float = limits.CERTIFICATE_LIFETIME,
) -> x509.Certificate:
    """A certificate that says `key` is `spiffe`, and nothing else. It never outlives its issuer.

    Raises:
        InputError: `spiffe` is not canonical (C09) or not of the issuer's trust domain, or the issuer has expired.
    """
    name = str(parse_spiffe_id(str(spiffe)))
    if constrained_domain(issuer) != spiffe.trust_domain:
        raise InputError(f"the issuer may not name {shown(name)}: it is of another trust domain")
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _dated(_builder(key), now, min(now + lifetime, _end(issuer)))
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        # Critical because the subject is empty (RFC 5280, 4.2.1.6).
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]), critical=True)
    )
    return _signed_by(builder, issuer_key)


def _builder(key: PublicKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _ca_builder(key: PublicKey, trust_domain: str, *, path_length: int) -> x509.CertificateBuilder:
    # The host without a leading dot: exactly this domain, and nothing below it.
    constraint = x509.NameConstraints([x509.UniformResourceIdentifier(parse_domain(trust_domain))], None)
    return (
        _builder(key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(constraint, critical=True)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _ca_name(text: str) -> x509.Name:
    # A common name holds 64 characters (RFC 5280, appendix A); nothing reads it but people.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[-_COMMON_NAME_MAX:])])


def _end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _dated(builder: x509.CertificateBuilder, now: float, until: float) -> x509.CertificateBuilder:
    if until <= now:
        raise InputError("a certificate would end before it begins", hint="its issuer has expired: renew the issuer")
    begin = int(now - limits.CLOCK_TOLERANCE)
    return builder.not_valid_before(datetime.fromtimestamp(begin, UTC)).not_valid_after(
        datetime.fromtimestamp(int(until), UTC)
    )


def _signed_by(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(authority, critical=False).sign(key, hashes.SHA256())
