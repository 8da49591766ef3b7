"""Every TLS context there is, property by property; and that no other file makes one (C28)."""

from __future__ import annotations

import ast
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from bridge.identity import certificates, contexts
from inventory.errors import InputError
from tests.support.memory_tls import TrustDomain

NOW = 1_800_000_000.0
ROOT = Path(__file__).parents[2]

Build = Callable[[Path, str], ssl.SSLContext]

BUILDERS: dict[str, Build] = {
    "mutual_server": contexts.mutual_server,
    "mutual_client": contexts.mutual_client,
    "enrolment_server": lambda identity, _: contexts.enrolment_server(identity),
    "enrolment_client": lambda _, root: contexts.enrolment_client(root),
    "clients_server": lambda identity, _: contexts.clients_server(identity, ()),
    "bootstrap_client": lambda _, root: contexts.bootstrap_client(),
}
VERIFYING = ("mutual_server", "mutual_client", "enrolment_client")
SERVERS = ("mutual_server", "enrolment_server", "clients_server")


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return TrustDomain(tmp_path, NOW)


def build(domain: TrustDomain, name: str) -> ssl.SSLContext:
    return BUILDERS[name](domain.identity("host/vm1"), domain.root_pem)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_context_speaks_tls_1_3_only(domain: TrustDomain, name: str) -> None:
    context = build(domain, name)
    assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
    assert context.options & ssl.OP_NO_COMPRESSION
    assert not context.check_hostname
    assert context.sni_callback is None
    assert context.keylog_filename is None
    assert not context.post_handshake_auth


@pytest.mark.parametrize("name", SERVERS)
def test_c15_no_server_gives_tickets(domain: TrustDomain, name: str) -> None:
    assert build(domain, name).num_tickets == 0


@pytest.mark.parametrize("name", VERIFYING)
def test_peers_are_verified_under_our_root_alone(domain: TrustDomain, name: str) -> None:
    context = build(domain, name)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert not context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.get_ca_certs(binary_form=True) == [certificates.to_der(domain.root)]


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - {*VERIFYING, "clients_server"}))
def test_the_other_two_trust_nobody(domain: TrustDomain, name: str) -> None:
    context = build(domain, name)
    assert context.verify_mode is ssl.CERT_NONE
    assert context.get_ca_certs() == []


def test_clients_are_verified_under_the_certificates_that_are_pinned_alone(domain: TrustDomain) -> None:
    """Each for itself: a certificate that one of them issued leads to none of them (see test_client_tls.py)."""
    pinned = certificates.to_pem(domain.root)
    context = contexts.clients_server(domain.identity("gateway/gw1"), ["nothing", pinned])
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.get_ca_certs(binary_form=True) == [certificates.to_der(domain.root)]
    assert contexts.is_usable(pinned) and not contexts.is_usable("nothing")


def test_every_public_context_is_in_this_list() -> None:
    tree = ast.parse(Path(contexts.__file__).read_text())
    found = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and node.returns is not None
        and ast.unparse(node.returns) == "ssl.SSLContext"
    }
    assert found == {*BUILDERS, "consul_client", "probe_client", "last_hop_client"}


def test_consul_is_known_by_its_name_and_its_ca_alone(domain: TrustDomain, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text(domain.root_pem)
    context = contexts.consul_client(str(ca))
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.get_ca_certs(binary_form=True) == [certificates.to_der(domain.root)]
    for wrong in (tmp_path / "missing", tmp_path / "nothing"):
        (tmp_path / "nothing").write_text("nothing")
        with pytest.raises(InputError, match="the CA of Consul cannot be read"):
            contexts.consul_client(str(wrong))


def test_a_probe_believes_nobody_and_speaks_anything() -> None:
    context = contexts.probe_client()
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)
    assert context.security_level == 0
    assert context.get_ca_certs() == []


def test_a_last_hop_is_known_by_its_address_and_the_signed_ca(domain: TrustDomain) -> None:
    context = contexts.last_hop_client(domain.root_pem, ())
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.get_ca_certs(binary_form=True) == [certificates.to_der(domain.root)]
    with pytest.raises(InputError, match="the CA that was signed for it cannot be used"):
        contexts.last_hop_client("nothing", ())


@pytest.mark.parametrize(
    ("profiles", "least", "rsa"),
    [
        (("tls-1.2",), ssl.TLSVersion.TLSv1_2, False),
        (("tls-rsa",), ssl.TLSVersion.TLSv1_2, True),
        (("tls-1.0",), ssl.TLSVersion.TLSv1, False),
        (("tls-1.0", "tls-rsa"), ssl.TLSVersion.TLSv1, True),
    ],
)
def test_an_allowance_makes_one_last_hop_weaker_by_what_it_names(
    domain: TrustDomain, profiles: tuple[str, ...], least: ssl.TLSVersion, rsa: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = contexts.last_hop_client(domain.root_pem, profiles)
        assert context.minimum_version is least
    assert any(cipher["kea"] == "kx-rsa" for cipher in context.get_ciphers()) is rsa
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


def test_c28_no_other_file_builds_a_context() -> None:
    sources = [p for folder in ("inventory", "bridge", "agents", "cli") for p in (ROOT / folder).rglob("*.py")]
    others = [path for path in sources if path != Path(contexts.__file__)]
    assert len(others) > 10
    makers = (
        "SSLContext(",
        "create_default_context",
        "_create_unverified_context",
        "wrap_socket(",
        "get_server_certificate",
    )
    for path in others:
        text = path.read_text()
        assert not [maker for maker in makers if maker in text], path


def test_an_identity_that_cannot_be_used_says_where(domain: TrustDomain, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(InputError, match="No such file") as caught:
        contexts.mutual_server(missing, domain.root_pem)
    assert caught.value.where == str(missing)
    other = certificates.private_key_pem(certificates.generate_key())
    leaf = domain.identity("host/vm1").read_text().partition("-----END PRIVATE KEY-----\n")[2]
    swapped = tmp_path / "swapped.pem"
    swapped.write_text(other + leaf)
    with pytest.raises(InputError, match="the identity cannot be used: KEY_VALUES_MISMATCH"):
        contexts.mutual_client(swapped, domain.root_pem)


@pytest.mark.parametrize("pem", ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_root_that_cannot_be_used_is_refused(pem: str) -> None:
    with pytest.raises(InputError, match="the root certificate cannot be used"):
        contexts.enrolment_client(pem)


def test_an_encrypted_key_is_refused_without_asking_for_its_password(domain: TrustDomain, tmp_path: Path) -> None:
    key = certificates.generate_key()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    path = tmp_path / "locked.pem"
    path.write_bytes(pem + domain.root_pem.encode())
    with pytest.raises(InputError, match="the identity cannot be used"):
        contexts.mutual_server(path, domain.root_pem)
