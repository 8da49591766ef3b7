"""Pure: packets of an ssh connection under AES-GCM (RFC 5647), sealed and opened with as little work as possible.

It stands in the place of asyncssh's own object for the same cipher and gives the same bytes, which a test holds it to.
asyncssh makes a new cipher for each packet, sends an empty packet before each one, and copies each one six times: what
moves streams cannot afford that.
"""

from __future__ import annotations

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG = 16
LENGTH = 4
DATA = 94
"""SSH_MSG_CHANNEL_DATA."""
_BLOCK = 16
_PADDING_MIN = 4
_COUNTERS = 2**64
_LENGTH = struct.Struct(">I")
HEAD = struct.Struct(">BBII")
"""Padding length, message number, channel, length of the data: how a packet with data begins."""


class GcmPackets:
    """One direction, from one exchange of keys to the next."""

    __slots__ = ("_aes", "_counter", "_fixed", "ready")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aes = AESGCM(key)
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:], "big")
        self.ready: bytes | None = None
        """A packet that was opened already and that asyncssh is to have next."""

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % _COUNTERS
        return nonce

    def open(self, packet: memoryview) -> bytes:
        """What is in a whole packet: padding length, payload, padding. Raises InvalidTag."""
        return self._aes.decrypt(self._nonce(), packet[LENGTH:], packet[:LENGTH])

    def seal_data(self, channel: int, data: memoryview, most: int, out: list[bytes]) -> int:
        """Append packets that carry `data`, each `most` bytes of it at most; how many bytes they count as when keys
        are to be exchanged again."""
        counted = 0
        # Nobody can see or change padding under AES-GCM: all packets of one call may have the same.
        noise = os.urandom(_BLOCK + _PADDING_MIN)
        for start in range(0, len(data), most):
            part = data[start : start + most]
            padding = -(HEAD.size + len(part)) % _BLOCK
            if padding < _PADDING_MIN:
                padding += _BLOCK
            plain = b"".join((HEAD.pack(padding, DATA, channel, len(part)), part, noise[:padding]))
            length = _LENGTH.pack(len(plain))
            out.append(length)
            out.append(self._aes.encrypt(self._nonce(), plain, length))
            counted += len(plain)
        return counted

    # --- as asyncssh calls it ---------------------------------------------------------------------------------

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return header + self._aes.encrypt(self._nonce(), packet, header), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        """None: it is not what the other side sent."""
        ready, self.ready = self.ready, None
        if ready is not None:
            return ready
        try:
            return self.open(memoryview(first + rest + mac))
        except InvalidTag:
            return None
