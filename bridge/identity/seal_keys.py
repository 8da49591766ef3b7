"""Pure: a gateway's seal key, and credentials of agentless hosts that are sealed to it on an operator's machine.

What is sealed names its host: the private key of one host cannot be passed off as another's. libsodium's sealed boxes
(X25519, XSalsa20-Poly1305) by PyNaCl, as in `sealing`.
"""

from __future__ import annotations

import base64
import binascii

import nacl.exceptions
import nacl.public

from bridge import limits
from inventory.errors import InputError

_HEAD = b"meshbridge credential v1\n"


class GatewaySealKey:
    """Both halves. It never prints itself; `seal.key` holds `to_bytes()`."""

    __slots__ = ("_private", "public")

    def __init__(self, private: nacl.public.PrivateKey) -> None:
        self._private = private
        self.public = bytes(private.public_key).hex()
        """For others to seal to: 64 hex digits."""

    @classmethod
    def generate(cls) -> GatewaySealKey:
        return cls(nacl.public.PrivateKey.generate())

    @classmethod
    def from_bytes(cls, content: bytes) -> GatewaySealKey:
        """Raises InputError, which never quotes it."""
        try:
            return cls(nacl.public.PrivateKey(bytes.fromhex(content.decode("ascii").strip())))
        except (ValueError, TypeError, nacl.exceptions.CryptoError):
            raise InputError("it is not a seal key") from None

    def to_bytes(self) -> bytes:
        return (bytes(self._private).hex() + "\n").encode()

    def open(self, sealed: str, host: str) -> bytes:
        """The private key, in OpenSSH's format, that was sealed for `host`.

        Raises:
            InputError: it was sealed to another gateway or for another host; never quotes it.
        """
        try:
            if len(sealed) > limits.CREDENTIAL_MAX:
                raise ValueError
            plain = nacl.public.SealedBox(self._private).decrypt(base64.b64decode(sealed, validate=True))
        except (nacl.exceptions.CryptoError, binascii.Error, ValueError):
            hint = f"seal it again: meshbridge host add {host} --reach URL --via GATEWAY --key FILE"
            raise InputError("the credential was sealed to another key than this gateway's", hint=hint) from None
        head = _HEAD + host.encode() + b"\n"
        if not plain.startswith(head):
            raise InputError("the credential was sealed for another host")
        return plain[len(head) :]


def seal_credential(private_key: bytes, host: str, public: str) -> str:
    """A private key in OpenSSH's format, for the gateway with this public seal key alone; base64.

    Raises:
        InputError: that is no seal key.
    """
    try:
        box = nacl.public.SealedBox(nacl.public.PublicKey(bytes.fromhex(public)))
        sealed = box.encrypt(_HEAD + host.encode() + b"\n" + private_key)
    except (ValueError, TypeError, nacl.exceptions.CryptoError):
        raise InputError("nothing can be sealed to this key") from None
    return base64.b64encode(sealed).decode("ascii")
