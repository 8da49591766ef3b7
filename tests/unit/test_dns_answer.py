"""Pure: queries in bytes, answers in bytes; dnspython, which does not write our messages, reads them."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest

from bridge import limits
from bridge.dns.addresses import AddressBook, parse_slice
from bridge.dns.answer import answer
from bridge.dns.zone import Zone

PORTS = {"web": 8080, "web.dc1": 8080}
BOOK = AddressBook(parse_slice("127.97.0.0/16")).assign(PORTS)
ZONE = Zone(domain="bridge.internal", book=BOOK, ports=PORTS, server=BOOK.server_address, serial=7)
WEB = BOOK.assigned["web"]


def query(name: str, rdtype: str = "A", **more: object) -> bytes:
    return dns.message.make_query(name, rdtype, id=0x1234, **more).to_wire()  # type: ignore[arg-type]


def ask(wire: bytes, zone: Zone | None = ZONE, transport: str = "udp") -> dns.message.Message:
    """The answer, which has to be one to exactly this query."""
    reply = answer(zone, wire, transport)  # type: ignore[arg-type]
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert message.id == struct.unpack_from("!H", wire)[0]
    assert message.flags & dns.flags.QR and not message.flags & dns.flags.RA
    return message


def raw(
    name: bytes, rdtype: int = 1, rdclass: int = 1, *, flags: int = 0, counts: tuple[int, ...] = (1, 0, 0, 0)
) -> bytes:
    return struct.pack("!HHHHHH", 0x1234, flags, *counts) + name + struct.pack("!HH", rdtype, rdclass)


def rcode(wire: bytes, zone: Zone | None = ZONE) -> str:
    """The answer's code, and that it is no longer than the query when it says no."""
    reply = answer(zone, wire, "udp")
    assert reply is not None and len(reply) <= max(len(wire), 12)
    return dns.rcode.to_text(dns.message.from_wire(reply).rcode())


def test_an_address_is_answered_with_authority_and_a_short_life() -> None:
    reply = ask(query("web.bridge.internal"))
    assert reply.rcode() == dns.rcode.NOERROR and reply.flags & dns.flags.AA
    assert [str(rrset) for rrset in reply.answer] == [f"web.bridge.internal. {limits.DNS_TTL} IN A {WEB}"]
    assert not reply.authority and not reply.additional


def test_srv_and_ptr_and_the_apex_are_answered() -> None:
    srv = ask(query("_web._tcp.bridge.internal", "SRV"))
    assert str(srv.answer[0]).endswith("IN SRV 0 0 8080 web.bridge.internal.")
    pointer = ".".join(reversed(WEB.split("."))) + ".in-addr.arpa"
    assert str(ask(query(pointer, "PTR")).answer[0]).endswith("IN PTR web.bridge.internal.")
    assert str(ask(query("bridge.internal", "NS")).answer[0]).endswith("IN NS bridge.internal.")
    assert str(ask(query("bridge.internal", "A")).answer[0]).endswith("IN A 127.97.0.1")
    soa = ask(query("bridge.internal", "SOA")).answer[0]
    assert str(soa).split()[4:7] == ["bridge.internal.", "nobody.invalid.", "7"]


@pytest.mark.parametrize("rdtype", ["AAAA", "TXT", "MX", "HTTPS", "CNAME", "DS"])
def test_another_type_of_a_known_name_is_no_data_and_no_error(rdtype: str) -> None:
    reply = ask(query("web.bridge.internal", rdtype))
    assert reply.rcode() == dns.rcode.NOERROR and not reply.answer
    assert str(reply.authority[0]).startswith(f"bridge.internal. {limits.DNS_NEGATIVE_TTL} IN SOA")


def test_an_unknown_name_is_nxdomain_with_a_low_negative_ttl() -> None:
    reply = ask(query("nope.bridge.internal"))
    assert reply.rcode() == dns.rcode.NXDOMAIN and reply.flags & dns.flags.AA
    soa = reply.authority[0]
    assert soa.ttl == soa[0].minimum == limits.DNS_NEGATIVE_TTL


