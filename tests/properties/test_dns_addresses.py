"""Pure: whatever comes and goes, no two names share an address, none moves while visible, a restart changes nothing."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from bridge.dns.addresses import AddressBook, decode, encode, parse_slice
from bridge.dns.hosts_file import with_block, without_block
from inventory.errors import InputError

SMALL = parse_slice("127.97.3.0/24")
sets = st.lists(st.sets(st.integers(0, 600).map(lambda n: f"s{n}"), max_size=300), min_size=1, max_size=6)


@given(sets)
def test_addresses_are_never_shared_moved_or_reserved(steps: list[set[str]]) -> None:
    book = AddressBook(SMALL)
    for visible in steps:
        before, book = book, book.assign(visible)
        addresses = list(book.assigned.values())
        assert len(set(addresses)) == len(addresses) <= book.capacity
        assert visible == {name for name in visible if name in book.assigned} | set(book.without)
        assert bool(book.without) == (len(visible) > book.capacity)
        for name, address in book.assigned.items():
            assert before.assigned.get(name, address) == address
            assert 2 <= int(ipaddress.IPv4Address(address)) - int(SMALL.network_address) <= 254
        again = decode(encode(book), where="f")
        assert list(again.assigned.items()) == list(book.assigned.items())
        assert book.without or again.assign(visible) is again


lines = st.sampled_from(
    [
        b"# meshbridge begin b.internal\n",
        b"# meshbridge begin c.internal\r\n",
        b"# meshbridge end\n",
        b"\n",
        b"1.1.1.1 a\n",
    ]
)


@given(st.lists(lines | st.binary(max_size=20), max_size=8).map(b"".join))
def test_foreign_lines_of_a_hosts_file_survive(text: bytes) -> None:
    try:
        there = with_block(text, "b.internal", {"web.b.internal": "127.96.0.2"})
    except InputError:
        assert b"# meshbridge" in text, "only a damaged fence is refused"
        return
    assert without_block(there, "b.internal") == without_block(text, "b.internal")
    assert with_block(there, "b.internal", {"web.b.internal": "127.96.0.2"}) == there
