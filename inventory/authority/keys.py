"""Pure: operator keys, the only source of authority. Ed25519 (RFC 8032) by libsodium; a key never prints itself."""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache

import nacl.bindings
import nacl.exceptions
import nacl.signing

from inventory.errors import InputError
from inventory.names import shown

SIGNATURE_BYTES = 64
KEY_FILE_MAX = 256
"""Bytes of an operator key file; ours are 71."""

_HEX_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FILE_PREFIX = b"meshbridge operator key v1 "


@lru_cache(maxsize=1024)
def _verify_key(public: str) -> nacl.signing.VerifyKey:
    if not _HEX_KEY.fullmatch(public):
        raise InputError(f"{shown(public)} is not an operator key", hint="a key is 64 lower-case hex digits")
    raw = bytes.fromhex(public)
    # libsodium's check: canonical encoding, on the curve, in the prime-order subgroup, not of small order (H21). With a
    # small-order key one signature would fit many messages; with two encodings one key would have two names.
    if not nacl.bindings.crypto_core_ed25519_is_valid_point(raw):
        raise InputError(f"{public} is not a valid Ed25519 public key (small order or not canonical)")
    return nacl.signing.VerifyKey(raw)


def parse_public_key(text: str) -> str:
    """An operator's public key as 64 lower-case hex digits. Raises InputError (H21)."""
    _verify_key(text)
    return text


def verify(public: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` over exactly `message` is by the operator key `public`.

    Raises:
        InputError: `public` is no valid key.
    """
    key = _verify_key(public)
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        key.verify(message, signature)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


class OperatorKey:
    """The secret half. Its file holds one line: `meshbridge operator key v1 <base64 of the 32-byte seed>`."""

    __slots__ = ("_signing", "public")

    def __init__(self, seed: bytes) -> None:
        self._signing = nacl.signing.SigningKey(seed)
        self.public: str = bytes(self._signing.verify_key).hex()

    @classmethod
    def generate(cls) -> OperatorKey:
        """A new key from the kernel's random source."""
        return cls(bytes(nacl.signing.SigningKey.generate()))

    @classmethod
    def from_bytes(cls, content: bytes) -> OperatorKey:
        """The key in an operator key file's content.

        Raises:
            InputError: it is not one. The message never quotes the content.
        """
        line = content.removesuffix(b"\n")
        if not line.startswith(_FILE_PREFIX) or b"\n" in line:
            raise InputError("not an operator key file", hint="the file holds one line: meshbridge operator key v1 KEY")
        text = line.removeprefix(_FILE_PREFIX)
        try:
            seed = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            seed = b""
        if len(seed) != 32 or base64.b64encode(seed) != text:
            raise InputError("the operator key file is damaged", hint="restore operator.key from its backup")
        return cls(seed)

    def to_bytes(self) -> bytes:
        """The file's content. Secret: write it with `home.write_secret` only."""
        return _FILE_PREFIX + base64.b64encode(bytes(self._signing)) + b"\n"

    def sign(self, message: bytes) -> bytes:
        """64 bytes of signature over `message`."""
        return self._signing.sign(message).signature

    def __repr__(self) -> str:
        return f"OperatorKey({self.public})"
