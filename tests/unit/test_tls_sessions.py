"""What a peer can do with the shape of its bytes: split, name, resume, re-encode, speak before TLS. No weaker check."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from bridge.errors import PeerRefused
from bridge.identity import certificates, contexts
from bridge.identity.verify import PeerIdentity, verify_peer
from tests.support.hostile_certificates import re_encoded
from tests.support.memory_tls import TRUST_DOMAIN, TrustDomain, handshake, read_error

NOW = 1_800_000_000.0


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return TrustDomain(tmp_path, NOW)


@pytest.fixture
def server(domain: TrustDomain) -> ssl.SSLContext:
    return contexts.mutual_server(domain.identity("gateway/gw1"), domain.root_pem)


def verified(side: ssl.SSLObject, **options: Any) -> PeerIdentity:
    usual: dict[str, Any] = {
        "now": NOW,
        "trust_domain": TRUST_DOMAIN,
        "roles": ("host",),
        "purpose": "open a tunnel",
        "is_revoked": lambda *_: None,
    }
    return verify_peer(contexts.peer_chain(side), **(usual | options))


def one_byte_pieces(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def three_records(data: bytes) -> list[bytes]:
    """The first record cut into three records: the same handshake message in another framing (RFC 8446, 5.1)."""
    length = int.from_bytes(data[3:5], "big")
    body, rest = data[5 : 5 + length], data[5 + length :]
    parts = [body[:7], body[7:90], body[90:]]
    return [data[:3] + len(part).to_bytes(2, "big") + part for part in parts] + ([rest] if rest else [])


def outcome(client: ssl.SSLContext, server: ssl.SSLContext, cut: Any, name: str | None) -> str:
    """The server's decision, with the client's first flight delivered as `cut` makes it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, out := ssl.MemoryBIO(), server_hostname=name)
    right = server.wrap_bio(to_server, to_client, server_side=True)
    for turn in range(3):
        try:
            left.do_handshake()
        except ssl.SSLWantReadError:
            pass
        data = out.read()
        pieces = cut(data) if turn == 0 else one_byte_pieces(data) if cut is one_byte_pieces else [data]
        for piece in pieces:
            to_server.write(piece)
            try:
                right.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as exc:
                return str(exc.reason)
    return str(verified(right).spiffe)


@pytest.mark.parametrize("name", [None, "gw1", "unknown.example", "t.internal"])
@pytest.mark.parametrize(
    "cut", [lambda data: [data], one_byte_pieces, three_records], ids=["whole", "bytes", "records"]
)
def test_c01_one_decision_however_the_hello_comes(
    domain: TrustDomain, server: ssl.SSLContext, cut: Any, name: str | None
) -> None:
    good = contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem)
    assert outcome(good, server, cut, name) == "spiffe://t.internal/host/vm1"
    without = contexts.enrolment_client(domain.root_pem)
    assert outcome(without, server, cut, name) == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def test_c01_we_send_no_server_name(domain: TrustDomain) -> None:
    client = contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem)
    side = client.wrap_bio(ssl.MemoryBIO(), out := ssl.MemoryBIO())
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    hello = out.read()
    assert b"internal" not in hello
    assert b"gw1" not in hello


def test_c15_there_is_no_session_to_resume(domain: TrustDomain, server: ssl.SSLContext) -> None:
    client = contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem)
    first = handshake(client, server)
    verified(first.server)
    read_error(first.client)
    session = first.client.session
    assert session is None or not session.has_ticket
    second = handshake(client, server, session=session)
    assert not second.client.session_reused
    with pytest.raises(PeerRefused, match="is revoked"):
        verified(second.server, is_revoked=lambda *_: "stolen")
    with pytest.raises(PeerRefused, match="has expired"):
        verified(second.server, now=NOW + 10 * 86400)


def test_c15_a_ticket_from_elsewhere_is_worth_nothing(domain: TrustDomain) -> None:
    """A server that gives tickets, with the same identity and root; its ticket is then shown to one of ours."""
    identity = domain.identity("gateway/gw1")
    generous = contexts.mutual_server(identity, domain.root_pem)
    generous.num_tickets = 2
    client = contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem)
    first = handshake(client, generous)
    assert first.client.session is not None
    assert first.client.session.has_ticket
    assert handshake(client, generous, session=first.client.session).client.session_reused, "the control must resume"
    rebuilt = contexts.mutual_server(identity, domain.root_pem)
    second = handshake(client, rebuilt, session=first.client.session)
    assert not second.client.session_reused
    with pytest.raises(PeerRefused, match="is revoked"):
        verified(second.server, is_revoked=lambda *_: "stolen")


