"""Pure: what is read from a query's bytes, and what is not."""

from __future__ import annotations

import struct

import dns.message
import pytest

from bridge import limits
from bridge.dns.query import Edns, MalformedQueryError, Query, read_query

NAME = b"\x03Web\x06bridge\x08internal\0"
HEADER = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0)


def test_a_query_is_read_as_it_was_sent() -> None:
    wire = dns.message.make_query("Web.bridge.internal", "SRV", use_edns=0, payload=4000, want_dnssec=True).to_wire()
    assert read_query(wire) == Query(
        name=(b"Web", b"bridge", b"internal"),
        question=NAME + b"\0\x21\0\x01",
        rdtype=33,
        rdclass=1,
        edns=Edns(payload=4000, version=0, dnssec_ok=True),
    )


def test_the_root_is_a_name_without_labels() -> None:
    asked = read_query(HEADER + b"\0\0\x02\0\x01")
    assert (asked.name, asked.rdtype, asked.edns) == ((), 2, None)


def test_the_authority_record_of_a_transfer_query_is_stepped_over() -> None:
    soa = b"\xc0\x0c" + struct.pack("!HHIH", 6, 1, 0, 22) + bytes(22)
    counts = struct.pack("!HHHHHH", 7, 0, 1, 0, 1, 0)
    assert read_query(counts + NAME + b"\0\xfb\0\x01" + soa).rdtype == 251
    written_out = NAME + soa[2:]
    assert read_query(counts + NAME + b"\0\xfb\0\x01" + written_out).rdtype == 251
    for wrong in (NAME + b"\0\x01\0\x01" + soa, NAME + b"\0\xfb\0\x01" + soa[:-1], NAME + b"\0\xfb\0\x01\x80" + soa):
        with pytest.raises(MalformedQueryError):
            read_query(counts + wrong)


def test_c41_nothing_longer_than_the_limit_is_looked_at() -> None:
    with pytest.raises(MalformedQueryError):
        read_query(HEADER + NAME + b"\0\x01\0\x01" + bytes(limits.DNS_QUERY_MAX))


@pytest.mark.parametrize("name", [b"\xc0\x0c", b"\x40" + b"a" * 64 + b"\0", b"\x01a" * 128 + b"\0", b"\x05abc", b""])
def test_h28_names_that_are_not_written_out_are_malformed(name: bytes) -> None:
    with pytest.raises(MalformedQueryError):
        read_query(HEADER + name + b"\0\x01\0\x01")
