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
_HEADER = 5
_RECORDS_AT_ONCE = 16
"""Whole records decrypted before they are looked at: 256 KiB of data, or as KeyUpdates a millisecond."""
_EMPTY_MAX = 20 * limits.KIB
"""Ciphertext in a row that may yield nothing: a record is at most 16,645 bytes, the rest is for rare KeyUpdates."""
_RECORD_COST = 64
"""What a record counts besides its bytes: some 200 KeyUpdates in a row end the tunnel, 20 ms when each is answered."""
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
        self._early = pipe.incoming.read()
        """What came together with the end of the handshake: taken back, so that it is measured as everything else."""
        self._rest = b""
        self._empty = 0
        self._begun = 0
        """Bytes that are there of a record of which more is to come."""
        self._head = b""
        """Its header, as far as it is there."""

    def feed(self, ciphertext: memoryview) -> None:
        """Act on `ciphertext`, and on what came with the end of the handshake.

        Raises:
            ssl.SSLZeroReturnError: the peer said goodbye (close_notify).
            ssl.SSLError: the records are broken, or the peer sent an alert.
            PeerError: records that carry nothing.
            Whatever `receive` raises.
        """
        if self._early:
            ciphertext, self._early = memoryview(self._early + ciphertext), b""
        plain = _spare.pop() if _spare else memoryview(bytearray(_PLAIN))
        try:
            have = len(self._rest)
            plain[:have] = self._rest
            at, size = 0, len(ciphertext)
            while True:
                stop, records = self._measure(ciphertext, at)
                self._pipe.incoming.write(ciphertext[at:stop])
                have = self._decrypt(plain, have, stop - at + records * _RECORD_COST)
                at = stop
                if at == size:
                    break
            self._rest = bytes(plain[:have]) if have else b""
        finally:
            _spare.append(plain)

    def _measure(self, data: memoryview, at: int) -> tuple[int, int]:
        """How far `data` goes from `at` with _RECORDS_AT_ONCE records or fewer, and how many end there. Knowing where
        records end saves asking for one that is not whole yet, whose answer is an exception."""
        size = len(data)
        if not self._begun and size - at >= _HEADER and at + _HEADER + (data[at + 3] << 8 | data[at + 4]) == size:
            return size, 1  # one record is what most reads bring
        records = 0
        begin, at = at, at - self._begun
        while True:
            head = self._head + bytes(data[begin : begin + _HEADER]) if at < begin else data[at : at + _HEADER]
            if len(head) < _HEADER:
                stop = size + 1
            else:
                stop = at + _HEADER + (head[3] << 8 | head[4])
            if stop > size:
                self._begun = size - at
                self._head = bytes(head[:_HEADER])
                return size, records
            records += 1
            at = stop
            if records == _RECORDS_AT_ONCE:
                self._begun = 0
                self._head = b""
                return at, records

    def _decrypt(self, plain: memoryview, have: int, taken: int) -> int:
        """Decrypt all that is whole; how many bytes at the front of `plain` are left over."""
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
                    taken -= size + _OVERHEAD + _RECORD_COST
                    if incoming.pending <= self._begun:  # nothing is left but perhaps a part of the next record
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
