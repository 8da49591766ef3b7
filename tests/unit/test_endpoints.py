import pytest

from inventory.endpoints import Endpoint, parse_endpoint, parse_port, parse_target
from inventory.errors import InputError


def refused(parse, text, **options):
    with pytest.raises(InputError) as caught:
        parse(text, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:7443", "10.0.0.1", 7443),
        ("[2001:db8::1]:7443", "2001:db8::1", 7443),
        ("[2001:DB8:0:0::1]:1", "2001:db8::1", 1),
        ("gw.corp:7443", "gw.corp", 7443),
        ("GW.corp.:7443", "gw.corp", 7443),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
    ],
)
def test_addresses_are_read_into_one_form(text, host, port):
    endpoint = parse_endpoint(text)
    assert endpoint == Endpoint(host, port)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1",
        ":7443",
        "7443",
        "2001:db8::1:7443",
        "::1:80",
        "[::1]",
        "[::1]:",
        "[10.0.0.1:80",
        "[gw]:80",
        "gw corp:80",
        "http://gw:80",
        "user@gw:80",
        "0x7f000001:80",
        "0177.0.0.1:80",
        "2130706433:80",
        "127.1:80",
        "localhost:80",
        "gw:80:90",
        "gw:80\n",
        "10.0.0.1 :80",
    ],
)
def test_what_is_no_address_is_refused(text):
    refused(parse_endpoint, text)


@pytest.mark.parametrize(
    "text", ["[::ffff:10.0.0.1]:80", "[fe80::1%eth0]:80", "[::ffff:a9fe:a9fe]:80", "[::FFFF:169.254.169.254]:80"]
)
def test_h23_mapped_and_zoned_addresses_are_refused_everywhere(text):
    assert "mapped and zoned" in refused(parse_endpoint, text)
    refused(parse_target, text)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0:80",
        "[::]:80",
        "224.0.0.1:80",
        "[ff02::1]:80",
        "169.254.169.254:80",
        "169.254.1.1:80",
        "255.255.255.255:80",
        "[fd00:ec2::254]:80",
    ],
)
def test_h23_targets_that_cannot_be_meant_are_refused(text):
    assert "cannot be a target" in refused(parse_target, text)
    parse_endpoint(text)  # To listen on, 0.0.0.0 is a choice.


@pytest.mark.parametrize("text", ["127.0.0.1:9000", "[::1]:9000", "10.1.2.3:1", "db.corp:5432"])
def test_ordinary_targets(text):
    assert str(parse_target(text)) == text


@pytest.mark.parametrize(
    "text", ["0", "-1", "65536", "22 ", " 22", "+22", "022", "2_2", "", "0x16", "1e3", "٢٢", "22.0", "9" * 5000]
)
def test_h24_hostile_ports(text):
    refused(parse_port, text)
    refused(parse_endpoint, f"10.0.0.1:{text}")


def test_h24_port_0_only_to_listen():
    assert parse_port("0", zero_ok=True) == 0
    assert parse_endpoint("127.0.0.1:0", zero_ok=True).port == 0
    refused(parse_port, "00", zero_ok=True)
    refused(parse_target, "127.0.0.1:0")


def test_loopback_is_known():
    assert parse_endpoint("127.5.0.1:80").is_loopback
    assert parse_endpoint("[::1]:80").is_loopback
    assert not parse_endpoint("10.0.0.1:80").is_loopback
    assert not parse_endpoint("gw.corp:80").is_loopback
