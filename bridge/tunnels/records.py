"""Pure: TLS records in, plaintext out, on memory BIOs. No socket, and no idea of frames.

Rules: what was decrypted is handed on before any error or end that came after it, so that a peer's last words are
heard; a peer can make us work only in proportion to the plaintext it sends (C26: a KeyUpdate is 27 bytes and costs 15
to 30 µs, an empty record costs little and means nothing).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from bridge import limits
from bridge.errors import PeerError

_RECORD = 16 * limits.KIB
_SLICE = 32 * limits.KIB
"""Ciphertext looked at in one go: as KeyUpdates, 1,200 of them or about 30 ms."""
_EMPTY_MAX = 20 * limits.KIB
"""Ciphertext in a row that may yield nothing: a record is at most 16,645 bytes, the rest is for rare KeyUpdates."""
_OVERHEAD = 26
"""What the TLS 1.3 wrapping of one record may cost: 22 bytes; the rest pays for one KeyUpdate in seven records."""
_PLAIN = 256 * limits.KIB

_spare: list[memoryview] = []
"""Plaintext buffers not in use: one, unless a reader is called from within another."""


@dataclass(slots=True)
class TlsPipe:
    """An established TLS connection without its socket: ciphertext goes through `incoming` and `outgoing`."""

    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class RecordReader:
    """Decrypts what arrives and hands it to `receive(buffer, end)`, which says how much of `buffer[:end]` it used up.

    What it did not use, less than 64 KiB and a header, is offered again with what follows.
    """

    def __init__(self, pipe: TlsPipe, receive: Callable[[memoryview, int], int]) -> None:
        self._pipe = pipe
        self._receive = receive
        self._rest = b""
        self._empty = 0

    def feed(self, ciphertext: memoryview) -> None:
        """Act on `ciphertext`, and on what came with the end of the handshake.

        Raises:
            ssl.SSLZeroReturnError: the peer said goodbye (close_notify).
            ssl.SSLError: the records are broken, or the peer sent an alert.
            PeerError: records that carry nothing.
            Whatever `receive` raises.
        """
        plain = _spare.pop() if _spare else memoryview(bytearray(_PLAIN))
        try:
            have = len(self._rest)
            plain[:have] = self._rest
            at, size = 0, len(ciphertext)
            while True:
                stop = min(at + _SLICE, size)
                self._pipe.incoming.write(ciphertext[at:stop])
                have = self._decrypt(plain, have, stop - at)
                at = stop
                if at == size:
                    break
            self._rest = bytes(plain[:have]) if have else b""
        finally:
            _spare.append(plain)

    def _decrypt(self, plain: memoryview, have: int, taken: int) -> int:
        """Decrypt all that is there; how many bytes at the front of `plain` are left over."""
        pipe = self._pipe
        read: Callable[[int, memoryview], int] = pipe.tls.read  # type: ignore[assignment]
        incoming = pipe.incoming
        room = len(plain) - _RECORD
        failure: ssl.SSLError | None = None
        more = True
        while more:
            try:
                while have < room:
                    size = read(_RECORD, plain[have:])
                    if size == 0:
                        raise ssl.SSLZeroReturnError("the peer said goodbye")
                    have += size
                    taken -= size + _OVERHEAD
                    if not incoming.pending:  # nothing is left but perhaps a part of the next record
                        more = False
                        break
            except ssl.SSLWantReadError:
                more = False
            except ssl.SSLError as error:
                failure = error
                more = False
            if have:
                used = self._receive(plain, have)
                if used:
                    plain[: have - used] = plain[used:have]
                    have -= used
        if failure is not None:
            raise failure
        self._empty = max(0, self._empty + taken)
        if self._empty > _EMPTY_MAX:
            raise PeerError("the peer sends TLS records that carry nothing")
        return have
