"""Certificates that our own code never makes: every shape that a test wants refused, signed by whatever key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey

BOTH_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def uri(text: str) -> x509.UniformResourceIdentifier:
    # _init_without_validation lets characters through that no honest encoder would write.
    return x509.UniformResourceIdentifier._init_without_validation(text)


def mint(
    *,
    public_key: CertificateIssuerPublicKeyTypes,
    issuer_key: PrivateKey,
    issuer_name: x509.Name,
    names: Sequence[x509.GeneralName] = (),
    common_name: str | None = None,
    ca: bool = False,
    path_length: int | None = None,
    usages: Sequence[x509.ObjectIdentifier] = BOTH_USAGES,
    not_before: float,
    not_after: float,
    constraint: str | None = None,
    extra: Sequence[x509.ExtensionType] = (),
) -> x509.Certificate:
    """A certificate with exactly what is given. Times are unix seconds."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(issuer_name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(not_after, UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        .add_extension(certificates._key_usage(signs_certificates=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=not attributes)
    if constraint is not None:
        permitted = [x509.UniformResourceIdentifier(constraint)]
        builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    for extension in extra:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def re_encoded(certificate: x509.Certificate) -> bytes:
    """The same certificate with the other ECDSA signature, (r, n - s): still good, another fingerprint (C16)."""
    r, s = decode_dss_signature(certificate.signature)
    twin = encode_dss_signature(r, _P256_ORDER - s)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    bits = b"\x03" + _length(len(twin) + 1) + b"\x00" + twin
    body = certificate.tbs_certificate_bytes + algorithm + bits
    return b"\x30" + _length(len(body)) + body


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets
