"""Pure: (but for fresh keys) the client's side of an SSH key exchange: RFC 4253, up to the proof of the host key.

Only for checks: no session comes of it, nothing is ever encrypted with what was agreed, and no secret is at stake. So
it also knows algorithms that no session of ours would use without an allowance, and says that the target has nothing
else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils, x25519

from agents.checks.answers import Failed, sample
from bridge import limits
from inventory.names import shown

_VERSION = b"SSH-2.0-meshbridge_check"
_DISCONNECT, _IGNORE, _UNIMPLEMENTED, _DEBUG, _KEXINIT, _KEX_FIRST, _KEX_REPLY = 1, 2, 3, 4, 20, 30, 31
_BY_APPLICATION = 11
_LINE_MAX = 255
_LINES_MAX = 50
"""Lines that may come before the version; RFC 4253, 4.2 names no number."""
_PACKET_MAX = 35000
"""RFC 4253, 6.1."""
_EXPONENT_BYTES = 64

Secret = Callable[[bytes], bytes]
"""What both know then, from the server's answer. Raises ValueError: the answer cannot be."""
Begin = Callable[[], tuple[bytes, Secret]]
"""Makes a fresh key; our public half as it is sent."""
_NOT_NOW = (b"Not allowed at this time", b"Exceeded MaxStartups")


@dataclass(frozen=True, slots=True)
class _Kex:
    digest: str
    begin: Begin
    old: bool = False


def _curve25519() -> tuple[bytes, Secret]:
    mine = x25519.X25519PrivateKey.generate()

    def secret(theirs: bytes) -> bytes:
        return mine.exchange(x25519.X25519PublicKey.from_public_bytes(theirs))

    return _string(mine.public_key().public_bytes_raw()), secret


def _nist(curve: ec.EllipticCurve) -> Begin:
    def begin() -> tuple[bytes, Secret]:
        mine = ec.generate_private_key(curve)
        form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint

        def secret(theirs: bytes) -> bytes:
            return mine.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(curve, theirs))

        return _string(mine.public_key().public_bytes(*form)), secret

    return begin


@functools.cache
def _prime(bits: int, offset: int) -> int:
    """As RFC 2409 (6.2) and RFC 3526 define their primes: 2^n - 2^(n-64) - 1 + 2^64 * ([2^(n-130) pi] + offset)."""
    return (1 << bits) - (1 << bits - 64) - 1 + (_pi(bits - 130) + offset << 64)


