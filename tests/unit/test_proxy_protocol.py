"""Pure: the header in front of a connection's first byte, read back by a parser written from the protocol's text."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import proxy_protocol


@dataclass
class Parsed:
    command: str
    source: tuple[str, int] | None
    target: tuple[str, int] | None
    fields: dict[int, str]
    rest: bytes


def parse(data: bytes) -> Parsed:
    """Section 2.2 of the protocol, as a receiver would do it; anything unexpected fails the test."""
    assert data[:12] == bytes.fromhex("0d0a0d0a000d0a515549540a")
    version, family, length = data[12], data[13], struct.unpack(">H", data[14:16])[0]
    assert version >> 4 == 2
    body, rest = data[16 : 16 + length], data[16 + length :]
    assert len(body) == length
    sizes = {0x00: 0, 0x11: 4, 0x21: 16}
    size = sizes[family]
    ends: list[tuple[str, int]] = []
    if size:
        ports = struct.unpack(">HH", body[2 * size : 2 * size + 4])
        ends = [(str(ipaddress.ip_address(body[n * size : (n + 1) * size])), ports[n]) for n in (0, 1)]
        body = body[2 * size + 4 :]
    fields = {}
    while body:
        kind, size = struct.unpack(">BH", body[:3])
        assert kind not in fields and len(body) >= 3 + size
        fields[kind], body = body[3 : 3 + size].decode(), body[3 + size :]
    source, target = ends if ends else (None, None)
    return Parsed({0: "local", 1: "proxy"}[version & 15], source, target, fields, rest)


def test_a_client_of_a_gateway() -> None:
    made = proxy_protocol.header(
        subject="client:lpar7", user=None, speaker="gw1", source="10.1.2.3:40000", target=("127.0.0.1", 9000)
    )
    found = parse(made + b"first byte")
    assert found == Parsed(
        "proxy", ("10.1.2.3", 40000), ("127.0.0.1", 9000), {0xE0: "client:lpar7", 0xE2: "gw1"}, b"first byte"
    )


@pytest.mark.parametrize(
    ("source", "target", "shown"),
    [
        ("[2001:db8::1]:1", ("2001:db8::2", 2), ("2001:db8::1", 1)),
        ("10.0.0.1:1", ("2001:db8::2", 2), (str(ipaddress.ip_address("::ffff:10.0.0.1")), 1)),
        (None, ("10.0.0.1", 2), None),
        ("10.0.0.1:1", ("db.corp", 2), None),
        ("nonsense", ("10.0.0.1", 2), None),
    ],
)
def test_both_addresses_are_of_one_family_or_left_out(
    source: str | None, target: tuple[str, int], shown: tuple[str, int] | None
) -> None:
    made = proxy_protocol.header(subject="host:web1", user="batch", speaker=None, source=source, target=target)
    found = parse(made)
    assert (found.source, found.fields) == (shown, {0xE0: "host:web1", 0xE1: "batch"})


def test_a_check_says_that_nobody_asked_for_it() -> None:
    assert parse(proxy_protocol.local_header()) == Parsed("local", None, None, {}, b"")


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
hosts = st.ip_addresses().map(str)
ports = st.integers(1, 65535)


@given(names, st.none() | names, hosts, ports, hosts, ports, st.binary(max_size=20))
def test_whatever_is_in_it_a_receiver_finds_the_first_byte(
    subject: str, user: str | None, source: str, port: int, target: str, target_port: int, data: bytes
) -> None:
    caller = f"[{source}]:{port}" if ":" in source else f"{source}:{port}"
    made = proxy_protocol.header(
        subject=subject[:60],
        user=user[:60] if user else None,
        speaker=None,
        source=caller,
        target=(target, target_port),
    )
    found = parse(made + data)
    assert found.rest == data and found.command == "proxy" and found.fields[0xE0] == subject[:60]
    assert len(made) < 1000, "a socket that was connected just now takes it at once"
