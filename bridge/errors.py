"""Pure: errors of the data path, told apart by whose fault they are, and TLS failures put into words.

A `PeerError` is what a peer did or is; it is logged at the peer's account and never ends more than that peer's
connection. A `LocalError` is a step of our own that the situation does not allow. Nothing here decides: it only names.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime

from inventory.errors import MeshError
from inventory.names import shown


class PeerError(MeshError):
    """The peer's fault: it broke the protocol, is not who it should be, or went away in the middle."""

    exit_code = 69


class LocalError(MeshError):
    """Our fault: we were about to do what the protocol or the state does not allow."""

    exit_code = 70


class PeerRefused(PeerError):
    """We refuse the peer. `code` is for programs (one of the words in docs/protocol.md), `what` for people."""

    def __init__(self, code: str, reason: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(reason, where=where, hint=hint)
        self.code = code
        self.reason = reason


def clock(seconds: float) -> str:
    """A moment for people, in UTC: `2026-11-23 04:05:06Z`. `seconds` is unix time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.0f} s after 1970"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFacts:
    """What the caller knows about a handshake that failed. All optional: words are found for whatever is there.

    first_bytes: the first bytes the peer ever sent; None when it is not known, empty when it sent nothing.
    dialled: we are the client.
    now, own_not_before, own_not_after: unix seconds; our clock and the bounds of our own certificate.
    our_root: fingerprint of the root we trust; peer_issuer: of the certificate that issued the peer's.
    """

    first_bytes: bytes | None = None
    dialled: bool = False
    now: float | None = None
    own_not_before: float | None = None
    own_not_after: float | None = None
    our_root: str | None = None
    peer_issuer: str | None = None


NO_FACTS = TlsFacts()

_TLS_RECORDS = (b"\x15", b"\x16")
"""First byte of an alert and of a handshake record (RFC 8446, 5.1)."""
_X509_NOT_YET_VALID = 9
_X509_EXPIRED = 10
_X509_UNKNOWN_ISSUER = frozenset({2, 7, 18, 19, 20, 21, 27, 29, 30, 31, 33})
_OLD_TLS = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION", "VERSION_TOO_LOW"})
_NO_CERTIFICATE = frozenset({"TLSV13_ALERT_CERTIFICATE_REQUIRED", "PEER_DID_NOT_RETURN_A_CERTIFICATE"})
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "NOT_SSL_RECORD"})
_SAID_BY_PEER = {
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the peer says that our certificate is revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer says that our certificate is bad",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer does not accept this kind of certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer could not check our certificate",
    "TLSV1_ALERT_ACCESS_DENIED": "the peer denies us access",
}


def explain_tls_error(error: Exception, facts: TlsFacts = NO_FACTS) -> str:
    """One sentence for a failed handshake or a connection cut by a TLS alert (H01 to H05).

    Args:
        error: what the ssl module raised; ConnectionError and EOFError are understood too.
        facts: what the caller knows.
    """
    not_tls = f"not a TLS 1.3 {'server' if facts.dialled else 'client'}"
    if facts.first_bytes and not facts.first_bytes.startswith(_TLS_RECORDS):
        return f"{not_tls}: it sent {shown(facts.first_bytes[:16].decode('latin-1'))}"
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_verification(error, facts)
    if reason in _OLD_TLS:
        return "TLS 1.3 required: the peer offers only an older version"
    if reason in _NO_CERTIFICATE:
        return "client certificate required"
    if reason in _NOT_TLS:
        return not_tls
    if reason == "SSLV3_ALERT_CERTIFICATE_EXPIRED":
        return f"the peer says that our certificate is expired or not yet valid: {_own_clocks(facts)}"
    if reason == "TLSV1_ALERT_UNKNOWN_CA":
        return f"unknown issuer: the peer does not know who issued our certificate ({_fingerprints(facts)})"
    if reason in _SAID_BY_PEER:
        return _SAID_BY_PEER[reason]
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError, EOFError)):
        return f"{not_tls}: it sent nothing" if facts.first_bytes == b"" else "the peer closed the connection"
    return f"TLS failed: {shown(reason.replace('_', ' ').lower() or type(error).__name__)}"


def _explain_verification(error: ssl.SSLCertVerificationError, facts: TlsFacts) -> str:
    if error.verify_code in _X509_UNKNOWN_ISSUER:
        return f"unknown issuer: we do not know who issued the peer's certificate ({_fingerprints(facts)})"
    if error.verify_code in (_X509_NOT_YET_VALID, _X509_EXPIRED):
        word = "expired" if error.verify_code == _X509_EXPIRED else "not yet valid"
        ours = clock(facts.now) if facts.now is not None else "unknown"
        return f"the peer's certificate is {word}: our clock says {ours}"
    return f"the peer's certificate is refused: {shown(error.verify_message)}"


def _own_clocks(facts: TlsFacts) -> str:
    ours = clock(facts.now) if facts.now is not None else "unknown"
    if facts.own_not_before is None or facts.own_not_after is None:
        return f"our clock says {ours}"
    bounds = f"{clock(facts.own_not_before)} to {clock(facts.own_not_after)}"
    return f"it is good from {bounds}, our clock says {ours}, the peer's clock is outside of that"


def _fingerprints(facts: TlsFacts) -> str:
    ours = f"our root is sha256 {facts.our_root}" if facts.our_root else "our root is not known here"
    theirs = f"the peer's issuer is sha256 {facts.peer_issuer}" if facts.peer_issuer else "the peer's is not known"
    return f"{ours}, {theirs}"


def ends_the_process(error: BaseException) -> bool:
    """Whether somebody wants this process to end. Everything else that reaches a guard of code that does not wait is a
    bug, whatever its class: a stray cancellation as well."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(ends_the_process, error.exceptions))
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
