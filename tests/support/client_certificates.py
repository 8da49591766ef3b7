"""I/O: certificates of clients that know nothing of us: their own, by whatever made them."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bridge.identity.certificates import key_hash

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class ClientCertificate:
    pem: Path
    """The certificate alone: what the operator is given."""
    both: Path
    """With the key: what the client has."""
    key: Key
    certificate: x509.Certificate

    @property
    def hash(self) -> str:
        return key_hash(self.key.public_key())  # type: ignore[arg-type]

    def context(self, root_pem: str) -> ssl.SSLContext:
        """What the client's TLS is like: it trusts the estate's root, and shows this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=root_pem)
        context.load_cert_chain(self.both)
        return context


def make(
    folder: Path, name: str, *, days: int = 30, issuer: ClientCertificate | None = None, is_rsa: bool = False
) -> ClientCertificate:
    """A certificate in files `NAME.pem` and `NAME.both`, signed by itself or by another one."""
    key: Key = rsa.generate_private_key(65537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    certificate = builder.sign(issuer.key if issuer is not None else key, hashes.SHA256())
    pem = certificate.public_bytes(Encoding.PEM)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{name}.pem").write_bytes(pem)
    (folder / f"{name}.both").write_bytes(pem + private)
    return ClientCertificate(folder / f"{name}.pem", folder / f"{name}.both", key, certificate)