def _pi(bits: int) -> int:
    """[2^bits * pi], by Machin's formula, with bits to spare for what its divisions round away."""
    spare = 64

    def arctan_of_one_by(number: int) -> int:
        term = total = (1 << (bits + spare)) // number
        divisor, sign = 3, -1
        while term:
            term //= number * number
            total += sign * (term // divisor)
            divisor, sign = divisor + 2, -sign
        return total

    return 4 * (4 * arctan_of_one_by(5) - arctan_of_one_by(239)) >> spare


def _group(bits: int, offset: int) -> Begin:
    def begin() -> tuple[bytes, Secret]:
        prime, mine = _prime(bits, offset), int.from_bytes(os.urandom(_EXPONENT_BYTES))

        def secret(theirs: bytes) -> bytes:
            number = int.from_bytes(theirs)
            if not 1 < number < prime - 1:
                raise ValueError("a number that is none of the group's")
            shared = pow(number, mine, prime)
            return shared.to_bytes((shared.bit_length() + 7) // 8)

        return _mpint(pow(2, mine, prime).to_bytes(bits // 8)), secret

    return begin


_KEX = {
    "curve25519-sha256": _Kex("sha256", _curve25519),
    "curve25519-sha256@libssh.org": _Kex("sha256", _curve25519),
    "ecdh-sha2-nistp256": _Kex("sha256", _nist(ec.SECP256R1())),
    "ecdh-sha2-nistp384": _Kex("sha384", _nist(ec.SECP384R1())),
    "ecdh-sha2-nistp521": _Kex("sha512", _nist(ec.SECP521R1())),
    "diffie-hellman-group16-sha512": _Kex("sha512", _group(4096, 240904)),
    "diffie-hellman-group14-sha256": _Kex("sha256", _group(2048, 124476)),
    "diffie-hellman-group14-sha1": _Kex("sha1", _group(2048, 124476), old=True),
    "diffie-hellman-group1-sha1": _Kex("sha1", _group(1024, 129093), old=True),
}
"""In our order of preference."""
_HOST_KEYS = (
    *("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    *("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"),
)
_CIPHERS = (
    *("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"),
    *("aes128-ctr", "aes192-ctr", "aes256-ctr", "aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"),
)
_MACS = (
    *("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha1-etm@openssh.com"),
    *("hmac-sha2-256", "hmac-sha2-512", "hmac-sha1", "hmac-md5"),
)
_COMPRESSION = ("none", "zlib@openssh.com", "zlib")
_LISTS = (tuple(_KEX), _HOST_KEYS, _CIPHERS, _CIPHERS, _MACS, _MACS, _COMPRESSION, _COMPRESSION, (), ())
"""The ten lists of a KEXINIT. Of what follows the key exchange nothing is used, but a server without a word in common
would end the connection first."""


class Exchange:
    """Feed it what the server says; it gives what to answer.

    Raises (from `feed`):
        Failed: this is no sshd that proves who it is; the text is the reason.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines = self._packets = 0
        self._theirs = b""
        """Its version line; empty until it came."""
        self._our_init = bytes((_KEXINIT,)) + os.urandom(16) + b"".join(map(_names, _LISTS)) + bytes(5)
        self._their_init = b""
        self._kex = self._key_type = ""
        self._sent = b""
        """Our public value as it goes into the hash."""
        self._secret: Secret | None = None
        self._skip = False
        """The next packet is a guess of the server's that was wrong."""
        self.host_key: str | None = None
        """`SHA256:…` once it is proved."""

    @property
    def note(self) -> str:
        old = [name for name in (self._kex, self._key_type) if name == "ssh-rsa" or (name in _KEX and _KEX[name].old)]
        return f"it has only old algorithms: {', '.join(old)}" if old else ""

    @property
    def reached(self) -> str:
        return f"its version is {sample(self._theirs)}" if self._theirs else ""

    def ended(self) -> Failed:
        """The server has closed."""
        if self._theirs:
            return Failed(f"{self.reached}, then it closed in the middle of the key exchange")
        return Failed(f"it closed, after {sample(bytes(self._buffer))}" if self._buffer else "it closed without a word")

    def feed(self, data: bytes) -> bytes:
        self._buffer += data
        out = b""
        while not self._theirs:
            end = self._buffer.find(b"\n")
            if end < 0 and len(self._buffer) <= _LINE_MAX:
                return out
            if end < 0 or end > _LINE_MAX:
                raise Failed(f"it does not speak SSH: {sample(bytes(self._buffer))}")
            out += self._line(bytes(self._buffer[:end]).removesuffix(b"\r"))
            del self._buffer[: end + 1]
        while self.host_key is None and (payload := self._packet()) is not None:
            out += self._message(payload)
        return out

    def _line(self, line: bytes) -> bytes:
        self._lines += 1
        if line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
            self._theirs = line
            return _VERSION + b"\r\n" + _framed(self._our_init)
        if line.startswith(b"SSH-"):
            raise Failed(f"it speaks only an SSH before 2.0: {sample(line)}")
        if line.startswith(_NOT_NOW):
            raise Failed(f"sshd refuses our address for now (PerSourcePenalties or MaxStartups): {sample(line)}")
        if self._lines > _LINES_MAX:
            raise Failed(f"it does not speak SSH: {sample(line)}")
        return b""

    def _packet(self) -> bytes | None:
        if len(self._buffer) < 5:
            return None
        size, padding = int.from_bytes(self._buffer[:4]), self._buffer[4]
        if not 5 <= size <= _PACKET_MAX or padding > size - 2:
            raise Failed(f"{self.reached}, then a packet of {size} bytes with {padding} of padding")
        if len(self._buffer) < 4 + size:
            return None
        self._packets += 1
        if self._packets > limits.CHECK_SSH_PACKETS:
            raise Failed(f"{self.reached}, then more than {limits.CHECK_SSH_PACKETS} packets")
        payload = bytes(self._buffer[5 : 4 + size - padding])
        del self._buffer[: 4 + size]
        return payload

    def _message(self, payload: bytes) -> bytes:
        kind = payload[0]
        try:
            if kind == _DISCONNECT:
                words = _Reader(payload[5:]).string()
                raise Failed(f"it disconnects: {sample(words)}")
            if kind == _KEXINIT and not self._their_init:
                return self._agree(payload)
            if kind >= _KEX_FIRST and self._skip:
                self._skip = False
                return b""
            if kind == _KEX_REPLY and self._secret is not None:
                self._prove(_Reader(payload[1:]), self._secret)
                return b""
        except _Short:
            raise Failed(f"{self.reached}, then a message {kind} that ends too early") from None
        if kind in (_IGNORE, _UNIMPLEMENTED, _DEBUG):
            return b""
        raise Failed(f"{self.reached}, then a message {kind} that does not belong there")

    def _agree(self, payload: bytes) -> bytes:
        """RFC 4253, 7.1: of each list, the first of ours that is among theirs."""
        reader = _Reader(payload[17:])
        theirs = [reader.string().decode("latin-1").split(",") for _ in _LISTS]
        for what, ours, offered in zip(("key exchange", "host key", "cipher"), _LISTS[:3], theirs[:3], strict=True):
            if not set(ours) & set(offered):
                raise Failed(f"no {what} in common: it offers {shown(', '.join(offered))}")
        self._kex, self._key_type = (next(name for name in _LISTS[index] if name in theirs[index]) for index in (0, 1))
        guessed = bool(reader.take(1)[0])
        self._skip = guessed and (theirs[0][0], theirs[1][0]) != (self._kex, self._key_type)
        self._their_init = payload
        self._sent, self._secret = _KEX[self._kex].begin()
        return _framed(bytes((_KEX_FIRST,)) + self._sent)

    def _prove(self, reader: _Reader, secret: Secret) -> None:
        blob, answer, signature = reader.string(), reader.string(), reader.string()
        try:
            shared = _mpint(secret(answer))
        except ValueError as exc:
            raise Failed(f"{self.reached}, then a bad key exchange: {shown(str(exc))[1:-1]}") from None
        agreed = map(_string, (_VERSION, self._theirs, self._our_init, self._their_init, blob))
        # Of a group the answer is a number, of a curve a string; both have the same form on the wire.
        data = b"".join(agreed) + self._sent + _string(answer) + shared
        exchange_hash = hashlib.new(_KEX[self._kex].digest, data).digest()
        if not _is_signed(self._key_type, blob, signature, exchange_hash):
            raise Failed(f"{self.reached}, but it does not prove its host key")
        self.host_key = "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def _is_signed(key_type: str, blob: bytes, signature: bytes, data: bytes) -> bool:
    try:
        reader = _Reader(signature)
        made_with, value = reader.string(), reader.string()
        if made_with != key_type.encode("ascii"):
            return False
        stored = "ssh-rsa" if key_type.startswith("rsa-") else key_type
        key = serialization.load_ssh_public_key(stored.encode("ascii") + b" " + base64.b64encode(blob))
        match key:
            case ed25519.Ed25519PublicKey():
                key.verify(value, data)
            case ec.EllipticCurvePublicKey():
                numbers = _Reader(value)
                der = utils.encode_dss_signature(int.from_bytes(numbers.string()), int.from_bytes(numbers.string()))
                key.verify(der, data, ec.ECDSA(_HASH_OF_CURVE[key.curve.name]))
            case rsa.RSAPublicKey():
                key.verify(value, data, padding.PKCS1v15(), _HASH_OF_RSA[key_type])
            case _:
                return False
    except (_Short, InvalidSignature, UnsupportedAlgorithm, ValueError, KeyError):
        return False
    return True


_HASH_OF_CURVE = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
_HASH_OF_RSA = {"rsa-sha2-512": hashes.SHA512(), "rsa-sha2-256": hashes.SHA256(), "ssh-rsa": hashes.SHA1()}  # noqa: S303  (a proof of one exchange, for servers that know nothing else)


# --- RFC 4251, 5 --------------------------------------------------------------------------------------------------


class _Short(Exception):
    """A message ends before its fields do."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _Short
        self._at += size
        return self._data[self._at - size : self._at]

    def string(self) -> bytes:
        return self.take(int.from_bytes(self.take(4)))


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _names(names: tuple[str, ...]) -> bytes:
    return _string(",".join(names).encode("ascii"))


def _mpint(number: bytes) -> bytes:
    """Of a positive number's bytes, whatever zeros lead them."""
    number = number.lstrip(b"\0")
    return _string(b"\0" + number if number[:1] >= b"\x80" else number)


def _framed(payload: bytes) -> bytes:
    """A packet as it is before there are keys: whole blocks of 8, at least 4 of them padding."""
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


GOODBYE = _framed(struct.pack(">BI", _DISCONNECT, _BY_APPLICATION) + _string(b"check done") + _string(b""))
