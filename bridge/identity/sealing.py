"""Pure: the issuer's key on its way to another gateway, sealed so that only the one that asked can open it.

libsodium's sealed boxes (X25519, XSalsa20-Poly1305) by PyNaCl. The key pair is made for one enrolment and forgotten
with it; it is the new gateway's own, by the connection on which it also shows the token's secret.
"""

from __future__ import annotations

import nacl.exceptions
import nacl.public

from bridge import limits
from inventory.errors import InputError

PUBLIC_BYTES = nacl.public.PublicKey.SIZE


class SealKey:
    """The secret half, in memory only. It never prints itself."""

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        self._private = nacl.public.PrivateKey.generate()
        self.public = bytes(self._private.public_key)

    def open(self, sealed: bytes) -> str:
        """What was sealed to this key. Raises InputError, which never quotes it."""
        try:
            if len(sealed) > limits.SEALED_MAX_BYTES:
                raise InputError(f"a sealed key of {len(sealed)} bytes, at most {limits.SEALED_MAX_BYTES} are allowed")
            return nacl.public.SealedBox(self._private).decrypt(sealed).decode("ascii")
        except (nacl.exceptions.CryptoError, UnicodeDecodeError):
            raise InputError("the issuer's key cannot be opened: it was sealed to another key") from None


def seal(text: str, public: bytes) -> bytes:
    """`text` for the holder of the key `public` alone. Raises InputError when that is no key."""
    if len(public) != PUBLIC_BYTES:
        raise InputError(f"a key to seal to has {PUBLIC_BYTES} bytes, not {len(public)}")
    try:
        return nacl.public.SealedBox(nacl.public.PublicKey(public)).encrypt(text.encode("ascii"))
    except nacl.exceptions.CryptoError:
        raise InputError("nothing can be sealed to this key") from None
