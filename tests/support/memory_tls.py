"""A small estate on disk and TLS handshakes between two of its nodes in memory: no sockets, no threads, no clock."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from bridge.identity.issuer import Issuer, make_csr
from inventory.names import SpiffeId, parse_spiffe_id

TRUST_DOMAIN = "t.internal"


@dataclass
class TrustDomain:
    """A root, an issuer, and as many identities as asked for, as files below `directory`."""

    directory: Path
    now: float
    trust_domain: str = TRUST_DOMAIN
    root_key: PrivateKey = field(init=False)
    root: x509.Certificate = field(init=False)
    issuer_key: PrivateKey = field(init=False)
    issuer_certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.root_key, self.issuer_key = certificates.generate_key(), certificates.generate_key()
        self.root = certificates.create_root(self.root_key, self.trust_domain, now=self.now)
        self.issuer_certificate = certificates.create_intermediate(
            self.issuer_key.public_key(), root_key=self.root_key, root=self.root, now=self.now
        )

    @property
    def root_pem(self) -> str:
        return certificates.to_pem(self.root)

    @property
    def issuer(self) -> Issuer:
        return Issuer(self.issuer_key, self.issuer_certificate)

    def spiffe(self, path: str) -> SpiffeId:
        return parse_spiffe_id(f"spiffe://{self.trust_domain}/{path}")

    def identity(self, path: str, *, now: float | None = None, key: PrivateKey | None = None) -> Path:
        """An identity file for `host/vm1` or the like, issued the honest way."""
        key = key or certificates.generate_key()
        issued = self.issuer.issue(make_csr(key), self.spiffe(path), now=self.now if now is None else now)
        return self.write(key, issued.chain_pem)

    def write(self, key: PrivateKey, *chain: str) -> Path:
        path = (
            self.directory / f"{certificates.key_hash(key.public_key())[:12]}-{len(list(self.directory.iterdir()))}.pem"
        )
        path.write_text(certificates.private_key_pem(key) + "".join(chain))
        path.chmod(0o600)
        return path


@dataclass
class Pair:
    """Both ends of one TLS connection and the pipes between them."""

    client: ssl.SSLObject
    server: ssl.SSLObject
    to_server: ssl.MemoryBIO
    to_client: ssl.MemoryBIO
    client_error: ssl.SSLError | None = None
    server_error: ssl.SSLError | None = None


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, *, name: str | None = None, session: ssl.SSLSession | None = None
) -> Pair:
    """As far as it gets; errors are kept in the pair. The client also reads once, to see what the server says of it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    pair = Pair(
        client.wrap_bio(to_client, to_server, server_hostname=name, session=session),
        server.wrap_bio(to_server, to_client, server_side=True),
        to_server,
        to_client,
    )
    for _ in range(4):
        if pair.client_error is None:
            pair.client_error = _step(pair.client)
        if pair.server_error is None:
            pair.server_error = _step(pair.server)
    if pair.client_error is None:
        pair.client_error = read_error(pair.client)
    return pair


def _step(side: ssl.SSLObject) -> ssl.SSLError | None:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError as exc:
        return exc
    return None


def read_error(side: ssl.SSLObject) -> ssl.SSLError | None:
    try:
        side.read(1)
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLError as exc:
        return exc
    return None
