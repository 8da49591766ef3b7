"""Pure: keys in OpenSSH's formats as operators give them: host keys to pin, and private keys to log in with.

What is weak or cannot be meant is refused in words that say what to do. No error quotes a private key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from inventory.errors import InputError
from inventory.names import shown

RSA_BITS_MIN = 2048
RSA_BITS_MIN_OLD = 1024
"""Of a host's key, under an allowance for the cryptography of its time."""
HOST_KEY_FILE_MAX = 256 * 1024
LINE_MAX = 16 * 1024
USER_KEY_MAX = 32 * 1024
CERT_AUTHORITY = "@cert-authority"

_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
_SPACES = re.compile(r"[ \t]+")
_UserKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def fingerprint(line: str) -> str:
    """Of a host key line as ssh shows it: `ssh-ed25519 SHA256:...`."""
    kind, blob = line.removeprefix(f"{CERT_AUTHORITY} ").split(" ", 1)
    digest = hashlib.sha256(base64.b64decode(blob)).digest()
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


# --- host keys ----------------------------------------------------------------------------------------------------


def parse_host_keys(
    content: bytes, address: str, port: int, *, where: str, rsa_bits_min: int = RSA_BITS_MIN
) -> tuple[str, ...]:
    """The keys in a `.pub` file, or those for this host in what ssh-keyscan prints or a known_hosts file.

    Returns:
        `TYPE BASE64` each, after `@cert-authority ` where it may vouch for host keys; in a stable order.

    Raises:
        InputError: a line that is none of these, a weak key, no key for this host.
    """
    found: set[str] = set()
    others: set[str] = set()
    for number, raw in enumerate(content.split(b"\n"), 1):
        place = f"{where}, line {number}"
        if len(raw) > LINE_MAX:
            raise InputError(f"a line of {len(raw)} bytes, at most {LINE_MAX} are allowed", where=place)
        try:
            line = raw.decode("ascii").strip()
        except UnicodeDecodeError:
            raise InputError("it is not text", where=place, hint=_hint(address, port)) from None
        if not line or line.startswith("#"):
            continue
        names, key = _parse_line(line, place, rsa_bits_min)
        if names is None or _matches(names, address, port):
            found.add(key)
        else:
            others.add(names)
    if not found:
        what = f"it has keys for other hosts only ({shown(sorted(others)[0])})" if others else "it holds no host key"
        raise InputError(f"{what}, and none for {address}", where=where, hint=_hint(address, port))
    return tuple(sorted(found))


def _hint(address: str, port: int) -> str:
    option = f"-p {port} " if port != 22 else ""
    return f"get it with `ssh-keyscan {option}{address} > FILE`, and compare it with what its administrator says"


def _parse_line(line: str, place: str, rsa_bits_min: int) -> tuple[str | None, str]:
    """The host names of a line, None where it has none, and its key."""
    words = _SPACES.split(line)
    mark = words.pop(0) if words[0].startswith("@") else ""
    if mark not in ("", CERT_AUTHORITY):
        raise InputError(f"a line marked {shown(mark)} pins nothing", where=place)
    names = words.pop(0) if words and words[0] not in _TYPES else None
    if names is not None and names.startswith("-----BEGIN"):
        raise InputError("this is a private key, and not a host's public one", where=place)
    if len(words) < 2:
        raise InputError("it is not a public key in OpenSSH's form", where=place)
    if words[0] not in _TYPES:
        raise InputError(f"host keys of type {shown(words[0])} are not accepted", where=place, hint=_types())
    _check_public(words[0], words[1], place, rsa_bits_min)
    return names, f"{mark} {words[0]} {words[1]}".strip()


def _types() -> str:
    return f"give one of {', '.join(_TYPES)}"


def _check_public(kind: str, blob: str, place: str, rsa_bits_min: int) -> None:
    try:
        key = serialization.load_ssh_public_key(f"{kind} {blob}".encode("ascii"))
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        raise InputError("it is not a public key in OpenSSH's form", where=place) from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < rsa_bits_min:
        what = f"an RSA key of {key.key_size} bits is too weak to know a host by, {rsa_bits_min} are needed"
        hint = "make a new host key there (ssh-keygen -t ed25519), or allow --crypto ssh-sha1 for a time"
        raise InputError(what, where=place, hint=hint)


def _matches(names: str, address: str, port: int) -> bool:
    wanted = [f"[{address}]:{port}", *([address] if port == 22 else [])]
    if names.startswith("|1|"):
        return any(_is_hash_of(names, name) for name in wanted)
    listed = {name.lower() for name in names.split(",")}
    return "*" in listed or any(name in listed for name in wanted)


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        _, _, salt, digest = hashed.split("|")
        expected = base64.b64decode(digest, validate=True)
        # known_hosts is made so; it hides names, and nothing rests on it.
        made = hmac.new(base64.b64decode(salt, validate=True), name.encode(), "sha1").digest()
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(made, expected)


# --- private keys -------------------------------------------------------------------------------------------------


def parse_user_key(content: bytes, *, where: str) -> bytes:
    """A private key without passphrase, in OpenSSH's own format whatever it was in.

    Raises:
        InputError: no private key, one with a passphrase, a weak one. Nothing of it is quoted.
    """
    if content.split(b" ", 1)[0] in {kind.encode() for kind in _TYPES}:
        hint = "give the file without .pub"
        raise InputError("this is a public key; the private one is needed to log in", where=where, hint=hint)
    hint = "make one with `ssh-keygen -t ed25519 -N '' -f FILE`"
    try:
        is_openssh = b"BEGIN OPENSSH PRIVATE KEY" in content
        load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
        key = load(content, password=None)
    except TypeError:
        raise _passphrase(where) from None
    except (ValueError, UnsupportedAlgorithm) as exc:
        if "password" in str(exc).lower():
            raise _passphrase(where) from None
        raise InputError("it is not a private key in OpenSSH's form", where=where, hint=hint) from None
    if not isinstance(key, _UserKey):
        raise InputError("keys of this type are not accepted", where=where, hint=hint)
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < RSA_BITS_MIN:
        raise InputError(f"an RSA key of {key.key_size} bits is too weak", where=where, hint=hint)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _passphrase(where: str) -> InputError:
    hint = "the gateway logs in without anybody there: give it a key of its own, made with `ssh-keygen -N ''`"
    return InputError("this private key has a passphrase", where=where, hint=hint)


def shown_keys(lines: Iterable[str]) -> list[str]:
    """Fingerprints, for people."""
    return [
        fingerprint(line) + (" (certificate authority)" if line.startswith(CERT_AUTHORITY) else "") for line in lines
    ]
