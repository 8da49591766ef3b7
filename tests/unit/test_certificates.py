"""What our certificates look like, what their constraint keeps out, and whose name they can never carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from bridge import limits
from bridge.identity import certificates
from inventory.errors import InputError
from inventory.names import SpiffeId
from tests.support.memory_tls import TRUST_DOMAIN, TrustDomain

NOW = 1_800_000_000.0


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return TrustDomain(tmp_path, NOW)


def leaf_for(domain: TrustDomain, spiffe: SpiffeId, **options: float) -> x509.Certificate:
    return certificates.create_leaf(
        certificates.generate_key().public_key(),
        spiffe,
        issuer_key=domain.issuer_key,
        issuer=domain.issuer_certificate,
        now=options.get("now", NOW),
        lifetime=options.get("lifetime", limits.CERTIFICATE_LIFETIME),
    )


def test_a_leaf_has_the_one_shape(domain: TrustDomain) -> None:
    leaf = leaf_for(domain, domain.spiffe("host/vm1"))
    assert len(leaf.subject) == 0
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.UniformResourceIdentifier("spiffe://t.internal/host/vm1")]
    assert names.critical
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert leaf.not_valid_before_utc.timestamp() == NOW - limits.CLOCK_TOLERANCE
    assert leaf.not_valid_after_utc.timestamp() == NOW + limits.CERTIFICATE_LIFETIME
    assert leaf.serial_number != leaf_for(domain, domain.spiffe("host/vm1")).serial_number


@pytest.mark.parametrize(("which", "path_length"), [("root", 1), ("issuer_certificate", 0)])
def test_c13_a_ca_is_limited_to_its_trust_domain(domain: TrustDomain, which: str, path_length: int) -> None:
    ca: x509.Certificate = getattr(domain, which)
    constraint = ca.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraint.critical
    assert constraint.value.permitted_subtrees == [x509.UniformResourceIdentifier(TRUST_DOMAIN)]
    assert certificates.constrained_domain(ca) == TRUST_DOMAIN
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == path_length


def test_c13_no_leaf_is_issued_for_a_sister_domain(domain: TrustDomain) -> None:
    with pytest.raises(InputError, match="of another trust domain"):
        leaf_for(domain, SpiffeId("u.internal", "host", "vm1"))


def test_an_unconstrained_root_makes_no_issuer(domain: TrustDomain) -> None:
    leaf = leaf_for(domain, domain.spiffe("host/vm1"))
    with pytest.raises(InputError, match="not limited to one trust domain"):
        certificates.create_intermediate(
            certificates.generate_key().public_key(), root_key=domain.root_key, root=leaf, now=NOW
        )


@pytest.mark.parametrize("delimiter", [",", ";", ":", "/", "*", "?", "%", "\n", "\0", " ", "@", "_", "\\", "#"])
def test_c09_delimiters_are_refused(domain: TrustDomain, delimiter: str) -> None:
    for name in (f"vm{delimiter}1", f"{delimiter}vm1", f"vm1{delimiter}"):
        with pytest.raises(InputError, match="invalid SPIFFE ID"):
            leaf_for(domain, SpiffeId(TRUST_DOMAIN, "host", name))


@pytest.mark.parametrize("name", ["*", "*.vm1", "VM1", "vm1.", ""])
def test_c13_no_wildcard_and_no_other_spelling_is_issued(domain: TrustDomain, name: str) -> None:
    with pytest.raises(InputError, match="invalid SPIFFE ID"):
        leaf_for(domain, SpiffeId(TRUST_DOMAIN, "host", name))


def test_a_leaf_never_outlives_its_issuer(domain: TrustDomain) -> None:
    late = NOW + limits.INTERMEDIATE_LIFETIME - 60
    leaf = leaf_for(domain, domain.spiffe("host/vm1"), now=late)
    assert leaf.not_valid_after_utc == domain.issuer_certificate.not_valid_after_utc
    with pytest.raises(InputError, match="end before it begins"):
        leaf_for(domain, domain.spiffe("host/vm1"), now=late + 61)


def test_a_long_trust_domain_still_gets_a_root() -> None:
    trust_domain = ".".join(["a" * 60] * 4)
    root = certificates.create_root(certificates.generate_key(), trust_domain, now=NOW)
    assert certificates.constrained_domain(root) == trust_domain


def test_keys_go_to_text_and_back(domain: TrustDomain) -> None:
    key = certificates.generate_key()
    again = certificates.parse_private_key(certificates.private_key_pem(key) + certificates.to_pem(domain.root))
    assert certificates.key_hash(again.public_key()) == certificates.key_hash(key.public_key())


def test_only_p256_keys_are_read() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    pem = weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(InputError, match=r"identity\.pem: the private key is not ECDSA P-256") as caught:
        certificates.parse_private_key(pem, where="identity.pem")
    assert "BEGIN" not in str(caught.value)
    with pytest.raises(InputError, match="no private key"):
        certificates.parse_private_key("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


def test_certificates_are_read_up_to_a_limit(domain: TrustDomain) -> None:
    assert len(certificates.parse_certificates(domain.root_pem * 3)) == 3
    with pytest.raises(InputError, match="4 certificates, at most 3"):
        certificates.parse_certificates(domain.root_pem * 4)
    with pytest.raises(InputError, match="no certificate"):
        certificates.parse_certificates("nothing here")
    assert certificates.root_fingerprint(domain.root_pem) == certificates.fingerprint(certificates.to_der(domain.root))
