"""Pure: whatever a client sends, `answer` never raises, never says more than it may, and never answers an answer."""

from __future__ import annotations

import struct

import dns.exception
import dns.message
from hypothesis import example, given
from hypothesis import strategies as st

from bridge import limits
from bridge.dns.addresses import AddressBook, parse_slice
from bridge.dns.answer import answer
from bridge.dns.zone import Zone

PORTS = {"web": 8080, "web.dc1": 8080, "x" * 63: 1}
BOOK = AddressBook(parse_slice("127.97.0.0/16")).assign(PORTS)
ZONE = Zone(domain="bridge.internal", book=BOOK, ports=PORTS, server=BOOK.server_address)
NOERROR, NXDOMAIN = 0, 3

labels = st.sampled_from([b"web", b"WEB", b"dc1", b"_web", b"_tcp", b"bridge", b"internal", b"97", b"127", b"arpa"])
names = st.lists(labels | st.binary(min_size=1, max_size=63), max_size=12).flatmap(
    lambda parts: st.sampled_from([b"", b"\x06bridge\x08internal", b"\x0297\x03127\x07in-addr\x04arpa"]).map(
        lambda end: b"".join(bytes([len(part)]) + part for part in parts) + end + b"\0"
    )
)
numbers = st.sampled_from([0, 1, 2, 12, 28, 33, 41, 250, 251, 252, 255, 65535]) | st.integers(0, 65535)
counts = st.sampled_from([(1, 0, 0, 0)] * 6 + [(1, 0, 0, 1)] * 3) | st.tuples(*[st.integers(0, 3)] * 4)
opt = st.builds(
    lambda size, ttl, data: b"\0" + struct.pack("!HHIH", 41, size, ttl, len(data)) + data,
    st.integers(0, 65535),
    st.sampled_from([0, 0x8000, 0x10000]) | st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
)
queries = st.builds(
    lambda ident, flags, many, name, kind, tail: struct.pack("!HHHHHH", ident, flags, *many) + name + kind + tail,
    st.integers(0, 65535),
    st.sampled_from([0, 0x0100, 0x0110]) | st.integers(0, 65535),
    counts,
    names,
    st.builds(lambda rdtype, rdclass: struct.pack("!HH", rdtype, rdclass), numbers, st.just(1) | numbers),
    st.just(b"") | opt | st.binary(max_size=60),
)
mangled = st.builds(
    lambda query, at, byte: query[: at % len(query)] + bytes([byte]) + query[at % len(query) + 1 :],
    queries,
    st.integers(0, 600),
    st.integers(0, 255),
)


def check(query: bytes, zone: Zone | None, transport: str) -> None:
    reply = answer(zone, query, transport)  # type: ignore[arg-type]
    if len(query) < 12 or query[2] & 0x80:
        assert reply is None
        return
    assert reply is not None and reply[:2] == query[:2] and reply[2] & 0x80
    assert len(reply) <= (limits.DNS_UDP_MAX if transport == "udp" else 65535)
    rcode = reply[3] & 0xF
    if rcode not in (NOERROR, NXDOMAIN):
        assert len(reply) <= len(query) and reply[4:6] in (b"\0\0", b"\0\1") and reply[6:10] == bytes(4)
    assert answer(zone, reply, "udp") is None
    try:
        dns.message.from_wire(reply)
    except dns.exception.DNSException as exc:
        # dnspython has its own opinion on a reply to an UPDATE, which is a header without its sections.
        assert query[2] & 0x78, exc


@given(
    queries | mangled | st.binary(max_size=300), st.sampled_from(["udp", "tcp"]), st.sampled_from([ZONE, ZONE, None])
)
@example(b"\0" * 12, "udp", ZONE)
@example(b"\0\1\0\0\0\1\0\0\0\0\0\0" + b"\xc0\x0c\0\1\0\1", "udp", ZONE)
def test_h28_no_query_can_make_the_server_raise_or_say_too_much(
    query: bytes, transport: str, zone: Zone | None
) -> None:
    check(query, zone, transport)


@given(queries)
def test_c39_no_answer_is_ever_answered(query: bytes) -> None:
    assert answer(ZONE, query[:2] + bytes([query[2] | 0x80]) + query[3:], "udp") is None


@given(st.text("WEBwebB", min_size=3, max_size=3), st.text("BRIDGEbridge", min_size=6, max_size=6))
def test_c02_case_never_matters_and_always_comes_back(service: str, domain: str) -> None:
    wire = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0)
    wire += b"\x03" + service.encode() + b"\x06" + domain.encode() + b"\x08internal\0\0\1\0\1"
    lower = wire[:12] + wire[12:].lower()
    reply, plain = answer(ZONE, wire, "udp"), answer(ZONE, lower, "udp")
    assert reply is not None and plain is not None
    assert reply[12 : len(wire)] == wire[12:], "the question comes back letter for letter"
    assert reply[len(wire) :] == plain[len(wire) :] and reply[:12] == plain[:12]
