"""Pure: the kernel's tables of sockets as text, and the netlink reply as bytes. No socket is opened here."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys

import pytest

from bridge import ports, sock_diag
from bridge.ports import find_listeners, find_owner
from bridge.sock_diag import End, encode_request, parse_reply
from bridge.socket_rows import hex_address, hex_end, parse_row

HEADING = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the tables below are from a little-endian machine")


def line(own: str, other: str, state: str, uid: int, inode: int) -> bytes:
    text = f"   0: {own} {other} {state} 00000000:00000000 00:00000000 00000000 {uid:5}        0 {inode} 1 0000 100 0\n"
    return text.encode()


MAPPED = "0000000000000000FFFF0000"
CLIENT, SERVER = b"0100007F:D431", b"0701607F:1F90"
TABLE = (
    HEADING
    + line("0701607F:1F90", "00000000:0000", "0A", 0, 100)
    + line("0701607F:1F90", "0100007F:D431", "01", 0, 101)
    + line("0100007F:D431", "0701607F:1F90", "01", 1000, 102)
    + line("0100007F:D432", "0701607F:1F90", "06", 0, 0)
    + line("0100007F:D433", "0701607F:1F90", "04", 0, 0)
    + line("0100007F:D434", "0701607F:1F90", "05", 1001, 103)
)


def test_addresses_are_written_as_the_kernel_writes_them() -> None:
    assert hex_address(bytes([127, 96, 1, 7])) == b"0701607F"
    assert hex_end(bytes([127, 0, 0, 1]), 0xD431) == CLIENT
    mapped = ipaddress.IPv6Address("::ffff:127.0.0.1").packed
    assert hex_end(mapped, 80) == MAPPED.encode() + b"0100007F:0050"


def test_the_owner_is_that_of_the_clients_end_and_not_of_ours() -> None:
    assert find_owner(TABLE, CLIENT, SERVER) == 1000
    assert find_owner(TABLE, SERVER, CLIENT) == 0


def test_a_client_that_has_shut_down_its_sending_side_still_has_an_owner() -> None:
    assert find_owner(TABLE, b"0100007F:D434", SERVER) == 1001


@pytest.mark.parametrize("port", [b"D432", b"D433"])
def test_a_socket_that_nobody_holds_any_more_is_not_roots(port: bytes) -> None:
    assert find_owner(TABLE, b"0100007F:" + port, SERVER) is None


def test_an_unknown_pair_has_no_owner() -> None:
    assert find_owner(TABLE, b"0100007F:D435", SERVER) is None
    assert find_owner(TABLE, CLIENT, b"0701607F:1F91") is None
    assert find_owner(b"", CLIENT, SERVER) is None


def test_a_table_that_ends_in_the_middle_of_a_line_names_nobody() -> None:
    row = line(CLIENT.decode(), SERVER.decode(), "01", 1000, 102)
    whole = len(row.split(b" 102 ")[0]) + 4
    for end in range(whole):
        assert find_owner(HEADING + row[:end], CLIENT, SERVER) in (None, 1000)
    assert find_owner(row.rstrip(b"\n"), CLIENT, SERVER) == 1000


def test_an_ipv6_socket_to_our_ipv4_address_is_found_in_its_own_table() -> None:
    own, other = f"{MAPPED}0100007F:D431", f"{MAPPED}0701607F:1F90"
    assert find_owner(HEADING + line(own, other, "01", 7, 9), own.encode(), other.encode()) == 7


@pytest.mark.parametrize("text", [b"", HEADING, b"   0: a b 01 c d e x 0 1", b"   0: a b 01 c d e -1 0 1", b"\xff\0"])
def test_lines_that_are_no_sockets_are_skipped(text: bytes) -> None:
    assert parse_row(text) is None


def test_listeners_are_told_from_connections() -> None:
    assert [row.inode for row in find_listeners(TABLE, {SERVER}, b"0A")] == [100]
    assert find_listeners(TABLE, {CLIENT}, b"0A") == []


@pytest.mark.parametrize(
    ("peer", "local"), [("10.0.0.1", "127.96.1.7"), ("127.0.0.1", "10.0.0.1"), ("::1", "::1"), ("x", "y"), ("", "")]
)
def test_only_loopback_connections_have_a_local_user(peer: str, local: str) -> None:
    assert ports.local_user_of(peer, 1, local, 2) is None


def test_nobody_holds_what_is_no_address() -> None:
    assert ports.holder_of("gw.corp", 80) is None


OWN, OTHER = End(ipaddress.IPv4Address("127.0.0.1"), 0xD431), End(ipaddress.IPv4Address("127.96.1.7"), 8080)


def reply(*, state: int = 1, own: End = OWN, uid: int = 1000, inode: int = 102, kind: int = 20) -> bytes:
    ends = struct.pack("!HH", own.port, OTHER.port) + own.address.packed.ljust(16, b"\0")
    ends += OTHER.address.packed.ljust(16, b"\0") + struct.pack("=III", 0, 5, 0)
    body = struct.pack("=BBBB", socket.AF_INET, state, 0, 0) + ends + struct.pack("=IIIII", 0, 0, 0, uid, inode)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 99) + body


def test_the_kernels_reply_names_the_user() -> None:
    assert parse_reply(reply(), OWN, OTHER) == 1000
    assert parse_reply(reply(uid=0), OWN, OTHER) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        reply(inode=0, uid=0),
        reply(state=sock_diag.TCP_LISTEN),
        reply(own=End(OWN.address, 1)),
        reply(kind=2),
        reply()[:-1],
        b"",
    ],
)
def test_a_reply_about_anything_else_names_nobody(wrong: bytes) -> None:
    assert parse_reply(wrong, OWN, OTHER) is None


def test_the_request_has_the_length_it_says() -> None:
    request = encode_request(OWN, OTHER)
    assert struct.unpack_from("=I", request)[0] == len(request) == 72
