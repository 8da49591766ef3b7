"""I/O: what the peers prove themselves with: a CA and one ECDSA P-256 leaf for each of the two proxies, as PEM files.

The bridge makes its own (also P-256), by its own commands.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NAMES = ("near.bench", "far.bench")
"""The proxy at the client and the proxy at the service."""
_LIFE = datetime.timedelta(days=2)


@dataclass(frozen=True)
class Leaf:
    """The files of one proxy."""

    name: str
    certificate: Path
    key: Path
    both: Path
    """Certificate and key in one file, as HAProxy wants them."""


@dataclass(frozen=True)
class Certificates:
    ca: Path
    near: Leaf
    far: Leaf


def make_certificates(directory: Path) -> Certificates:
    """A fresh CA and both leaves, in `directory`."""
    directory.mkdir()
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("bench CA")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    ca_file = directory / "ca.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    near, far = (_leaf(directory, name, ca_name, ca_key) for name in NAMES)
    return Certificates(ca_file, near, far)


def _leaf(directory: Path, name: str, issuer: x509.Name, ca_key: ec.EllipticCurvePrivateKey) -> Leaf:
    key = ec.generate_private_key(ec.SECP256R1())
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(_name(name), issuer, key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    leaf = Leaf(name, directory / f"{name}.crt", directory / f"{name}.key", directory / f"{name}.pem")
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    leaf.certificate.write_bytes(certificate_pem)
    for file, text in ((leaf.key, key_pem), (leaf.both, certificate_pem + key_pem)):
        file.touch(mode=0o600)
        file.write_bytes(text)
    return leaf


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + _LIFE)
    )
