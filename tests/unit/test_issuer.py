"""The issuer: only the key of a request counts, and every other wish is refused by name (C06, H09)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bridge import limits
from bridge.identity import certificates
from bridge.identity.issuer import Issuer, make_csr, read_csr
from bridge.identity.verify import parse_peer
from inventory.errors import AnswerIsNo, InputError
from inventory.names import SpiffeId
from tests.support.memory_tls import TRUST_DOMAIN, TrustDomain

NOW = 1_800_000_000.0

# openssl req -new -newkey rsa:512 -nodes -subj / -outform DER: the parser we use can no longer make one.
RSA_512_CSR = base64.b64decode(
    "MIG5MGUCAQAwADBcMA0GCSqGSIb3DQEBAQUAA0sAMEgCQQCy/sKfGKK80FcRY/TPI2tE6QlJqALzQCRzaj0RcQcdZanKSF1xVWCz"
    "j6LoD7xYSlUgYs1bB5PkrNTwHsWJio4HAgMBAAGgADANBgkqhkiG9w0BAQsFAANBAArRIHMMZW7FY6QidFsNVeYu8UdmmCfYdsH2"
    "+WhC+/rnLtvM4idCrC/WaZcEBhdsrTiKcCP3nT0TOKqNkYKSCbc="
)

_Builder = x509.CertificateSigningRequestBuilder


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return TrustDomain(tmp_path, NOW)


def signed(change: Callable[[_Builder], _Builder]) -> bytes:
    builder = change(_Builder().subject_name(x509.Name([])))
    return builder.sign(certificates.generate_key(), hashes.SHA256()).public_bytes(Encoding.DER)


def with_names(*names: str) -> bytes:
    uris = [x509.UniformResourceIdentifier(name) for name in names]
    return signed(lambda b: b.add_extension(x509.SubjectAlternativeName(uris), critical=False))


def test_issuing_gives_a_chain_and_a_record(domain: TrustDomain) -> None:
    key = certificates.generate_key()
    issued = domain.issuer.issue(make_csr(key), domain.spiffe("host/vm1"), now=NOW, lifetime=3600)
    leaf, intermediate = certificates.parse_certificates(issued.chain_pem)
    assert intermediate == domain.issuer_certificate
    peer = parse_peer(certificates.to_der(leaf), NOW)
    assert str(peer.spiffe) == issued.record.spiffe_id == "spiffe://t.internal/host/vm1"
    assert peer.key == issued.record.key == certificates.key_hash(key.public_key())
    assert f"{peer.serial:x}" == issued.record.serial
    assert peer.not_after == issued.record.not_after == NOW + 3600
    assert issued.record.at == NOW


def test_our_own_request_asks_for_nothing() -> None:
    key = certificates.generate_key()
    request = x509.load_der_x509_csr(make_csr(key))
    assert len(request.subject) == 0
    assert len(request.attributes) == 0
    assert read_csr(make_csr(key)).key == certificates.key_hash(key.public_key())


@pytest.mark.parametrize("names", [1, 2])
def test_c06_names_in_a_request_are_refused(domain: TrustDomain, names: int) -> None:
    csr = with_names(*["spiffe://t.internal/gateway/gw1", "spiffe://t.internal/host/vm1"][:names])
    with pytest.raises(InputError, match="asks for names or extensions of its own"):
        domain.issuer.issue(csr, domain.spiffe("host/vm1"), now=NOW)


def test_c06_extensions_and_attributes_in_a_request_are_refused() -> None:
    ca = signed(lambda b: b.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True))
    password = signed(lambda b: b.add_attribute(x509.ObjectIdentifier("1.2.840.113549.1.9.7"), b"secret"))
    for csr in (ca, password):
        with pytest.raises(InputError, match="asks for names or extensions of its own"):
            read_csr(csr)


def test_c08_a_subject_in_a_request_gains_nothing(domain: TrustDomain) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])
    csr = _Builder().subject_name(name).sign(certificates.generate_key(), hashes.SHA256()).public_bytes(Encoding.DER)
    issued = domain.issuer.issue(csr, domain.spiffe("host/vm1"), now=NOW)
    assert len(certificates.parse_certificates(issued.chain_pem)[0].subject) == 0


@pytest.mark.parametrize("delimiter", list(",;:/*?%\n\0 "))
def test_c09_no_name_with_delimiters_is_issued(domain: TrustDomain, delimiter: str) -> None:
    with pytest.raises(InputError, match="invalid SPIFFE ID"):
        domain.issuer.issue(
            make_csr(certificates.generate_key()), SpiffeId(TRUST_DOMAIN, "host", f"vm1{delimiter}gw1"), now=NOW
        )


def test_h09_bad_signature() -> None:
    csr = bytearray(make_csr(certificates.generate_key()))
    csr[-1] ^= 1
    with pytest.raises(InputError, match="its signature is not by its key"):
        read_csr(bytes(csr))


def test_h09_rsa_512() -> None:
    with pytest.raises(InputError, match="its key is not ECDSA P-256"):
        read_csr(RSA_512_CSR)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "p384", "ed25519"],
)
def test_h09_other_kinds_of_keys(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    csr = _Builder().subject_name(x509.Name([])).sign(key, algorithm).public_bytes(Encoding.DER)
    with pytest.raises(InputError, match="its key is not ECDSA P-256"):
        read_csr(csr)


def test_h09_one_mebibyte() -> None:
    with pytest.raises(InputError, match="it has 1048576 bytes, at most 16384"):
        read_csr(b"\x30" * 2**20)


@pytest.mark.parametrize("csr", [b"", b"\x30\x00", b"junk", b"\x30\x80" + b"\0" * 100, b"\xff" * limits.CSR_MAX_BYTES])
def test_h09_not_a_request(csr: bytes) -> None:
    with pytest.raises(InputError, match="it cannot be read"):
        read_csr(csr)


def test_h09_anything_after_the_request() -> None:
    with pytest.raises(InputError, match="it cannot be read"):
        read_csr(make_csr(certificates.generate_key()) + b"\0")


def test_h09_the_key_of_another_host(domain: TrustDomain) -> None:
    key = certificates.generate_key()
    holders = {certificates.key_hash(key.public_key()): "spiffe://t.internal/host/vm1"}
    with pytest.raises(AnswerIsNo, match="already the key of another node"):
        domain.issuer.issue(make_csr(key), domain.spiffe("host/vm2"), now=NOW, holder_of=holders.get)
    domain.issuer.issue(make_csr(key), domain.spiffe("host/vm1"), now=NOW, holder_of=holders.get)


def test_an_issuer_is_a_pair_limited_to_one_domain(domain: TrustDomain) -> None:
    pem = certificates.private_key_pem(domain.issuer_key) + certificates.to_pem(domain.issuer_certificate)
    issuer = Issuer.from_pem(pem, where="issuer.pem")
    assert issuer.trust_domain == TRUST_DOMAIN
    assert issuer.not_after == NOW + limits.INTERMEDIATE_LIFETIME
    with pytest.raises(InputError, match="not a pair"):
        Issuer(certificates.generate_key(), domain.issuer_certificate)
    leaf = certificates.parse_certificates(domain.identity("host/vm1", key=domain.issuer_key).read_text())[0]
    with pytest.raises(InputError, match="not limited"):
        Issuer(domain.issuer_key, leaf)
