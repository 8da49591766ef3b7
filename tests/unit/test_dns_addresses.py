"""Pure: the address book: same name, same address; nothing reserved, nothing doubled, nothing forgotten too early."""

from __future__ import annotations

import ipaddress
import json

import pytest

from bridge.dns.addresses import DEFAULT_SLICE, AddressBook, decode, encode, parse_slice
from inventory.errors import InputError

SMALL = parse_slice("127.97.0.0/24")


def names(count: int, prefix: str = "s") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


@pytest.mark.parametrize("text", ["127.97.0.0/16", "127.96.0.0/11", "127.1.2.0/24"])
def test_a_slice_is_a_block_of_loopback_addresses(text: str) -> None:
    assert str(parse_slice(text)) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/16", "127.0.0.1"),
        ("10.0.0.0/16", "not inside"),
        ("126.0.0.0/7", "not inside"),
        ("0.0.0.0/0", "not inside"),
        ("127.97.0.0/25", "too small"),
        ("127.97.0.1/16", "not an IPv4 block"),
        ("::1/128", "not an IPv4 block"),
        ("127.97.0.0/16\x1b[2J", "not an IPv4 block"),
        ("", "not an IPv4 block"),
    ],
)
def test_h23_a_slice_that_services_cannot_live_in_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        parse_slice(text)
    assert "\x1b" not in str(caught.value)


def test_two_hosts_give_a_service_the_same_address_whatever_else_they_see() -> None:
    one = AddressBook().assign(["web", "ledger"])
    other = AddressBook().assign(["ledger", "ledger.dc1", *names(500)])
    assert one.assigned["ledger"] == other.assigned["ledger"]
    assert one.assigned["ledger"] == "127.124.239.184", "the way from name to address is part of the interface"


def test_a_name_and_the_same_name_in_a_site_have_two_addresses() -> None:
    book = AddressBook().assign(["web", "web.dc1"])
    assert book.assigned["web"] != book.assigned["web.dc1"]


def test_the_same_names_give_the_same_book_object() -> None:
    book = AddressBook().assign(names(50))
    assert book.assign(reversed(names(50))) is book


def test_a_full_slice_uses_every_address_but_the_reserved_ones() -> None:
    book = AddressBook(SMALL).assign(names(300))
    given = {ipaddress.IPv4Address(address) for address in book.assigned.values()}
    assert len(given) == len(book.assigned) == book.capacity == 253
    assert given == set(SMALL.hosts()) - {ipaddress.IPv4Address("127.97.0.1")}
    assert book.server_address == "127.97.0.1"


def test_names_beyond_the_slice_have_no_address_and_get_one_when_there_is_room() -> None:
    book = AddressBook(SMALL).assign(names(260))
    assert len(book.without) == 7 and not set(book.without) & book.assigned.keys()
    later = book.assign(set(names(260)) - set(names(20)))
    assert later.without == () and set(book.without) - set(names(20)) <= later.assigned.keys()


def test_collisions_do_not_depend_on_the_order_in_which_names_are_given() -> None:
    many = names(240)
    assert AddressBook(SMALL).assign(many).assigned == AddressBook(SMALL).assign(many[::-1]).assigned


def test_a_service_that_comes_back_has_its_old_address() -> None:
    book = AddressBook(SMALL).assign(names(100))
    without = book.assign(names(50))
    assert set(without.assigned) == set(names(100))
    assert without.assign(names(100)).assigned == book.assigned


def test_a_name_that_was_moved_by_a_collision_stays_where_it_was() -> None:
    """The name that stood in its place goes away and its address is free again: nothing moves."""
    book = AddressBook(SMALL).assign(names(200))
    fresh = {name: AddressBook(SMALL).assign([name]).assigned[name] for name in names(200)}
    moved = next(name for name in names(200) if book.assigned[name] != fresh[name])
    assert book.assign([moved]).assigned[moved] == book.assigned[moved]
    assert decode(encode(book), where="f").assign([moved]).assigned[moved] == book.assigned[moved]


def test_above_nine_tenths_the_longest_unused_are_forgotten_first() -> None:
    book = AddressBook(SMALL).assign(names(100, "first"))
    book = book.assign(names(100, "second"))
    assert len(book.assigned) == 200, "under nine tenths nothing is forgotten"
    book = book.assign(names(100, "third"))
    assert set(names(100, "third")) | set(names(100, "second")) <= book.assigned.keys()
    assert len(book.assigned) == 227, "nine tenths of 253"


def test_the_memory_of_use_survives_a_restart() -> None:
    book = AddressBook(SMALL).assign(names(110, "first")).assign(names(110, "second"))
    again = decode(encode(book), where="addresses.json")
    assert again == book
    assert again.assign(names(30, "third")) == book.assign(names(30, "third"))


def test_most_names_keep_their_place_in_the_default_slice() -> None:
    book = AddressBook().assign(names(10_000))
    alone = sum(AddressBook().assign([name]).assigned[name] == book.assigned[name] for name in names(300))
    assert alone >= 297
    assert book.slice == DEFAULT_SLICE


GOOD = {"version": 1, "slice": "127.97.0.0/24", "assigned": [["web", "127.97.0.9"], ["web.dc1", "127.97.0.10"]]}


def test_a_saved_book_can_be_written_by_hand() -> None:
    assert decode(json.dumps(GOOD).encode(), where="f").assigned == {"web": "127.97.0.9", "web.dc1": "127.97.0.10"}


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 2},
        {"slice": "127.0.0.0/8"},
        {"slice": 7},
        {"extra": True},
        {"assigned": {"web": "127.97.0.9"}},
        {"assigned": [["web"]]},
        {"assigned": [["web", "127.98.0.9"]]},
        {"assigned": [["web", "127.97.0.0"]]},
        {"assigned": [["web", "127.97.0.1"]]},
        {"assigned": [["web", "127.97.0.255"]]},
        {"assigned": [["web", "127.97.0.009"]]},
        {"assigned": [["WEB", "127.97.0.9"]]},
        {"assigned": [["web.", "127.97.0.9"]]},
        {"assigned": [["web.dc1.x", "127.97.0.9"]]},
        {"assigned": [["web", "127.97.0.9"], ["web", "127.97.0.10"]]},
        {"assigned": [["web", "127.97.0.9"], ["api", "127.97.0.9"]]},
    ],
)
def test_a_damaged_book_is_refused_and_named(damage: dict[str, object]) -> None:
    with pytest.raises(InputError, match="damaged") as caught:
        decode(json.dumps(GOOD | damage).encode(), where="/home/op/addresses.json")
    assert caught.value.where == "/home/op/addresses.json" and caught.value.hint


@pytest.mark.parametrize("text", [b"", b"{", b"null", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}', b"\0" * 40])
def test_a_book_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InputError, match="damaged"):
        decode(text, where="addresses.json")


def test_a_book_cut_short_anywhere_is_refused() -> None:
    whole = encode(AddressBook(SMALL).assign(names(5)))
    for end in range(len(whole) - 2):
        with pytest.raises(InputError):
            decode(whole[:end], where="addresses.json")
