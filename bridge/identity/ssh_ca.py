"""Pure: a gateway's own ssh certificate authority: user certificates for its ssh worker, and for nobody else.

Each has exactly one principal, lives for an hour, and allows port forwarding and nothing else that an sshd asks a
certificate for: no terminal, no agent, no X11 (C14).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType

from bridge import limits
from inventory.errors import InputError


@dataclass(frozen=True, slots=True)
class SshCertificate:
    line: str
    """As OpenSSH writes it: `ssh-ed25519-cert-v01@openssh.com AAAA...`."""
    ends: float
    """Unix seconds."""


class SshCa:
    """The key never prints itself; `ssh_ca.key` holds `to_bytes()`."""

    __slots__ = ("_key",)

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SshCa:
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, content: bytes) -> SshCa:
        """Raises InputError, which never quotes it."""
        try:
            key = serialization.load_ssh_private_key(content, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise InputError("it is not an ssh certificate authority's key")
        return cls(key)

    def to_bytes(self) -> bytes:
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )

    @property
    def line(self) -> str:
        """Its public half, for `TrustedUserCAKeys` or behind `cert-authority` in authorized_keys."""
        public = self._key.public_key()
        return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode("ascii")

    def certify(self, public_key: str, principal: str, *, gateway: str, now: float) -> SshCertificate:
        """A user certificate for one principal.

        Args:
            public_key: a line of OpenSSH's.
            now: unix seconds.

        Raises:
            InputError: no Ed25519 key, or no principal: an empty list would be good for everybody.
        """
        if not principal:
            raise InputError("a certificate needs a principal")
        try:
            key = serialization.load_ssh_public_key(public_key.encode("ascii"))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InputError("only an Ed25519 key is certified")
        begins = int(now - limits.CLOCK_TOLERANCE)
        ends = int(begins + limits.SSH_CERTIFICATE_LIFETIME)
        made = (
            SSHCertificateBuilder()
            .public_key(key)
            .serial(secrets.randbits(63))
            .type(SSHCertificateType.USER)
            .key_id(f"meshbridge gateway {gateway}".encode())
            .valid_principals([principal.encode("ascii")])
            .valid_after(begins)
            .valid_before(ends)
            .add_extension(b"permit-port-forwarding", b"")
            .sign(self._key)
        )
        return SshCertificate(made.public_bytes().decode("ascii"), float(ends))
