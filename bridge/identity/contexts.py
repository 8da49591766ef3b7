"""I/O: every TLS context there is. No other file builds one, and no option makes one between nodes weaker (C28).

    mutual_server, mutual_client    tunnels: both sides show a certificate of our root
    enrolment_server                a gateway towards a node that has no certificate yet; only after the MBE1 preface
    enrolment_client                that node, once it knows the root: the gateway shows a certificate, we have none
    bootstrap_client                that node before it knows the root: unverified, used only to fetch the genesis
                                    entry, whose hash must then equal the one in the token
    probe_client                    a check towards what it checks: any version, unverified; nothing is said over it
    clients_server                  a gateway towards clients that know nothing of us; each certificate for itself
    consul_client                   a gateway or a command towards Consul, by its name and the CA of its own
    last_hop_client                 a gateway towards an agentless host, by its address and the CA that was signed for
                                    it; the one place where an allowance of the operator's makes it weaker

TLS 1.3 only, but for a last hop and a probe; no tickets, because a resumed session is not checked for revocation or
expiry (C15); our root and no other, but for Consul, agentless hosts and what is checked, which are no nodes of ours.
Between nodes names play no part: the client sends no server name (wrap with `server_hostname=None`) and the server
reads none (C01); who a peer is comes from its certificate alone, which is asked after every handshake (verify.py). A
context is built anew whenever root or identity change, never altered.
"""

from __future__ import annotations

import ssl
import warnings
from _ssl import ENCODING_DER
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from bridge.errors import PeerRefused
from bridge.identity.certificates import fingerprint
from bridge.identity.verify import PeerChain
from inventory.errors import InputError

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME. verify.py checks the times of the whole chain: OpenSSL knows nothing of CLOCK_TOLERANCE,
and a server whose OpenSSL refuses never sees the certificate, so it could not say which clock is wrong (H04)."""

_LEGACY_SERVER_CONNECT = 0x4
"""Towards servers from before RFC 5746; the `ssl` module names it from Python 3.12 on."""


def mutual_server(identity_path: Path, root_pem: str) -> ssl.SSLContext:
    """For accepting tunnels. Raises InputError when the identity or the root cannot be used."""
    context = _server()
    _show(context, identity_path)
    _demand(context, root_pem)
    return context


def mutual_client(identity_path: Path, root_pem: str) -> ssl.SSLContext:
    """For dialling tunnels. Raises InputError when the identity or the root cannot be used."""
    context = _client()
    _show(context, identity_path)
    _demand(context, root_pem)
    return context


def enrolment_server(identity_path: Path) -> ssl.SSLContext:
    """For a stranger with a token. It asks for no certificate, so nothing but enrolment may be spoken over it."""
    context = _server()
    _show(context, identity_path)
    return context


def enrolment_client(root_pem: str) -> ssl.SSLContext:
    """For enrolling at a gateway whose certificate is checked under the root that the token led to."""
    context = _client()
    _demand(context, root_pem)
    return context


def bootstrap_client() -> ssl.SSLContext:
    """Unverified. Whatever is read over it is worth nothing until its hash equals the one in the token."""
    context = _client()
    context.verify_mode = ssl.CERT_NONE
    return context


def probe_client() -> ssl.SSLContext:
    """For a check's handshake, which ends with the certificate: whether an old server is up is a question that a check
    may ask. Neither is anything sent over it, nor is anybody let in because of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.options |= _LEGACY_SERVER_CONNECT
    return context


