"""Pure: single entries: what can be said, and that only the bytes that were signed count."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from inventory.authority import (
    AuthorityError,
    Entry,
    SignedEntry,
    decode_signed,
    encode_signed,
    genesis_fingerprint,
    sign_entry,
    verify_entry,
)
from inventory.authority.bodies import (
    Body,
    GatewayBody,
    HostBody,
    InstanceBody,
    InviteBody,
    OperatorBody,
    PolicyBody,
    RevokeBody,
    entry_key,
)
from inventory.authority.entries import ENTRY_MAX_BYTES
from inventory.errors import InputError
from inventory.model import Gateway, Host, Instance
from tests.support import authority as say
from tests.support.authority import ALICE, BOB

BODIES: list[tuple[Body, str]] = [
    (say.domain(), "domain"),
    (say.add_operator(BOB), f"operator/{BOB.public}"),
    (say.gateway("gw1"), "gateway/gw1"),
    (say.host("vm1.dc1", "web"), "host/vm1.dc1"),
    (say.invite(7), "invite/invite-7"),
    (say.policy(), "policy"),
    (say.revoke("vm1", "k"), "revoke/host/vm1"),
    (say.instance("web", "vm1"), "service/web/vm1/127.0.0.1:9000"),
    (say.imported("web", "gw1", source="Web_1", tags=("a", "urlprefix-/x"), port=80), "import/web/gw1"),
]


@pytest.mark.parametrize("body, key", BODIES)
def test_each_kind_survives_the_wire(body: Body, key: str) -> None:
    signed = decode_signed(encode_signed(say.entry(3, body)))
    verified = verify_entry(signed)
    assert (verified.body, verified.key, verified.number) == (body, key, 3)
    assert entry_key(body) == key
    assert verified.hash == genesis_fingerprint(signed)


def test_h20_the_same_entry_in_other_bytes_does_not_verify() -> None:
    signed = say.entry(1, say.domain())
    fields = msgspec.json.decode(signed.payload)
    reordered = {name: fields[name] for name in reversed(fields)}
    for payload in (
        json.dumps(fields).encode(),
        msgspec.json.encode(reordered),
        signed.payload + b"\n",
        b" " + signed.payload,
        signed.payload.replace(b'"number":1', b'"number": 1'),
        signed.payload.replace(b"alice", rb"\u0061lice"),
    ):
        assert payload != signed.payload
        with pytest.raises(AuthorityError, match="signature"):
            verify_entry(SignedEntry(payload, signed.signature))


def test_h19_a_bad_signature_is_refused() -> None:
    signed = say.entry(4, say.policy())
    flipped = bytes([signed.signature[0] ^ 1]) + signed.signature[1:]
    for signature in (flipped, b"", signed.signature[:63], signed.signature * 2, bytes(64)):
        with pytest.raises(AuthorityError, match="entry 4: the signature") as caught:
            verify_entry(SignedEntry(signed.payload, signature))
        assert caught.value.number == 4


def test_h19_a_good_signature_over_a_changed_entry_is_refused() -> None:
    signed = say.entry(4, say.policy())
    with pytest.raises(AuthorityError, match="signature"):
        verify_entry(SignedEntry(say.tampered(signed, number=5), signed.signature))
    with pytest.raises(AuthorityError, match="signature"):
        verify_entry(SignedEntry(say.tampered(signed, operator=BOB.public), signed.signature))


def test_a_signature_for_another_purpose_is_no_entry() -> None:
    payload = say.entry(1, say.domain()).payload
    with pytest.raises(AuthorityError, match="signature"):
        verify_entry(SignedEntry(payload, ALICE.sign(payload)))


def test_one_signs_only_for_oneself() -> None:
    entry = Entry(number=1, previous="0" * 64, at=0, operator=BOB.public, message="", body=say.domain())
    with pytest.raises(AuthorityError, match="another operator"):
        sign_entry(entry, ALICE)


def test_h19_an_unknown_kind_is_refused() -> None:
    signed = say.sign_bytes(say.tampered(say.entry(2, say.policy()), body={"kind": "root", "name": "x"}))
    with pytest.raises(AuthorityError, match="Invalid value 'root'"):
        verify_entry(signed)


def test_h19_an_unknown_field_is_refused() -> None:
    good = say.entry(2, say.host())
    body = msgspec.json.decode(good.payload)["body"]
    host = {**body["host"], "admin": True}
    for payload in (
        say.tampered(good, note="x"),
        say.tampered(good, body={**body, "note": "x"}),
        say.tampered(good, body={**body, "host": host}),
    ):
        with pytest.raises(AuthorityError, match="unknown field"):
            verify_entry(say.sign_bytes(payload))


@pytest.mark.parametrize("payload", [b"", b"null", b"[" * 100_000, b'{"number": NaN}', b"\xff", b"\xef\xbb\xbf{}"])
def test_h14_h16_h18_signed_nonsense_is_refused(payload: bytes) -> None:
    with pytest.raises(AuthorityError):
        verify_entry(say.sign_bytes(payload))


def test_h21_an_entry_by_a_small_order_key_is_refused() -> None:
    weak = "01" + "00" * 31
    payload = say.tampered(say.entry(1, say.domain()), operator=weak)
    with pytest.raises(AuthorityError, match="small order"):
        verify_entry(SignedEntry(payload, bytes.fromhex(weak) + bytes(32)))
    with pytest.raises(InputError, match="small order"):
        OperatorBody(key=weak, name="weak")


@pytest.mark.parametrize("field, value", [("number", 0), ("number", -1), ("previous", "x"), ("message", "m" * 1001)])
def test_an_entry_checks_itself(field: str, value: object) -> None:
    with pytest.raises(AuthorityError):
        verify_entry(say.sign_bytes(say.tampered(say.entry(1, say.domain()), **{field: value})))


def test_an_entry_has_a_largest_size() -> None:
    body = say.domain(root_certificate=say.ROOT + "A" * ENTRY_MAX_BYTES)
    with pytest.raises(AuthorityError, match="at most"):
        say.entry(1, body)


@pytest.mark.parametrize("bad", [*',;:/*?%_@"\\ \n\0', "Vm1", "vm1.", "-vm", "xn--a", "localhost", "vm1..a", "é", ""])
def test_c09_names_outside_the_grammar_are_never_signed(bad: str) -> None:
    name = bad if len(bad) != 1 else f"v{bad}m"
    for make in (
        lambda: say.host(name),
        lambda: say.host("vm1", name),
        lambda: say.gateway(name),
        lambda: say.instance(name, "vm1"),
        lambda: say.instance("web", name),
        lambda: say.invite(1, name),
        lambda: say.revoke(name),
        lambda: say.domain(trust_domain=name),
    ):
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: say.domain(root_certificate="x"),
        lambda: say.domain(operator_name="a\nb"),
        lambda: GatewayBody(gateway=Gateway(name="gw1", address="gw1")),
        lambda: HostBody(host=Host(name="vm1", site="Dc1")),
        lambda: HostBody(host=Host(name="vm1", labels={"a=b": "c"})),
        lambda: HostBody(host=Host(name="vm1", labels={"OS": "aix"})),
        lambda: HostBody(host=Host(name="vm1", labels={f"k{i}": "v" for i in range(65)})),
        lambda: HostBody(host=Host(name="vm1", draining="x" * 1000)),
        lambda: HostBody(host=Host(name="vm1", serving_only=True)),
        lambda: InviteBody(id="a/b-c", role="host", name="vm1", secret_hash="0" * 64, expires_at=1),
        lambda: InviteBody(id="abcd", role="gateway", name="a.b", secret_hash="0" * 64, expires_at=1),
        lambda: InviteBody(id="abcd", role="host", name="vm1", secret_hash="secret", expires_at=1),
        lambda: PolicyBody(denies=(), allow_root="x", allow_count=0, source_hash="0" * 64),
        lambda: PolicyBody(denies=(), allow_root="0" * 64, allow_count=-1, source_hash="0" * 64),
        lambda: RevokeBody(spiffe_id="spiffe://t/host/../x", keys=(), reason=""),
        lambda: RevokeBody(spiffe_id="spiffe://t.internal/host/vm1", keys=("x",), reason=""),
        lambda: say.instance(port=0),
        lambda: say.instance(port=65536),
        lambda: InstanceBody(instance=Instance(service="web", host="vm1", target="0.0.0.0:80", port=80)),
        lambda: InstanceBody(instance=Instance(service="web", host="vm1", target="127.0.0.1:080", port=80)),
        lambda: InstanceBody(instance=Instance(service="web", host="vm1", target="10.0.0.1:80", port=80, weight=-1)),
    ],
)
def test_bodies_check_themselves(make: Callable[[], Body]) -> None:
    with pytest.raises(InputError):
        make()


def test_a_policy_body_lists_deny_rules_only() -> None:
    from inventory.policy_rules import Rule

    rule = Rule(name="r", effect="allow", sources=("host:a",), to=("web",))
    with pytest.raises(InputError, match="'r' stands among the deny rules"):
        PolicyBody(denies=(rule,), allow_root="0" * 64, allow_count=0, source_hash="0" * 64)
