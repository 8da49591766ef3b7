"""Real TLS handshakes in memory against peers that are not what they should be, and the words each refusal gets."""

from __future__ import annotations

import random
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from bridge import limits
from bridge.errors import PeerRefused, TlsFacts, explain_tls_error
from bridge.identity import certificates, contexts
from bridge.identity.certificates import PrivateKey
from bridge.identity.verify import PeerIdentity, verify_peer
from tests.support.hostile_certificates import mint, uri
from tests.support.memory_tls import TRUST_DOMAIN, Pair, TrustDomain, handshake

NOW = 1_800_000_000.0
DAY = 86400.0
GOOD_NAME = "spiffe://t.internal/host/vm1"


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    (tmp_path / "one").mkdir()
    return TrustDomain(tmp_path / "one", NOW)


@pytest.fixture
def server(domain: TrustDomain) -> ssl.SSLContext:
    return contexts.mutual_server(domain.identity("gateway/gw1"), domain.root_pem)


def hostile_client(domain: TrustDomain, identity: Path | None) -> ssl.SSLContext:
    """A client that keeps to no rule of ours but verifies nothing either, so only the server's verdict counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if identity is not None:
        context.load_cert_chain(identity)
    return context


def minted(domain: TrustDomain, *, key: PrivateKey | None = None, **options: Any) -> x509.Certificate:
    key = key or certificates.generate_key()
    usual: dict[str, Any] = {
        "public_key": key.public_key(),
        "issuer_key": domain.issuer_key,
        "issuer_name": domain.issuer_certificate.subject,
        "names": [uri(GOOD_NAME)],
        "not_before": NOW - 300,
        "not_after": NOW + DAY,
    }
    return mint(**(usual | options))


def client_with(domain: TrustDomain, **options: Any) -> ssl.SSLContext:
    key = certificates.generate_key()
    leaf = minted(domain, key=key, **options)
    path = domain.write(key, certificates.to_pem(leaf), certificates.to_pem(domain.issuer_certificate))
    return hostile_client(domain, path)


def verified(pair: Pair, *, now: float = NOW, **options: Any) -> PeerIdentity:
    usual: dict[str, Any] = {
        "now": now,
        "trust_domain": TRUST_DOMAIN,
        "roles": ("host",),
        "purpose": "open a tunnel",
        "is_revoked": lambda *_: None,
    }
    return verify_peer(contexts.peer_chain(pair.server), **(usual | options))


def test_two_nodes_know_each_other(domain: TrustDomain, server: ssl.SSLContext) -> None:
    pair = handshake(contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem), server)
    assert (pair.client_error, pair.server_error) == (None, None)
    assert pair.client.version() == "TLSv1.3"
    assert str(verified(pair).spiffe) == GOOD_NAME
    gateway = verify_peer(
        contexts.peer_chain(pair.client),
        now=NOW,
        trust_domain=TRUST_DOMAIN,
        roles=("gateway",),
        purpose="relay",
        is_revoked=lambda *_: None,
        name="gw1",
    )
    assert gateway.spiffe.role == "gateway"


NOT_TLS = (
    *(b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9.8\r\n", b"\0" * 64, b"it's no handshake\r\n"),
    b"\x80\x80\x01 like SSLv2",  # OpenSSL waits for more of this one
    *(b"\0" + random.Random(seed).randbytes(511) for seed in range(4)),
)


@pytest.mark.parametrize("sent", NOT_TLS)
def test_h01_what_is_not_tls(server: ssl.SSLContext, sent: bytes) -> None:
    incoming = ssl.MemoryBIO()
    side = server.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    incoming.write(sent)
    with pytest.raises(ssl.SSLError) as caught:
        side.do_handshake()
    said = f"not a TLS 1.3 client: it sent {sent[:16].decode('latin-1')!a}"
    assert explain_tls_error(caught.value, TlsFacts(first_bytes=sent)) == said


def test_h01_a_client_that_says_nothing(server: ssl.SSLContext) -> None:
    incoming = ssl.MemoryBIO()
    side = server.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    incoming.write_eof()
    with pytest.raises(ssl.SSLError) as caught:
        side.do_handshake()
    assert explain_tls_error(caught.value, TlsFacts(first_bytes=b"")) == "not a TLS 1.3 client: it sent nothing"


def test_h02_tls_1_2_only(domain: TrustDomain, server: ssl.SSLContext) -> None:
    old = hostile_client(domain, domain.identity("host/vm1"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    pair = handshake(old, server)
    assert pair.server_error is not None
    assert pair.client_error is not None
    assert explain_tls_error(pair.server_error).startswith("TLS 1.3 required")
    assert explain_tls_error(pair.client_error).startswith("TLS 1.3 required")


def test_h03_no_client_certificate_is_told_to_the_client(domain: TrustDomain, server: ssl.SSLContext) -> None:
    pair = handshake(contexts.enrolment_client(domain.root_pem), server)
    assert pair.server_error is not None
    assert pair.client_error is not None
    assert explain_tls_error(pair.server_error) == "client certificate required"
    assert explain_tls_error(pair.client_error) == "client certificate required"
    with pytest.raises(PeerRefused, match="client certificate required"):
        contexts.peer_chain(pair.server)


@pytest.mark.parametrize("beyond", [1.0, 300.0, DAY])
def test_h04_expired_and_not_yet_valid(domain: TrustDomain, server: ssl.SSLContext, beyond: float) -> None:
    pair = handshake(contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem), server)
    peer = verified(pair)
    for now in (peer.not_after + 300 + beyond, peer.not_before - 300 - beyond):
        with pytest.raises(PeerRefused) as caught:
            verified(pair, now=now)
        assert caught.value.code == "validity"
        assert "it is good from" in caught.value.what
        assert "our clock says" in caught.value.what


def test_h05_another_root_of_the_same_name(domain: TrustDomain, server: ssl.SSLContext, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    other = TrustDomain(tmp_path / "two", NOW)
    ours, theirs = certificates.root_fingerprint(domain.root_pem), certificates.root_fingerprint(other.root_pem)
    refused_by_server = handshake(hostile_client(domain, other.identity("host/vm1")), server)
    assert refused_by_server.server_error is not None
    assert refused_by_server.client_error is not None
    text = explain_tls_error(refused_by_server.server_error, TlsFacts(our_root=ours))
    assert text.startswith("unknown issuer: we do not know")
    assert ours in text
    gateway = contexts.peer_issuer(refused_by_server.client)
    assert gateway == certificates.fingerprint(certificates.to_der(domain.issuer_certificate))
    text = explain_tls_error(refused_by_server.client_error, TlsFacts(our_root=theirs, peer_issuer=gateway))
    assert text.startswith("unknown issuer: the peer does not know who issued our certificate")
    assert theirs in text
    assert gateway in text


def test_h05_a_client_that_refuses_knows_both_fingerprints(
    domain: TrustDomain, server: ssl.SSLContext, tmp_path: Path
) -> None:
    (tmp_path / "two").mkdir()
    other = TrustDomain(tmp_path / "two", NOW)
    pair = handshake(contexts.mutual_client(other.identity("host/vm1"), other.root_pem), server)
    assert pair.client_error is not None
    facts = TlsFacts(
        our_root=certificates.root_fingerprint(other.root_pem), peer_issuer=contexts.peer_issuer(pair.client)
    )
    assert facts.peer_issuer == certificates.fingerprint(certificates.to_der(domain.issuer_certificate))
    text = explain_tls_error(pair.client_error, facts)
    assert text.startswith("unknown issuer: we do not know who issued the peer's certificate")
    assert str(facts.our_root) in text
    assert str(facts.peer_issuer) in text


def test_h06_the_right_ca_and_the_wrong_role(domain: TrustDomain, server: ssl.SSLContext) -> None:
    pair = handshake(contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem), server)
    with pytest.raises(PeerRefused, match="role host may not answer for the gateway"):
        verified(pair, roles=("gateway",), purpose="answer for the gateway")


@pytest.mark.parametrize(
    "names",
    [
        [uri(GOOD_NAME), uri("spiffe://t.internal/gateway/gw1")],
        [],
        [uri("spiffe://t.internal/..")],
        [uri("spiffe://t.internal/host/%2e")],
        [uri("spiffe://t.internal//vm1")],
        [uri("spiffe://t.internal/host/" + "a" * 2024)],
    ],
    ids=["two", "none", "dots", "escaped", "empty segment", "2049 bytes"],
)
def test_h07_invalid_names(domain: TrustDomain, server: ssl.SSLContext, names: list[x509.GeneralName]) -> None:
    options: dict[str, Any] = {} if names else {"common_name": "vm1"}
    pair = handshake(client_with(domain, names=names, **options), server)
    assert pair.server_error is None
    with pytest.raises(PeerRefused, match="invalid SPIFFE ID"):
        verified(pair)


@pytest.mark.parametrize(
    "names",
    [[x509.RFC822Name(GOOD_NAME)], [x509.DNSName(GOOD_NAME)], []],
    ids=["rfc822Name", "dNSName", "CN alone"],
)
def test_c05_a_spiffe_id_of_another_kind(
    domain: TrustDomain, server: ssl.SSLContext, names: list[x509.GeneralName]
) -> None:
    pair = handshake(client_with(domain, names=names, common_name=GOOD_NAME), server)
    if pair.server_error is None:
        with pytest.raises(PeerRefused, match="invalid SPIFFE ID"):
            verified(pair)


def test_c08_a_common_name_of_admin(domain: TrustDomain, server: ssl.SSLContext) -> None:
    pair = handshake(client_with(domain, common_name="admin"), server)
    assert str(verified(pair).spiffe) == GOOD_NAME
    for role in ("operator", "gateway"):
        with pytest.raises(PeerRefused, match="role host may not"):
            verified(pair, roles=(role,))


@pytest.mark.parametrize(
    "name",
    [
        "spiffe://u.internal/host/vm1",
        "spiffe://sub.t.internal/host/vm1",
        "spiffe://xt.internal/host/vm1",
        "spiffe://t.internal@u.internal/host/vm1",
        "spiffe://*.internal/host/vm1",
    ],
)
def test_c13_a_leaf_for_a_sister_domain(domain: TrustDomain, server: ssl.SSLContext, name: str) -> None:
    """By OpenSSL, from the constraint in the certificates, before any code of ours looks at the name."""
    pair = handshake(client_with(domain, names=[uri(name)]), server)
    assert isinstance(pair.server_error, ssl.SSLCertVerificationError)
    assert pair.server_error.verify_message == "permitted subtree violation"


def test_c13_an_issuer_cannot_widen_what_its_root_allows(domain: TrustDomain, server: ssl.SSLContext) -> None:
    issuer_key, key = certificates.generate_key(), certificates.generate_key()
    issuer = minted(
        domain,
        key=issuer_key,
        issuer_key=domain.root_key,
        issuer_name=domain.root.subject,
        names=[],
        common_name="rogue issuer",
        ca=True,
        usages=(),
        path_length=0,
        constraint="u.internal",
    )
    for name in ("spiffe://u.internal/host/vm1", GOOD_NAME):
        leaf = minted(domain, key=key, issuer_key=issuer_key, issuer_name=issuer.subject, names=[uri(name)])
        path = domain.write(key, certificates.to_pem(leaf), certificates.to_pem(issuer))
        pair = handshake(hostile_client(domain, path), server)
        assert isinstance(pair.server_error, ssl.SSLCertVerificationError)


def test_h08_a_leaf_that_is_a_ca(domain: TrustDomain, server: ssl.SSLContext) -> None:
    pair = handshake(client_with(domain, ca=True), server)
    if pair.server_error is None:
        with pytest.raises(PeerRefused, match="certificate of a CA"):
            verified(pair)


def test_h08_a_leaf_signed_by_a_leaf(domain: TrustDomain, server: ssl.SSLContext) -> None:
    parent_key, key = certificates.generate_key(), certificates.generate_key()
    parent = minted(domain, key=parent_key, common_name="parent")
    leaf = minted(domain, key=key, issuer_key=parent_key, issuer_name=parent.subject)
    chain = [leaf, parent, domain.issuer_certificate]
    pair = handshake(hostile_client(domain, domain.write(key, *map(certificates.to_pem, chain))), server)
    assert isinstance(pair.server_error, ssl.SSLCertVerificationError)


def test_h08_wrong_extended_key_usage(domain: TrustDomain, server: ssl.SSLContext) -> None:
    pair = handshake(client_with(domain, usages=[ExtendedKeyUsageOID.CODE_SIGNING]), server)
    assert isinstance(pair.server_error, ssl.SSLCertVerificationError)
    unrestricted = handshake(client_with(domain, usages=[]), server)
    with pytest.raises(PeerRefused, match="lacks the extension"):
        verified(unrestricted)


def test_h08_a_chain_of_ten(domain: TrustDomain, server: ssl.SSLContext) -> None:
    keys = [certificates.generate_key() for _ in range(9)]
    chain, issuer_key, issuer_name = [], domain.root_key, domain.root.subject
    for number, key in enumerate(keys):
        ca = {"names": [], "common_name": f"ca {number}", "ca": True, "usages": (), "constraint": TRUST_DOMAIN}
        chain.append(minted(domain, key=key, issuer_key=issuer_key, issuer_name=issuer_name, **ca))
        issuer_key, issuer_name = key, chain[-1].subject
    leaf_key = certificates.generate_key()
    chain.append(minted(domain, key=leaf_key, issuer_key=issuer_key, issuer_name=issuer_name))
    path = domain.write(leaf_key, *map(certificates.to_pem, reversed(chain)))
    pair = handshake(hostile_client(domain, path), server)
    assert isinstance(pair.server_error, ssl.SSLCertVerificationError)


def test_h08_ten_certificates_of_which_two_would_do(domain: TrustDomain, server: ssl.SSLContext) -> None:
    identity = domain.identity("host/vm1")
    identity.write_text(identity.read_text() + domain.root_pem * 8)
    pair = handshake(hostile_client(domain, identity), server)
    assert pair.server_error is None
    with pytest.raises(PeerRefused, match="a chain of 10 certificates"):
        verified(pair)


def test_h08_c27_a_hostile_certificate_costs_the_server_little(domain: TrustDomain, server: ssl.SSLContext) -> None:
    names = [uri(f"spiffe://t.internal/host/a{number}") for number in range(400)]
    client = client_with(domain, names=names)
    best = 1.0
    for _ in range(5):
        pair = handshake(client, server)
        assert pair.server_error is None
        start = time.process_time()
        with pytest.raises(PeerRefused, match=f"more than {limits.SAN_MAX} names"):
            verified(pair)
        best = min(best, time.process_time() - start)
    assert best <= 0.005