def consul_client(ca_file: str | None) -> ssl.SSLContext:
    """For asking Consul, whose certificate has to be from `ca_file`, or without one from a CA that the system trusts.

    Raises:
        InputError: the file cannot be read, or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        why = "it holds no certificate" if isinstance(exc, ssl.SSLError) else exc.strerror
        what = f"the CA of Consul cannot be read: {why}"
        raise InputError(what, where=ca_file, hint="name a PEM file with --consul-ca") from None
    return context


def clients_server(identity_path: Path, certificates: Iterable[str]) -> ssl.SSLContext:
    """For clients that know nothing of us and show one of these certificates (PEM), each of which stands for itself:
    whatever it issued counts for nothing, so that what was pinned is one key and not a CA. One that cannot be used lets
    nobody in, and keeps nobody else out.

    Raises:
        InputError: the identity cannot be used.
    """
    context = _server()
    _show(context, identity_path)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN)
    for certificate in certificates:
        _trust(context, certificate)
    return context


def is_usable(certificate: str) -> bool:
    """Whether OpenSSL can do anything with this certificate (PEM)."""
    return _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)


def _trust(context: ssl.SSLContext, certificate: str) -> bool:
    try:
        context.load_verify_locations(cadata=certificate)
    except (ValueError, ssl.SSLError):
        return False
    return True


def last_hop_client(ca_pem: str | None, profiles: Collection[str]) -> ssl.SSLContext:
    """For the last hop to one agentless host, whose certificate has to name its address.

    Args:
        ca_pem: who may vouch for it; None: the CAs that the system trusts.
        profiles: what is allowed now: `tls-1.2`, `tls-1.0` (and 1.1), `tls-rsa` (key exchange by RSA).

    Raises:
        InputError: there is no certificate in `ca_pem`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the certificate and the name
    context.options |= ssl.OP_NO_COMPRESSION
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if profiles:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    if "tls-1.0" in profiles:
        with warnings.catch_warnings():  # that it is old is why the operator has to allow it
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
    ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
    if "tls-1.0" in profiles:
        ciphers += ":ECDHE+AES:DHE+AES"
    if "tls-rsa" in profiles:
        ciphers += ":kRSA+AESGCM:kRSA+AES"
    # SHA-1, which TLS 1.0 and 1.1 sign with, is below every security level but 0.
    context.set_ciphers(ciphers + (":@SECLEVEL=0" if "tls-1.0" in profiles else ""))
    if ca_pem is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ValueError, ssl.SSLError):
        raise InputError("the CA that was signed for it cannot be used", hint="tls://ADDR?ca=FILE: PEM") from None
    return context


def _server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    return _common(context)


def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _common(context)


def _common(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION
    return context


def _show(context: ssl.SSLContext, identity_path: Path) -> None:
    try:
        # The empty password keeps OpenSSL from asking at the terminal when somebody put an encrypted key there.
        context.load_cert_chain(identity_path, password="")
    except (OSError, ssl.SSLError) as exc:
        why = exc.strerror if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) else exc.reason
        raise InputError(f"the identity cannot be used: {why}", where=str(identity_path)) from None


def _demand(context: ssl.SSLContext, root_pem: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | ssl.VERIFY_X509_STRICT | _NO_CHECK_TIME)
    try:
        context.load_verify_locations(cadata=root_pem)
    except (ValueError, ssl.SSLError):
        raise InputError("the root certificate cannot be used") from None


def peer_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> PeerChain:
    """The certificates of a finished handshake, for `verify_peer`.

    Raises:
        PeerRefused: code "certificate": the peer showed none, or we did not ask.
    """
    verified, sent = _certificates(tls, "get_verified_chain"), _certificates(tls, "get_unverified_chain")
    if not verified or tls.context.verify_mode is not ssl.CERT_REQUIRED:
        raise PeerRefused("certificate", "client certificate required")
    return PeerChain(tuple(verified), len(sent))


def peer_issuer(tls: ssl.SSLObject | ssl.SSLSocket) -> str | None:
    """Fingerprint of the topmost certificate that the peer sent, for explaining; None when OpenSSL does not say.

    A client has it even after it refused the server's certificate; a server only after a handshake that succeeded.
    """
    sent = _certificates(tls, "get_unverified_chain")
    return fingerprint(sent[-1]) if sent else None


def _certificates(tls: ssl.SSLObject | ssl.SSLSocket, getter: str) -> list[bytes]:
    """`get_verified_chain` and its sister are public from Python 3.13; before, the same calls exist one level down."""
    public: Any = getattr(tls, getter, None)
    if public is not None:
        return list(public())
    inner: Any = tls.__dict__.get("_sslobj")
    certificates = getattr(inner, getter)() if inner is not None else None
    return [certificate.public_bytes(ENCODING_DER) for certificate in certificates or []]
