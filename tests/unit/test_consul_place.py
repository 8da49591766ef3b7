"""Pure: what may be said of where a registry in Consul is, and what is refused before anything is asked of it."""

from __future__ import annotations

import pytest

from inventory.errors import InputError
from inventory.registries.consul_place import Address, ConsulPlace, parse_address, parse_prefix


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://127.0.0.1:8500", Address("http", "127.0.0.1", 8500)),
        ("http://localhost", Address("http", "localhost", 8500)),
        ("https://consul.example", Address("https", "consul.example", 8501)),
        ("https://consul.example:443/", Address("https", "consul.example", 443)),
        ("http://[::1]:8500", Address("http", "::1", 8500)),
    ],
)
def test_an_address_is_a_url_without_more(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8500",
        "consul.example",
        "unix:///run/consul.sock",
        "http://",
        "http://:8500",
        "http://a:b",
        "http://a:99999",
        "http://user:secret@a",
        "http://a/v1",
        "http://a?token=secret",
        "http://a#x",
        "http://a b",
        "http://a\n",
        "http://ä.example",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not the address of a Consul"):
        parse_address(text)


def test_a_prefix_is_a_folder() -> None:
    assert parse_prefix("meshbridge/") == "meshbridge/"
    assert parse_prefix("corp/eu-1/mesh.bridge/") == "corp/eu-1/mesh.bridge/"
    for text in ("", "/", "meshbridge", "/meshbridge/", "a//b/", "../", ".a/", "a b/", "ä/", "a?/", "x" * 128 + "/"):
        with pytest.raises(InputError, match="is not a prefix of keys"):
            parse_prefix(text)


def test_a_token_crosses_no_network_in_clear() -> None:
    for here in ("http://127.0.0.1:8500", "http://[::1]", "http://localhost:8500", "https://consul.example"):
        ConsulPlace(address=here, token_file="/etc/token")
    for there in ("http://consul.example", "http://192.0.2.1:8500", "http://localhost.example"):
        with pytest.raises(InputError, match="in clear"):
            ConsulPlace(address=there, token_file="/etc/token")
        ConsulPlace(address=there)


def test_files_are_named_from_the_root_and_a_ca_is_for_tls() -> None:
    for files in ({"token_file": "token"}, {"ca_file": "ca.pem"}):
        with pytest.raises(InputError, match="is not an absolute path"):
            ConsulPlace(address="https://consul.example", **files)
    with pytest.raises(InputError, match="without TLS"):
        ConsulPlace(address="http://127.0.0.1", ca_file="/ca.pem")


def test_all_addresses_are_of_one_kind_and_each_is_checked() -> None:
    both = ConsulPlace(address="https://a.example", others=("https://b.example:443",), token_file="/etc/token")
    assert both.addresses == ("https://a.example", "https://b.example:443")
    with pytest.raises(InputError, match="with TLS and without"):
        ConsulPlace(address="https://a.example", others=("http://127.0.0.1",))
    with pytest.raises(InputError, match="in clear"):
        ConsulPlace(address="http://127.0.0.1", others=("http://b.example",), token_file="/etc/token")
    with pytest.raises(InputError, match="is not the address"):
        ConsulPlace(address="https://a.example", others=("b.example",))
    with pytest.raises(InputError, match="8 addresses"):
        ConsulPlace(address="https://a.example", others=("https://b.example",) * 7)
