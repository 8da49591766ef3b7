"""Pure: what counts of an import: no more than the operator signed, and no target that is not somebody else's (C38)."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from inventory.errors import InputError
from inventory.imports import gateway_of, instance_of, is_as_signed, place_of, why_refused
from inventory.model import Gateway, Host, Import, Instance
from inventory.names import parse_host
from inventory.snapshot import Snapshot, Touched
from tests.support.estates import authority, instance, revocation

WEB = Import(service="web", gateway="gw1", source="Web", tags=("v2",), port=80, labels={"tier": "front"}, max_rate=5)
GOOD = instance_of(WEB, "10.0.0.1:8080", port=8080)


def test_c07_a_gateway_is_a_place_that_no_host_can_have_the_name_of() -> None:
    assert gateway_of(place_of("gw1")) == "gw1" and gateway_of("gw1") is None
    with pytest.raises(InputError, match="host name"):
        parse_host(place_of("gw1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"service": "db"},
        {"host": "gateway:gw2"},
        {"host": "gw1"},
        {"port": 81},
        {"labels": {}},
        {"labels": {"tier": "db"}},
        {"check": None},
        {"max_streams": 5},
        {"max_rate": None},
        {"check": "consul:Web"},
        {"target": "127.0.0.1:80"},
        {"target": "169.254.169.254:80"},
    ],
)
def test_an_instance_is_what_was_signed_or_nothing(changes: dict[str, object]) -> None:
    assert is_as_signed(WEB, GOOD)
    assert is_as_signed(WEB, msgspec.structs.replace(GOOD, weight=7, draining="soon"))
    assert not is_as_signed(WEB, msgspec.structs.replace(GOOD, **changes))


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:80",
        "127.9.9.9:80",
        "[::1]:80",
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::]:80",
        "169.254.169.254:80",
        "169.254.1.1:80",
        "[fd00:ec2::254]:80",
        "[fe80::1]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:a9fe:a9fe]:80",
        "[::127.0.0.1]:80",
        "[64:ff9b::a9fe:a9fe]:80",
        "[2002:7f00:1::]:80",
        "[2001:0:4136:e378:8000:63bf:3fff:fdd2]:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "240.0.0.1:80",
        "metadata.google.internal:80",
        "localhost:80",
        "10.0.0.1:0",
        "10.0.0.1",
        "2130706433:80",
        "0x7f000001:80",
        ":80",
    ],
)
def test_c38_a_gateway_connects_to_no_address_of_its_own_and_to_no_metadata(target: str) -> None:
    assert why_refused(target, False)


def test_c38_loopback_is_taken_where_the_operator_allowed_it_and_nothing_else_is() -> None:
    assert why_refused("127.0.0.1:80", True) is None and why_refused("[::1]:80", True) is None
    for target in ("169.254.169.254:80", "0.0.0.0:80", "[::ffff:127.0.0.1]:80", "localhost:80"):
        assert why_refused(target, True)
    for target in ("10.0.0.1:80", "192.168.1.1:8080", "[2001:db8::1]:443", "[fd12::1]:80", "100.64.0.1:80"):
        assert why_refused(target, False) is None


def estate(*reported: Instance, imports: tuple[Import, ...] = (WEB,), gateways: tuple[str, ...] = ("gw1",)) -> Snapshot:
    made = authority([Host(name="gw1")])
    known = {name: Gateway(name=name, address="10.0.0.9:7443") for name in gateways}
    return Snapshot(
        authority=replace(made, imports={one.id: one for one in imports}, gateways=known),
        reported={"gateway:gw1": reported, "gw1": (instance("web", "gw1"),)},
    )


def test_a_snapshot_counts_what_is_signed_and_no_word_of_a_host_with_the_gateways_name() -> None:
    other = msgspec.structs.replace(GOOD, target="10.0.0.2:8080", labels={"tier": "db"})
    made = estate(GOOD, other)
    service = made.service("web")
    assert service is not None and (service.instances, service.port) == ((GOOD,), 80)
    assert made.offers("gateway:gw1") == (GOOD,) == made.reported_on("gateway:gw1")
    assert made.offers("gw1") == ()


@pytest.mark.parametrize("missing", ["import", "gateway", "revoked"])
def test_without_its_import_or_its_gateway_nothing_counts(missing: str) -> None:
    made = estate(GOOD)
    state = made.authority
    if missing == "import":
        after, key = replace(state, imports={}), "import/web/gw1"
    elif missing == "gateway":
        after, key = replace(state, gateways={}), "gateway/gw1"
    else:
        body = msgspec.structs.replace(revocation("x"), spiffe_id="spiffe://t.internal/gateway/gw1")
        after, key = replace(state, revoked_identities={body.spiffe_id: body}), "revoke/gateway/gw1"
    assert made.service("web") is not None
    assert made.evolved(authority=after).services == {}
    assert made.evolved(Touched(keys=frozenset([key])), authority=after).services == {}
    assert Snapshot(authority=after, reported=made.reported).services == {}