def test_c15_a_live_connection_can_be_judged_again(domain: TrustDomain, server: ssl.SSLContext) -> None:
    pair = handshake(contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem), server)
    verified(pair.server)
    with pytest.raises(PeerRefused, match="is revoked"):
        verified(pair.server, is_revoked=lambda *_: "stolen")


@pytest.mark.parametrize("how", ["re-encoded signature", "reissued certificate"])
def test_c16_a_revoked_key_comes_back(domain: TrustDomain, server: ssl.SSLContext, how: str) -> None:
    key = certificates.generate_key()
    original = domain.identity("host/vm1", key=key)
    leaf = certificates.parse_certificates(original.read_text())[0]
    if how == "re-encoded signature":
        twin = x509.load_der_x509_certificate(re_encoded(leaf))
        again = domain.write(key, certificates.to_pem(twin), certificates.to_pem(domain.issuer_certificate))
    else:
        again = domain.identity("host/vm2", key=key, now=NOW + 60)
    revoked = certificates.key_hash(key.public_key())
    pair = handshake(contexts.mutual_client(again, domain.root_pem), server)
    assert pair.server_error is None, "the certificate itself is good"
    verified(pair.server)
    with pytest.raises(PeerRefused, match="is revoked: 'stolen'"):
        verified(pair.server, is_revoked=lambda _, shown_key: "stolen" if shown_key == revoked else None)


def test_c18_no_revocation_list_no_tunnel(domain: TrustDomain, server: ssl.SSLContext) -> None:
    def unreadable(spiffe: str, key: str) -> str | None:
        raise RuntimeError("authority.slice is damaged")

    pair = handshake(contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem), server)
    with pytest.raises(PeerRefused, match="cannot tell whether") as caught:
        verified(pair.server, is_revoked=unreadable)
    assert "authority.slice is damaged" in caught.value.what


@pytest.mark.parametrize("plain", [b'{"register": "vm1"}\n', b"MBE1\n", b"\x00\x00\x00\x01\x01\x00\x00\x02{}"])
def test_c25_clear_text_then_close_never_reaches_a_parser(server: ssl.SSLContext, plain: bytes) -> None:
    incoming = ssl.MemoryBIO()
    side = server.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    incoming.write(plain)
    incoming.write_eof()
    for attempt in (side.do_handshake, side.read):
        with pytest.raises(ssl.SSLError):
            attempt()
    assert side.pending() == 0


def test_c25_clear_text_after_the_hello_never_reaches_a_parser(domain: TrustDomain, server: ssl.SSLContext) -> None:
    client = contexts.mutual_client(domain.identity("host/vm1"), domain.root_pem)
    left = client.wrap_bio(ssl.MemoryBIO(), out := ssl.MemoryBIO())
    with pytest.raises(ssl.SSLWantReadError):
        left.do_handshake()
    incoming = ssl.MemoryBIO()
    side = server.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    incoming.write(out.read() + b'{"register": "vm1"}\n')
    incoming.write_eof()
    for attempt in (side.do_handshake, side.read):
        with pytest.raises(ssl.SSLError):
            attempt()


def test_enrolment_shows_the_gateway_and_asks_for_nothing(domain: TrustDomain) -> None:
    server = contexts.enrolment_server(domain.identity("gateway/gw1"))
    for client in (contexts.enrolment_client(domain.root_pem), contexts.bootstrap_client()):
        pair = handshake(client, server)
        assert (pair.client_error, pair.server_error) == (None, None)
        with pytest.raises(PeerRefused, match="client certificate required"):
            contexts.peer_chain(pair.server)
    gateway = verified(handshake(contexts.enrolment_client(domain.root_pem), server).client, roles=("gateway",))
    assert gateway.spiffe.name == "gw1"
    with pytest.raises(PeerRefused, match="client certificate required"):
        contexts.peer_chain(handshake(contexts.bootstrap_client(), server).client)