@pytest.mark.parametrize("name", ["example.com", ".", "com", "localhost", "1.0.0.127.in-addr.arpa", "internal"])
def test_names_outside_are_refused_never_forwarded(name: str) -> None:
    assert rcode(query(name)) == "REFUSED"


def test_before_anything_is_known_the_answer_is_servfail() -> None:
    assert rcode(query("web.bridge.internal"), None) == "SERVFAIL"


def test_c02_case_is_ignored_in_comparing_and_kept_in_the_answer() -> None:
    reply = ask(query("wEb.BRIDGE.iNternal"))
    assert str(reply.question[0].name) == "wEb.BRIDGE.iNternal."
    assert str(reply.answer[0]) == f"wEb.BRIDGE.iNternal. {limits.DNS_TTL} IN A {WEB}"
    assert str(ask(query("WEB.bridge.internal.")).answer[0][0]) == WEB


@pytest.mark.parametrize(
    "label", ["wéb", "ｗｅｂ", "web．dc1", "web。dc1", "web ", "web\0", "web.dc1", "\u212aeb", "wеb"], ids=ascii
)
def test_c02_what_only_looks_like_a_name_is_another_name(label: str) -> None:
    data = label.encode()
    assert ask(raw(bytes([len(data)]) + data + b"\x06bridge\x08internal\0")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    "name", ["web.xbridge.internal", "xbridge.internal", "webbridge.internal", "web.bridge.internal.com"]
)
def test_c12_a_longer_label_is_not_below_the_domain(name: str) -> None:
    assert rcode(query(name)) == "REFUSED"


@pytest.mark.parametrize("flags", [0x8000, 0x8400, 0x8180, 0xFFFF])
def test_c39_an_answer_is_never_answered(flags: int) -> None:
    assert answer(ZONE, raw(b"\x03web\x06bridge\x08internal\0", flags=flags), "udp") is None
    ours = answer(ZONE, query("web.bridge.internal"), "udp")
    assert ours is not None and answer(ZONE, ours, "udp") is None and answer(ZONE, ours, "tcp") is None


def test_c39_the_answer_repeats_id_and_question() -> None:
    for ident in (0, 1, 0xFFFF):
        wire = struct.pack("!H", ident) + query("web.bridge.internal", "SRV")[2:]
        reply = answer(ZONE, wire, "udp")
        assert reply is not None and reply[:2] == wire[:2] and reply[12 : len(wire)] == wire[12:]


def test_c40_the_ttl_of_every_record_is_clamped() -> None:
    zone = Zone(domain="bridge.internal", book=BOOK, ports=PORTS, server="127.97.0.1", ttl=10**9, negative_ttl=10**9)
    assert ask(query("web.bridge.internal"), zone).answer[0].ttl == 60
    assert ask(query("nope.bridge.internal"), zone).authority[0].ttl == 60


def test_c40_another_class_or_type_is_another_question() -> None:
    assert ask(query("web.bridge.internal", "A")).answer and not ask(query("web.bridge.internal", "AAAA")).answer
    assert rcode(query("web.bridge.internal", "A", rdclass="CH")) == "REFUSED"


def test_c41_a_query_larger_than_the_limit_is_malformed() -> None:
    padding = limits.DNS_QUERY_MAX - len(query("web.bridge.internal", use_edns=0)) - 4
    options = b"\0\x0c" + struct.pack("!H", padding) + bytes(padding)
    fits = query("web.bridge.internal", use_edns=0)[:-2] + struct.pack("!H", len(options)) + options
    assert len(fits) == limits.DNS_QUERY_MAX and ask(fits).answer
    assert rcode(fits[:-1]) == rcode(fits + b"\0") == "FORMERR"


@pytest.mark.parametrize(
    "label",
    ["-web", "web-", "_web", "w_b", "*", "xn--80ak6aa92e", "localhost", "127", "a" * 63],
)
def test_h22_odd_labels_below_the_domain_do_not_exist(label: str) -> None:
    assert ask(query(f"{label}.bridge.internal")).rcode() == dns.rcode.NXDOMAIN


