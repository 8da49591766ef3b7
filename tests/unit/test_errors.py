"""Errors say whose fault it is, and a TLS failure becomes a sentence a person can act on."""

from __future__ import annotations

import ssl

import pytest

from bridge.errors import LocalError, PeerError, PeerRefused, TlsFacts, clock, explain_tls_error
from inventory.errors import MeshError

NOW = 1_800_000_000.0


def tls_error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, reason)
    error.reason = reason
    return error


def verification_error(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason, error.verify_code, error.verify_message = "CERTIFICATE_VERIFY_FAILED", code, message
    return error


def test_faults_are_told_apart() -> None:
    assert issubclass(PeerError, MeshError)
    assert issubclass(LocalError, MeshError)
    assert not issubclass(PeerError, LocalError)
    refused = PeerRefused("role", "role host may not relay", where="10.0.0.1:7443", hint="dial a gateway")
    assert (refused.code, refused.reason, refused.exit_code) == ("role", "role host may not relay", 69)
    assert str(refused) == "10.0.0.1:7443: role host may not relay"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("UNSUPPORTED_PROTOCOL", "TLS 1.3 required: the peer offers only an older version"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "TLS 1.3 required: the peer offers only an older version"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "client certificate required"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "client certificate required"),
        ("WRONG_VERSION_NUMBER", "not a TLS 1.3 client"),
        ("SSLV3_ALERT_CERTIFICATE_REVOKED", "the peer says that our certificate is revoked"),
        ("NO_SHARED_CIPHER", "TLS failed: 'no shared cipher'"),
    ],
)
def test_a_reason_has_its_sentence(reason: str, text: str) -> None:
    assert explain_tls_error(tls_error(reason)) == text


def test_h01_the_first_bytes_decide() -> None:
    text = explain_tls_error(tls_error("UNSUPPORTED_PROTOCOL"), TlsFacts(first_bytes=b"SSH-2.0-\x1b[31m" * 100))
    assert text.startswith("not a TLS 1.3 client: it sent 'SSH-2.0-\\x1b")
    assert len(text) < 200
    assert "TLS 1.3 required" in explain_tls_error(tls_error("UNSUPPORTED_PROTOCOL"), TlsFacts(first_bytes=b"\x16\x03"))


def test_h04_the_peer_says_that_we_have_expired() -> None:
    facts = TlsFacts(now=NOW, own_not_before=NOW - 60, own_not_after=NOW + 60)
    text = explain_tls_error(tls_error("SSLV3_ALERT_CERTIFICATE_EXPIRED"), facts)
    assert "it is good from 2027-01-15 07:59:00Z to 2027-01-15 08:01:00Z" in text
    assert "our clock says 2027-01-15 08:00:00Z" in text
    assert "our clock says unknown" in explain_tls_error(tls_error("SSLV3_ALERT_CERTIFICATE_EXPIRED"))


@pytest.mark.parametrize(("code", "word"), [(9, "not yet valid"), (10, "expired")])
def test_h04_openssl_found_it(code: int, word: str) -> None:
    text = explain_tls_error(verification_error(code, "certificate has expired"), TlsFacts(now=NOW))
    assert text == f"the peer's certificate is {word}: our clock says 2027-01-15 08:00:00Z"


def test_h05_an_unknown_issuer_shows_what_fingerprints_there_are() -> None:
    error = verification_error(20, "unable to get local issuer certificate")
    both = explain_tls_error(error, TlsFacts(our_root="aa" * 32, peer_issuer="bb" * 32))
    assert "our root is sha256 " + "aa" * 32 in both
    assert "the peer's issuer is sha256 " + "bb" * 32 in both
    assert "the peer's is not known" in explain_tls_error(error, TlsFacts(our_root="aa" * 32))


def test_other_verdicts_keep_their_words() -> None:
    text = explain_tls_error(verification_error(47, "permitted subtree violation"))
    assert text == "the peer's certificate is refused: 'permitted subtree violation'"


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), EOFError(), ssl.SSLEOFError(8, "EOF"), ssl.SSLZeroReturnError()]
)
def test_a_peer_that_went_away(error: Exception) -> None:
    assert explain_tls_error(error) == "the peer closed the connection"
    assert explain_tls_error(error, TlsFacts(first_bytes=b"")) == "not a TLS 1.3 client: it sent nothing"
    assert explain_tls_error(error, TlsFacts(first_bytes=b"", dialled=True)) == "not a TLS 1.3 server: it sent nothing"


def test_an_error_without_a_reason_has_a_sentence() -> None:
    assert explain_tls_error(ssl.SSLError()) == "TLS failed: 'SSLError'"
    assert explain_tls_error(ValueError("x")) == "TLS failed: 'ValueError'"


def test_any_moment_can_be_shown() -> None:
    assert clock(0) == "1970-01-01 00:00:00Z"
    assert clock(1e20) == "100000000000000000000 s after 1970"
    assert clock(-1e20).endswith("s after 1970")
