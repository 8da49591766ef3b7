"""Pure: a DNS query's bytes in, the answer's bytes out. The whole protocol is here, and nothing waits.

Silence (None) for what is not a query: fewer bytes than a header, or an answer (C39: an answer is never answered, so
two servers can never talk to each other for ever). Otherwise:

    FORMERR   not exactly one question, records that no query has, anything undecodable
    NOTIMP    another opcode than QUERY
    REFUSED   outside the zone, another class than IN, zone transfers and other meta types
    SERVFAIL  there is no zone yet
    BADVERS   EDNS of a version that does not exist yet
    NXDOMAIN  no such name; an existing name without that type is NOERROR and empty, both with the SOA

Over UDP a refusal is never longer than its query plus an EDNS header, and padding is never granted (H28).

An answer has at most one record, whose owner stands in the question, so the message is put together here and dnspython
writes only the record's data: its name compression takes 5 ms for a name of 121 labels (measured), and anyone can ask
for one. This way no query costs more than 0.1 ms.
Sources: RFC 1035, 2308 (negative answers), 6891 (EDNS), 8020 (NXDOMAIN), 8482 (ANY).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal, NamedTuple

import dns.name
import dns.rdata
from dns import rdatatype
from dns.flags import CD, RD
from dns.rcode import BADVERS, FORMERR, NOERROR, NOTIMP, NXDOMAIN, REFUSED, SERVFAIL
from dns.rdataclass import IN
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.SOA import SOA
from dns.rdtypes.IN.A import A
from dns.rdtypes.IN.SRV import SRV

from bridge import limits
from bridge.dns.query import HEADER, OPCODE, QR, MalformedQueryError, Query, read_query
from bridge.dns.zone import Found, Labels, Node, Zone, labels_of

Transport = Literal["udp", "tcp"]

_UDP_PLAIN_MAX = 512
"""What a client that sends no EDNS can take over UDP (RFC 1035 section 4.2.1)."""
_TCP_MAX = 65535
_AA, _TC = 0x0400, 0x0200
_DNSSEC_OK = 0x8000
_POINTER = 0xC000
_META_TYPES = range(128, 256)
"""Types that are questions or instructions, not data (RFC 6895 section 3.1): TSIG, IXFR, AXFR, MAILA, ANY, …"""
_RECORD = struct.Struct("!HHHIH")
"""Owner (a pointer into the question), type, class, TTL, length of the data."""
_OPT_RECORD = struct.Struct("!BHHIH")

_NOBODY = dns.name.from_text("nobody.invalid.")
"""There is nobody to write to about this zone (RFC 6303 says so in the same way)."""
_REFRESH, _RETRY, _EXPIRE = 3600, 1200, 604800
"""SOA timers for secondaries, which do not exist; the values of RFC 6303."""

_Make = Callable[..., dns.rdata.Rdata]
# dnspython's record classes have untyped constructors; here they get the one thing that matters of their type.
_A: _Make = A
_SRV: _Make = SRV
_PTR: _Make = PTR
_NS: _Make = NS
_SOA: _Make = SOA


class _Reply(NamedTuple):
    """What is to be said: one record in the answer, or the SOA in the authority section, or neither."""

    rcode: int
    flags: int = 0
    answer: bytes = b""
    authority: bytes = b""


def answer(zone: Zone | None, query: bytes, transport: Transport) -> bytes | None:
    """The bytes to send back, or None to stay silent. Never raises, whatever `query` holds.

    Args:
        zone: what is known now; None when nothing is known yet.
    """
    if len(query) < HEADER.size:
        return None
    ident, flags, *_ = HEADER.unpack_from(query)
    if flags & QR:
        return None
    if flags & OPCODE:
        return _bare(ident, flags, NOTIMP)
    try:
        asked = read_query(query)
    except MalformedQueryError:
        return _bare(ident, flags, FORMERR)
    reply = _reply_to(zone, asked)
    message = _message(ident, flags, asked, reply)
    if len(message) > (_TCP_MAX if transport == "tcp" else _udp_size(asked)):
        return _message(ident, flags, asked, _Reply(reply.rcode, reply.flags | _TC))
    return message


def _bare(ident: int, flags: int, rcode: int) -> bytes:
    """A header and nothing else: as short as an answer can be."""
    return HEADER.pack(ident, QR | flags & (OPCODE | RD) | rcode, 0, 0, 0, 0)


def _udp_size(query: Query) -> int:
    if query.edns is None:
        return _UDP_PLAIN_MAX
    return min(max(query.edns.payload, _UDP_PLAIN_MAX), limits.DNS_UDP_MAX)


def _message(ident: int, flags: int, query: Query, reply: _Reply) -> bytes:
    """`reply` behind the question, letter for letter, and before EDNS if the client has it."""
    opt = b""
    if query.edns is not None:
        extended = (reply.rcode >> 4) << 24 | (_DNSSEC_OK if query.edns.dnssec_ok else 0)
        opt = _OPT_RECORD.pack(0, rdatatype.OPT, limits.DNS_UDP_MAX, extended, 0)
    out = QR | flags & (RD | CD) | reply.flags | reply.rcode & 0xF
    header = HEADER.pack(ident, out, 1, bool(reply.answer), bool(reply.authority), bool(opt))
    return header + query.question + reply.answer + reply.authority + opt


def _reply_to(zone: Zone | None, query: Query) -> _Reply:
    if query.edns is not None and query.edns.version > 0:
        return _Reply(BADVERS)
    if query.rdtype in (rdatatype.NONE, rdatatype.OPT):
        return _Reply(FORMERR)
    if query.rdclass != IN or (query.rdtype in _META_TYPES and query.rdtype != rdatatype.ANY):
        return _Reply(REFUSED)
    if zone is None:
        return _Reply(SERVFAIL)
    found = zone.lookup(tuple(label.lower() for label in query.name))
    if found is None:
        return _Reply(REFUSED)
    return _reply_with(zone, query, found)


def _reply_with(zone: Zone, query: Query, found: Found) -> _Reply:
    if found.node is not None:
        # ANY gets one record, not all (RFC 8482 section 4.1).
        for record in _records(found.node, zone):
            if query.rdtype in (record.rdtype, rdatatype.ANY):
                return _Reply(NOERROR, _AA, answer=_encoded(record, above=(), ttl=zone.ttl))
    above = query.name[: len(query.name) - len(found.apex)]
    nothing = _encoded(_soa(zone), above=above, ttl=zone.negative_ttl)
    return _Reply(NXDOMAIN if found.node is None else NOERROR, _AA, authority=nothing)


def _encoded(record: dns.rdata.Rdata, *, above: Labels, ttl: int) -> bytes:
    """A record whose owner is the question's name without the labels `above`."""
    owner = HEADER.size + sum(1 + len(label) for label in above)
    data = record.to_digestable()  # names written out in full
    return _RECORD.pack(_POINTER | owner, record.rdtype, IN, ttl, len(data)) + data


def _records(node: Node, zone: Zone) -> list[dns.rdata.Rdata]:
    records: list[dns.rdata.Rdata] = []
    if node.address is not None:
        records.append(_A(IN, rdatatype.A, node.address))
    if node.port is not None:
        records.append(_SRV(IN, rdatatype.SRV, 0, 0, node.port.port, _name(labels_of(node.port.target))))
    if node.pointer is not None:
        records.append(_PTR(IN, rdatatype.PTR, _name(labels_of(node.pointer))))
    if node.is_apex:
        records.append(_soa(zone))
        records.append(_NS(IN, rdatatype.NS, _name(zone.apex)))
    return records


def _soa(zone: Zone) -> dns.rdata.Rdata:
    """Who speaks for the zone: the zone's own apex, which has the server's address."""
    serial = zone.serial & 0xFFFFFFFF
    return _SOA(IN, rdatatype.SOA, _name(zone.apex), _NOBODY, serial, _REFRESH, _RETRY, _EXPIRE, zone.negative_ttl)


def _name(labels: Labels) -> dns.name.Name:
    return dns.name.Name((*labels, b""))
