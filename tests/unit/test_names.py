import pytest
from hypothesis import given
from hypothesis import strategies as st

from inventory.errors import InputError
from inventory.names import (
    ServiceName,
    SpiffeId,
    is_below,
    parse_domain,
    parse_gateway,
    parse_host,
    parse_service,
    parse_service_name,
    parse_site,
    parse_spiffe_id,
    shown,
)
from inventory.policy_rules import parse_label_pair

PARSERS = [parse_host, parse_service, parse_site, parse_gateway, parse_domain]


def refused(parse, text):
    with pytest.raises(InputError) as caught:
        parse(text)
    return str(caught.value)


def test_c02_spellings_of_one_name_are_equal():
    assert {parse_host(text) for text in ("db.prod", "DB.prod", "Db.Prod", "db.prod.")} == {"db.prod"}
    assert {parse_service(text) for text in ("ledger", "LEDGER", "ledger.")} == {"ledger"}


@pytest.mark.parametrize(
    "text",
    [
        "db.prod..",
        ".db.prod",
        "db..prod",
        "dß.prod",
        "db\u3002prod",
        "db\uff0eprod",
        "\uff44\uff42.prod",
        "*.prod",
        "db.prod\u200b",
        "\u212aa.prod",
    ],
)
def test_c02_other_spellings_are_refused(text):
    refused(parse_host, text)


@given(st.text(alphabet="abDB-.*\u3002\u0130\u212a ", max_size=12))
def test_c02_a_name_is_canonical_or_refused(text):
    for parse in PARSERS:
        try:
            name = parse(text)
        except InputError:
            continue
        assert name == text.lower().removesuffix(".")
        assert parse(name) == name


def test_c02_the_same_holds_for_names_that_clients_ask_for():
    for text in ("ledger.bridge.internal", "LEDGER.Bridge.Internal.", "ledger.bridge.internal."):
        assert parse_service_name(text, "bridge.internal") == ServiceName("ledger")
    refused(lambda text: parse_service_name(text, "bridge.internal"), "ledger.bridge.internal..")


@pytest.mark.parametrize(
    "delimiter", [",", ";", ":", "/", "*", "?", "%", "\n", "\0", " ", "\t", "@", "\\", "'", '"', "`", "$", "|"]
)
@pytest.mark.parametrize("parse", PARSERS)
def test_c09_delimiters_are_refused(parse, delimiter):
    for text in (f"a{delimiter}b", f"{delimiter}a", f"a{delimiter}"):
        refused(parse, text)


@pytest.mark.parametrize("delimiter", [",", ";", ":", "/", "*", "?", "%", "\n", "\0", " ", "="])
def test_c09_delimiters_are_refused_in_labels(delimiter):
    refused(parse_label_pair, f"os{delimiter}x=aix")
    refused(parse_label_pair, f"os=ai{delimiter}x")
    refused(parse_label_pair, f"{delimiter}os=aix")
    refused(parse_label_pair, f"os=aix{delimiter}")


def test_c12_suffixes_are_compared_label_by_label():
    assert is_below("db.prod", "prod")
    assert is_below("a.db.prod", "prod")
    assert not is_below("xprod", "prod")
    assert not is_below("prod", "prod")
    assert not is_below("db.xprod", "prod")


@pytest.mark.parametrize(
    "text", ["ledger.xbridge.internal", "ledger.internal", "bridge.internal", "a.b.c.bridge.internal"]
)
def test_c12_a_name_of_another_namespace_is_refused(text):
    refused(lambda name: parse_service_name(name, "bridge.internal"), text)


def test_a_service_may_be_asked_for_in_one_site():
    assert parse_service_name("ledger.dc1.bridge.internal", "bridge.internal") == ServiceName("ledger", "dc1")
    assert parse_service_name("ledger", "bridge.internal") == ServiceName("ledger")


def test_h22_length_limits():
    assert parse_host("a" * 63) == "a" * 63
    assert "64 characters" in refused(parse_host, "a" * 64)
    longest = ".".join(["a" * 63, "a" * 63, "a" * 63, "a" * 61])
    assert len(parse_host(longest)) == 253
    assert "254 characters" in refused(parse_host, longest + "a")


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a", "a-", "a.-b", "a_b", "xn--zckzah", "xn--", "a.xn--b", "localhost", "*", "a.*"]
)
def test_h22_hostile_names(text):
    refused(parse_host, text)
    refused(parse_domain, text)


@pytest.mark.parametrize("text", ["10.0.0.1", "127.1", "1", "0x7f000001", "a.0x7f", "::1", "[::1]", "010.0.0.1", "a.1"])
def test_h22_an_address_is_no_name(text):
    refused(parse_host, text)


@pytest.mark.parametrize("text", ["8080", "0x1f", "a.b", "localhost", "Localhost.", "-", "a" * 64, "xn--a", "a.."])
def test_h22_hostile_single_labels(text):
    for parse in (parse_service, parse_site, parse_gateway):
        refused(parse, text)


def test_messages_say_what_and_why_and_escape_what_they_quote():
    assert refused(parse_service, "a.b") == "'a.b' is not a service name: it must be one label, without dots"
    message = refused(parse_host, "\x1b[31m\n" + "x" * 1000)
    assert "\x1b" not in message and "\n" not in message and len(message) < 300
    assert shown("\u202eabc") == "'\\u202eabc'"


def test_a_spiffe_id_is_read_as_it_is_written():
    for text in ("spiffe://corp.internal/host/vm1.dc1", "spiffe://t/gateway/gw1", "spiffe://t/operator/ann"):
        assert str(parse_spiffe_id(text)) == text
    assert parse_spiffe_id("spiffe://t.internal/host/a.b") == SpiffeId("t.internal", "host", "a.b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://td",
        "spiffe://td/host",
        "spiffe://td/host/",
        "spiffe://td//a",
        "spiffe:///host/a",
        "spiffe://td/host/a/b",
        "spiffe://td/host/a/",
        "spiffe://td/host/..",
        "spiffe://td/../host/a",
        "spiffe://td/host/.",
        "spiffe://td/host/%2e",
        "spiffe://td/host/a%00",
        "spiffe://td/host/a?x",
        "spiffe://td/host/a#x",
        "spiffe://user@td/host/a",
        "spiffe://td:443/host/a",
        "spiffe://TD/host/a",
        "spiffe://td./host/a",
        "spiffe://td/Host/a",
        "spiffe://td/host/A",
        "spiffe://td/host/a.",
        "spiffe://td/admin/a",
        "SPIFFE://td/host/a",
        "https://td/host/a",
        " spiffe://td/host/a",
        "spiffe://td/host/a\n",
        "spiffe://td/host/é",
        "spiffe://td/host/" + "a" * 2032,
    ],
)
def test_h07_hostile_spiffe_ids(text):
    assert refused(parse_spiffe_id, text).startswith("invalid SPIFFE ID")


def test_h07_2049_bytes_are_named_as_the_reason():
    text = "spiffe://td/host/".ljust(2049, "a")
    assert "2049 characters, at most 2048" in refused(parse_spiffe_id, text)
