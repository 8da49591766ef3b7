"""Pure: what one DNS query asks, read from its bytes in one pass.

dnspython is not asked to read what strangers send: a 4 KiB query stuffed with EDNS options or odd records costs it 10
to 30 ms (measured), a hundred times an honest one. Here nothing is decoded but the question and the fixed part of the
OPT record; everything else is stepped over by its length, and pointers are never followed, so no packet costs more than
its labels. Sources: RFC 1035 section 4.1, RFC 6891 section 6.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bridge import limits
from bridge.dns.zone import Labels

HEADER = struct.Struct("!HHHHHH")
QR = 0x8000
OPCODE = 0x7800
IXFR = 251
_OPT = 41
_QUESTION_TAIL = struct.Struct("!HH")
_RECORD_TAIL = struct.Struct("!HHIH")
"""Type, class, TTL, length of the data."""
_NAME_MAX = 255
_LABEL_MAX = 63
_POINTER = 0xC0


class MalformedQueryError(Exception):
    """Not a query that can be answered with anything but FORMERR."""


@dataclass(frozen=True, slots=True)
class Edns:
    """The fixed part of a query's OPT record."""

    payload: int
    """Bytes of UDP that the client says it can take; anything from 0 to 65535."""
    version: int
    dnssec_ok: bool


@dataclass(frozen=True, slots=True)
class Query:
    name: Labels
    """As sent, in the client's own mixture of cases (draft-vixie-dnsext-dns0x20)."""
    question: bytes
    """The question section's bytes, to be sent back as they came."""
    rdtype: int
    rdclass: int
    edns: Edns | None


def read_query(wire: bytes) -> Query:
    """The question and EDNS of a message whose header the caller has looked at.

    Raises:
        MalformedQueryError: too long, cut short, trailing bytes, not one question, or records no query has.
    """
    if not HEADER.size <= len(wire) <= limits.DNS_QUERY_MAX:
        raise MalformedQueryError
    _, _, questions, answers, authorities, additionals = HEADER.unpack_from(wire)
    if questions != 1 or answers or authorities > 1 or additionals > 1:
        raise MalformedQueryError
    try:
        name, at = _read_name(wire, HEADER.size)
        rdtype, rdclass = _QUESTION_TAIL.unpack_from(wire, at)
        at += _QUESTION_TAIL.size
        question = wire[HEADER.size : at]
        if authorities:
            if rdtype != IXFR:
                raise MalformedQueryError
            at = _skip_record(wire, at)
        edns = None
        if additionals:
            edns = _read_opt(wire, at)
            at = _skip_record(wire, at)
    except (IndexError, struct.error):
        raise MalformedQueryError from None
    if at != len(wire):
        raise MalformedQueryError
    return Query(name, question, rdtype, rdclass, edns)


def _read_name(wire: bytes, at: int) -> tuple[Labels, int]:
    """A name written out in full, and where it ends. A question has nothing before it that it could point to."""
    labels = []
    start = at
    while length := wire[at]:
        if length > _LABEL_MAX:
            raise MalformedQueryError
        labels.append(wire[at + 1 : at + 1 + length])
        at += 1 + length
        if at - start >= _NAME_MAX:
            raise MalformedQueryError
    return tuple(labels), at + 1


def _read_opt(wire: bytes, at: int) -> Edns:
    """The one additional record that a query may have: OPT, which belongs to the root."""
    rdtype, payload, extended, _ = _RECORD_TAIL.unpack_from(wire, at + 1)
    if wire[at] != 0 or rdtype != _OPT:
        raise MalformedQueryError
    return Edns(payload, version=extended >> 16 & 0xFF, dnssec_ok=bool(extended & 0x8000))


def _skip_record(wire: bytes, at: int) -> int:
    """Where the record at `at` ends; names in it are stepped over, never followed."""
    while (length := wire[at]) and length < _POINTER:
        if length > _LABEL_MAX:
            raise MalformedQueryError
        at += 1 + length
    at += 1 if length == 0 else 2
    data_length = _RECORD_TAIL.unpack_from(wire, at)[3]
    return at + int(_RECORD_TAIL.size + data_length)
