"""I/O: TLS connections finished in memory, and records written below the ssl module.

OpenSSL's Python face cannot send a KeyUpdate or an empty record. Whoever knows a connection's traffic secret can: a
`Forger` takes it from the key log and writes whatever records a hostile peer would (RFC 8446, 5.2 and 7).
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from bridge.tunnels.records import TlsPipe


def pipes(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[TlsPipe, TlsPipe]:
    """A finished handshake in memory: the client's end and the server's."""
    bios = [ssl.MemoryBIO() for _ in range(4)]
    a = TlsPipe(client.wrap_bio(bios[0], bios[1], server_side=False), bios[0], bios[1])
    b = TlsPipe(server.wrap_bio(bios[2], bios[3], server_side=True), bios[2], bios[3])
    for here, there in ((a, b), (b, a), (a, b), (b, a)):
        try:
            here.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        there.incoming.write(here.outgoing.read())
    return a, b


_HASHES = {
    "TLS_AES_256_GCM_SHA384": "sha384",
    "TLS_CHACHA20_POLY1305_SHA256": "sha256",
    "TLS_AES_128_GCM_SHA256": "sha256",
}
_APPLICATION_DATA = 23
_HANDSHAKE = 22
_KEY_UPDATE = b"\x18\x00\x00\x01"


class Forger:
    """Writes records as the client of a connection whose key log was kept; the real client must send nothing more."""

    def __init__(self, key_log: Path, tls: ssl.SSLObject | ssl.SSLSocket) -> None:
        cipher = tls.cipher()
        assert cipher is not None
        self._cipher = cipher[0]
        self._hash = _HASHES[self._cipher]
        lines = [line.split() for line in key_log.read_text().splitlines() if not line.startswith("#")]
        secret = [parts[2] for parts in lines if parts[0] == "CLIENT_TRAFFIC_SECRET_0"][-1]
        self._use(bytes.fromhex(secret))

    def data(self, body: bytes) -> bytes:
        """An application data record; `body` may be empty."""
        return self._record(body, _APPLICATION_DATA)

    def key_update(self, *, answer: bool) -> bytes:
        """A KeyUpdate; everything after it is under the next key. `answer` asks the peer for one of its own."""
        record = self._record(_KEY_UPDATE + bytes([answer]), _HANDSHAKE)
        self._use(self._expand(self._secret, b"traffic upd", len(self._secret)))
        return record

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        size = 16 if "AES_128" in self._cipher else 32
        key = self._expand(secret, b"key", size)
        self._aead = ChaCha20Poly1305(key) if "CHACHA" in self._cipher else AESGCM(key)
        self._iv = int.from_bytes(self._expand(secret, b"iv", 12))
        self._number = 0

    def _record(self, body: bytes, kind: int) -> bytes:
        header = struct.pack(">BHH", _APPLICATION_DATA, 0x0303, len(body) + 1 + 16)
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return header + self._aead.encrypt(nonce, body + bytes([kind]), header)

    def _expand(self, secret: bytes, label: bytes, size: int) -> bytes:
        """HKDF-Expand-Label for outputs of at most one block (RFC 8446, 7.1)."""
        info = struct.pack(">HB", size, len(label) + 6) + b"tls13 " + label + b"\0\1"
        return hmac.new(secret, info, getattr(hashlib, self._hash)).digest()[:size]