def test_h22_an_address_as_a_name_does_not_exist() -> None:
    assert ask(query(f"{WEB}.bridge.internal")).rcode() == dns.rcode.NXDOMAIN
    assert rcode(query(WEB)) == "REFUSED"


def test_h22_a_label_of_64_bytes_is_malformed() -> None:
    assert rcode(raw(b"\x40" + b"a" * 64 + b"\x06bridge\x08internal\0")) == "FORMERR"


def test_h22_a_name_of_more_than_255_bytes_is_malformed() -> None:
    longest = b"\x3f" + b"a" * 63
    assert rcode(raw(longest * 3 + b"\x3d" + b"a" * 61 + b"\0")) == "REFUSED"
    assert rcode(raw(longest * 3 + b"\x3e" + b"a" * 62 + b"\0")) == "FORMERR"
    assert rcode(raw(longest * 4 + b"\0")) == "FORMERR"


def test_h22_an_empty_label_ends_the_name() -> None:
    assert rcode(raw(b"\x03web\0\x06bridge\x08internal\0")) == "FORMERR"


@pytest.mark.parametrize("name", [b"\xc0\x0c", b"\x03web\xc0\x0c", b"\xc0\x00", b"\xc0\xff", b"\x80", b"\xff" * 200])
def test_h28_a_pointer_in_the_question_is_malformed_and_never_followed(name: bytes) -> None:
    assert rcode(raw(name)) == "FORMERR"


def test_h28_as_many_labels_as_fit_are_answered_and_more_are_malformed() -> None:
    assert rcode(raw(b"\x01a" * 127 + b"\0")) == "REFUSED"
    assert rcode(raw(b"\x01a" * 128 + b"\0")) == "FORMERR"
    assert rcode(raw(b"\x01a" * 255 + b"\0")) == "FORMERR"
    assert ask(raw(b"\x01a" * 118 + b"\x06bridge\x08internal\0")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (2, 0, 0, 0), (65535, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1), (1, 0, 0, 65535)]
)
def test_h28_counts_that_no_query_has_are_malformed(counts: tuple[int, ...]) -> None:
    assert rcode(raw(b"\x03web\x06bridge\x08internal\0", counts=counts)) == "FORMERR"


def test_h28_two_questions_are_malformed_even_when_both_are_there() -> None:
    one = raw(b"\x03web\x06bridge\x08internal\0", counts=(2, 0, 0, 0))
    assert rcode(one + one[12:]) == "FORMERR"


@pytest.mark.parametrize("opcode", range(1, 16))
def test_h28_every_other_opcode_is_not_implemented(opcode: int) -> None:
    wire = raw(b"\x03web\x06bridge\x08internal\0", flags=opcode << 11 | 0x0100)
    reply = answer(ZONE, wire, "udp")
    assert reply is not None and len(reply) == 12
    message = dns.message.from_wire(reply)
    assert (message.rcode(), message.opcode()) == (dns.rcode.NOTIMP, opcode)


def test_h28_class_any_is_refused() -> None:
    assert rcode(raw(b"\x03web\x06bridge\x08internal\0", rdclass=255)) == "REFUSED"


def test_h28_type_any_gets_one_record() -> None:
    assert [r.rdtype.name for r in ask(query("web.bridge.internal", "ANY")).answer] == ["A"]
    assert len(ask(query("bridge.internal", "ANY")).answer) == 1


@pytest.mark.parametrize(("payload", "most"), [(65535, limits.DNS_UDP_MAX), (0, 512), (100, 512), (1232, 1232)])
def test_h28_the_payload_a_client_claims_is_bounded(payload: int, most: int) -> None:
    """The longest answer there is: SRV under a domain of nearly 253 characters."""
    domain = ".".join(["d" * 60] * 4)[:235] + "x"
    service = "s" * 8
    book = AddressBook().assign([service])
    zone = Zone(domain=domain, book=book, ports={service: 1}, server="127.96.0.1")
    wire = query(f"_{service}._tcp.{domain}", "SRV", use_edns=0, payload=payload)
    reply = answer(zone, wire, "udp")
    assert reply is not None and len(reply) <= most
    message = dns.message.from_wire(reply)
    assert message.payload == limits.DNS_UDP_MAX
    truncated = bool(message.flags & dns.flags.TC)
    assert truncated == (most == 512) and bool(message.answer) != truncated
    over_tcp = ask(wire, zone, "tcp")
    assert over_tcp.answer and not over_tcp.flags & dns.flags.TC


