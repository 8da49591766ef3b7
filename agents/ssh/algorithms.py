"""Pure: which ssh algorithms are offered to a host, and what an allowance adds for that host alone.

AES-GCM comes first. ChaCha20-Poly1305 and CBC with encrypt-then-MAC are never offered: they are what prefix truncation
works on (C33). Nor is a group exchange, where the server chooses a prime of any size for us to calculate with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from inventory.errors import InputError
from inventory.names import shown

SHA1 = "ssh-sha1"
"""Profile: signatures, key exchange and MACs with SHA-1, and RSA keys from 1,024 bits on."""
CBC = "ssh-cbc"
"""Profile: AES and triple DES in CBC mode."""
CA_MARK = "@cert-authority "

_KEX = (
    *("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org"),
    *("ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"),
    *("diffie-hellman-group14-sha256", "diffie-hellman-group16-sha512"),
)
_KEX_SHA1 = ("diffie-hellman-group14-sha1", "diffie-hellman-group1-sha1")
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_CIPHERS_CBC = ("aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc")
_MACS_ETM = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
_MACS = ("hmac-sha2-256", "hmac-sha2-512")
_MACS_SHA1 = ("hmac-sha1",)
_RSA = ("rsa-sha2-512", "rsa-sha2-256")
_RSA_SHA1 = "ssh-rsa"
_ECDSA = ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
_ED25519 = "ssh-ed25519"
_CERTIFICATE = "-cert-v01@openssh.com"
_RSA_BITS_MIN = 2048
_RSA_BITS_MIN_OLD = 1024

_OLD = frozenset((*_KEX_SHA1, *_CIPHERS_CBC, *_MACS_SHA1, _RSA_SHA1, _RSA_SHA1 + _CERTIFICATE))


@dataclass(frozen=True, slots=True)
class Suite:
    """What is offered, best first."""

    kex: tuple[str, ...]
    ciphers: tuple[str, ...]
    macs: tuple[str, ...]
    signatures: tuple[str, ...]
    """For our own key."""
    host_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The signed lines, sorted: public keys, and keys of CAs that may vouch for one."""

    keys: tuple[str, ...]
    authorities: tuple[str, ...]


def sort_host_keys(lines: Iterable[str], allowed: Sequence[str]) -> HostKeys:
    """Raises InputError: none at all, one that is no key, or one that is too weak."""
    keys: list[str] = []
    authorities: list[str] = []
    for line in lines:
        key = line.removeprefix(CA_MARK)
        _check_strength(key, allowed)
        (authorities if line.startswith(CA_MARK) else keys).append(key)
    if not keys and not authorities:
        raise InputError("no host key was signed for it", hint="nothing is trusted on first use")
    return HostKeys(tuple(keys), tuple(authorities))


def _check_strength(line: str, allowed: Sequence[str]) -> None:
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{shown(line)} is not a public key in OpenSSH's form") from None
    if isinstance(key, dsa.DSAPublicKey):
        raise InputError("weak host key: DSA", hint="have the host make an Ed25519 or RSA key")
    least = _RSA_BITS_MIN_OLD if SHA1 in allowed else _RSA_BITS_MIN
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < least:
        raise InputError(
            f"weak host key: RSA with {key.key_size} bits, at least {least} are asked for",
            hint=f"have the host make a new key, or allow {SHA1} for it" if least == _RSA_BITS_MIN else "",
        )


def suite_for(host_keys: HostKeys, allowed: Sequence[str]) -> Suite:
    """What is offered to a host with these signed keys, under these profiles."""
    sha1, cbc = SHA1 in allowed, CBC in allowed
    signatures = (_ED25519, *_ECDSA, *_RSA, *((_RSA_SHA1,) if sha1 else ()))
    return Suite(
        kex=_KEX + (_KEX_SHA1 if sha1 else ()),
        ciphers=_CIPHERS + (_CIPHERS_CBC if cbc else ()),
        # Where CBC is offered, encrypt-then-MAC is not: together they are open to prefix truncation.
        macs=(() if cbc else _MACS_ETM) + _MACS + (_MACS_SHA1 if sha1 else ()),
        signatures=signatures,
        host_keys=_host_key_algorithms(host_keys, signatures),
    )


def _host_key_algorithms(host_keys: HostKeys, signatures: tuple[str, ...]) -> tuple[str, ...]:
    """Only what the signed keys can prove, so that a host with several keys shows one that we know."""
    kinds = {line.split(" ", 1)[0] for line in host_keys.keys}
    plain = tuple(name for name in signatures if (_RSA_SHA1 if name in _RSA else name) in kinds)
    certified = tuple(name + _CERTIFICATE for name in signatures) if host_keys.authorities else ()
    return certified + plain


def old_ones(names: Iterable[str]) -> tuple[str, ...]:
    """Those in use that only an allowance allows."""
    return tuple(sorted({name for name in names if name in _OLD}))
