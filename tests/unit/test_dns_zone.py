"""Pure: what the zone says about names, before any wire format."""

from __future__ import annotations

import pytest

from bridge.dns.addresses import AddressBook, parse_slice
from bridge.dns.zone import EMPTY, Found, Node, Port, Zone, clamp_ttl, labels_of
from inventory.errors import InputError

PORTS = {"web": 8080, "web.dc1": 8080, "ledger": 5000}
BOOK = AddressBook(parse_slice("127.97.0.0/16")).assign(PORTS)
ZONE = Zone(domain="bridge.internal", book=BOOK, ports=PORTS, server=BOOK.server_address)


def node(name: str, zone: Zone = ZONE) -> Node | None:
    """What stands under `name`, which has to be the zone's own."""
    found = zone.lookup(labels_of(name))
    assert found is not None, f"{name} is outside"
    return found.node


def reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def test_a_service_has_its_address_and_so_has_the_service_in_one_site() -> None:
    assert node("web.bridge.internal") == Node(address=BOOK.assigned["web"])
    assert node("web.dc1.bridge.internal") == Node(address=BOOK.assigned["web.dc1"])


def test_srv_names_the_port_and_the_name() -> None:
    assert node("_web._tcp.bridge.internal") == Node(port=Port(8080, "web.bridge.internal"))
    assert node("_web._tcp.dc1.bridge.internal") == Node(port=Port(8080, "web.dc1.bridge.internal"))


def test_names_with_something_below_them_exist_and_are_empty() -> None:
    for name in ("dc1", "_tcp", "_tcp.dc1"):
        assert node(f"{name}.bridge.internal") == EMPTY


@pytest.mark.parametrize(
    "name", ["nope", "nope.dc1", "web.dc2", "dc2", "_nope._tcp", "_web._udp", "_tcp.dc2", "_web._tcp.dc2", "a.web"]
)
def test_unknown_names_below_the_domain_are_known_not_to_exist(name: str) -> None:
    assert node(f"{name}.bridge.internal") is None


def test_the_domain_itself_has_the_servers_address() -> None:
    assert node("bridge.internal") == Node(address="127.97.0.1", is_apex=True)
    elsewhere = Zone(domain="bridge.internal", book=BOOK, ports=PORTS, server="::1")
    assert node("bridge.internal", elsewhere) == Node(is_apex=True)


def test_a_name_without_an_address_is_not_in_the_zone() -> None:
    zone = Zone(domain="bridge.internal", book=BOOK, ports=PORTS | {"new": 1}, server="127.97.0.1")
    assert node("new.bridge.internal", zone) is None
    assert node("_new._tcp.bridge.internal", zone) is None
    assert "new.bridge.internal" not in zone.addresses


def test_a_name_no_longer_visible_is_not_in_the_zone_though_its_address_is_remembered() -> None:
    zone = Zone(domain="bridge.internal", book=BOOK, ports={"web": 8080}, server="127.97.0.1")
    assert node("ledger.bridge.internal", zone) is None
    assert node(reverse(BOOK.assigned["ledger"]), zone) is None


def test_c12_suffixes_are_compared_label_by_label() -> None:
    for name in ("xbridge.internal", "web.xbridge.internal", "internal", "bridge", "web.bridge", "bridge.internal.com"):
        assert ZONE.lookup(labels_of(name)) is None, name
    assert ZONE.lookup(()) is None
    assert ZONE.lookup((b"bridge.internal",)) is None, "one label with a dot in it is not two labels"
    assert ZONE.lookup((b"web.bridge", b"internal")) is None


def test_c02_a_label_with_a_dot_in_it_is_not_two_labels() -> None:
    assert ZONE.lookup((b"web.dc1", b"bridge", b"internal")) == Found((b"bridge", b"internal"), None)
    assert ZONE.lookup((b"_web._tcp", b"bridge", b"internal")) == Found((b"bridge", b"internal"), None)


def test_the_domain_is_parsed_and_an_impossible_one_is_refused() -> None:
    assert Zone(domain="Bridge.Internal.", book=BOOK, ports={}, server="127.97.0.1").domain == "bridge.internal"
    with pytest.raises(InputError):
        Zone(domain="", book=BOOK, ports={}, server="127.97.0.1")


def test_an_address_of_the_slice_has_a_name() -> None:
    assert node(reverse(BOOK.assigned["web"])) == Node(pointer="web.bridge.internal")
    assert node(reverse("127.97.0.1")) == Node(pointer="bridge.internal")
    assert node(reverse("127.97.255.254")) is None


def test_reverse_names_above_an_address_exist() -> None:
    assert node("97.127.in-addr.arpa") == Node(is_apex=True)
    assert node("3.97.127.in-addr.arpa") == EMPTY


@pytest.mark.parametrize("name", ["1.0.0.127", "1.0.98.127", "1.2.3.4", "127", "1.127", "097.127", "x.127", ""])
def test_addresses_outside_the_slice_are_not_ours_to_name(name: str) -> None:
    assert ZONE.lookup(tuple(name.encode().split(b".")) * bool(name) + (b"in-addr", b"arpa")) is None


@pytest.mark.parametrize(
    "name", ["256.0.97.127", "01.0.97.127", "1.1.0.0.97.127", "x.0.97.127", "².0.97.127", "-1.97.127"]
)
def test_reverse_names_that_are_no_addresses_do_not_exist(name: str) -> None:
    found = ZONE.lookup((*name.encode().split(b"."), b"in-addr", b"arpa"))
    assert found == Found((b"97", b"127", b"in-addr", b"arpa"), None)


def test_a_slice_that_ends_within_an_octet_answers_for_exactly_its_addresses() -> None:
    book = AddressBook(parse_slice("127.96.0.0/11")).assign(["web"])
    zone = Zone(domain="bridge.internal", book=book, ports={"web": 80}, server=book.server_address)
    assert node(reverse(book.assigned["web"]), zone) == Node(pointer="web.bridge.internal")
    for octet in range(256):
        inside = zone.lookup(labels_of(f"{octet}.127.in-addr.arpa")) is not None
        assert inside == (96 <= octet <= 127)


def test_the_addresses_of_the_zone_are_what_a_hosts_file_holds() -> None:
    assert ZONE.addresses == {f"{name}.bridge.internal": BOOK.assigned[name] for name in PORTS}


def test_c40_a_ttl_is_never_negative_and_never_long() -> None:
    assert [clamp_ttl(seconds) for seconds in (-1, 0, 5, 60, 61, 2**31, 1e300)] == [0, 0, 5, 60, 60, 60, 60]
    zone = Zone(domain="b.internal", book=BOOK, ports={}, server="127.97.0.1", ttl=7587862831265, negative_ttl=-3)
    assert (zone.ttl, zone.negative_ttl) == (60, 0)