def test_h28_every_prefix_of_a_query_is_malformed_or_ignored() -> None:
    whole = query("web.bridge.internal", use_edns=0)
    for end in range(len(whole)):
        if end < 12:
            assert answer(ZONE, whole[:end], "udp") is None
        else:
            assert rcode(whole[:end]) == "FORMERR"
    assert rcode(whole + b"\0") == "FORMERR", "nor may anything follow"


@pytest.mark.parametrize("rdtype", ["AXFR", "IXFR"])
def test_h28_zone_transfers_are_refused(rdtype: str) -> None:
    for wire in (
        query("bridge.internal", rdtype),
        raw(b"\x06bridge\x08internal\0", {"AXFR": 252, "IXFR": 251}[rdtype]),
    ):
        reply = answer(ZONE, wire, "tcp")
        assert reply is not None and dns.message.from_wire(reply, xfr=True).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("rdtype", [128, 249, 250, 253, 254])
def test_h28_meta_types_are_refused(rdtype: int) -> None:
    assert rcode(raw(b"\x06bridge\x08internal\0", rdtype)) == "REFUSED"


@pytest.mark.parametrize("rdtype", [0, 41])
def test_h28_types_that_cannot_be_asked_for_are_malformed(rdtype: int) -> None:
    assert rcode(raw(b"\x06bridge\x08internal\0", rdtype)) == "FORMERR"


def test_h28_version_bind_is_refused() -> None:
    assert rcode(query("version.bind", "TXT", rdclass="CH")) == "REFUSED"


def test_h28_an_unknown_edns_version_is_badvers() -> None:
    reply = ask(query("web.bridge.internal", use_edns=1))
    assert reply.rcode() == dns.rcode.BADVERS and reply.edns == 0 and not reply.answer


def opt(owner: bytes = b"\0", rdtype: int = 41, length: int = 0, data: bytes = b"") -> bytes:
    return owner + struct.pack("!HHIH", rdtype, 4096, 0, length) + data


@pytest.mark.parametrize(
    "additional",
    [opt(b"\x01a\0"), opt(b"\xc0\x0c"), opt(rdtype=1), opt(rdtype=250), opt(length=1), opt(length=0xFFFF), opt()[:-1]],
)
def test_h28_an_additional_record_that_is_no_opt_is_malformed(additional: bytes) -> None:
    assert rcode(raw(b"\x03web\x06bridge\x08internal\0", counts=(1, 0, 0, 1)) + additional) == "FORMERR"


def test_h28_options_are_stepped_over_whatever_they_hold() -> None:
    junk = bytes(range(256)) * 8
    wire = raw(b"\x03web\x06bridge\x08internal\0", counts=(1, 0, 0, 1)) + opt(length=len(junk), data=junk)
    assert ask(wire).answer


def test_h28_a_refusal_over_udp_is_no_longer_than_its_query() -> None:
    padded = query("example.com", use_edns=0, options=[dns.edns.GenericOption(12, bytes(100))])
    for wire in (query("example.com"), query("example.com", "ANY", use_edns=0, want_dnssec=True), padded):
        assert rcode(wire) == "REFUSED"


def test_flags_that_are_the_clients_own_come_back() -> None:
    reply = ask(query("web.bridge.internal", use_edns=0, want_dnssec=True, flags=dns.flags.RD | dns.flags.CD))
    assert reply.flags & dns.flags.RD and reply.flags & dns.flags.CD and reply.ednsflags & dns.flags.DO
    assert not ask(query("web.bridge.internal", flags=0)).flags & dns.flags.RD
