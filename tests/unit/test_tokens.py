"""Join tokens: one text each, damage told apart from refusal, the secret nowhere to be seen (C20, C21, H10)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.identity import tokens
from bridge.identity.tokens import PREFIX, Token, format_token, parse_token
from inventory.errors import InputError

TOKEN = Token(
    trust_domain="t.internal",
    gateways=(("gw1", "127.0.0.1:17443"), ("gw2", "[2001:db8::1]:7443")),
    genesis="ab" * 32,
    role="host",
    name="vm1.dc1",
    invite="Zm9v-1_",
    secret=bytes(range(32)),
)
TEXT = format_token(TOKEN)


def encoded(payload: bytes) -> str:
    check = hashlib.sha256(payload).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(payload + check).rstrip(b"=").decode()


def payload_of(text: str) -> bytes:
    body = text.removeprefix(PREFIX)
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))[:-4]


def test_a_token_goes_to_text_and_back() -> None:
    assert parse_token(TEXT) == TOKEN
    assert TEXT.startswith("mb1_")
    assert len(TEXT) < 300


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}", "\n\t{} \n"])
def test_white_space_around_a_token_is_dropped(around: str) -> None:
    assert parse_token(around.format(TEXT)) == TOKEN


@pytest.mark.parametrize(
    "text",
    [
        TEXT[:40] + " " + TEXT[40:],
        TEXT[:40] + "\n" + TEXT[40:],
        TEXT.swapcase(),
        PREFIX + TEXT[4:].lower(),
        "MB1_" + TEXT[4:],
        TEXT + "=",
        TEXT + "==",
        TEXT + "A",
        TEXT.replace("_", "/").replace("-", "+"),
        TEXT + "\0",
        "\ufeff" + TEXT,
        "\xa0" + TEXT,
        TEXT * 2,
    ],
)
def test_c20_no_other_spelling_is_a_token(text: str) -> None:
    with pytest.raises(InputError, match="the token cannot be used"):
        parse_token(text)


def test_c20_unused_bits_and_the_other_alphabet_are_refused() -> None:
    # A secret whose encoding is sure to hold - or _, and a length that leaves unused bits in the last character.
    for filler in range(4):
        token = replace(TOKEN, secret=b"\xfb\xff" * 16, invite="x" * (filler + 1))
        text = format_token(token)
        assert parse_token(text) == token
        with pytest.raises(InputError, match="the token cannot be used"):
            parse_token(PREFIX + text[4:].replace("-", "+").replace("_", "/"))
        last = tokens_alphabet().index(text[-1])
        for other in tokens_alphabet()[last + 1 : last + 4]:
            with pytest.raises(InputError, match="the token cannot be used"):
                parse_token(text[:-1] + other)


def tokens_alphabet() -> str:
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_c20_the_same_fields_packed_differently_are_refused() -> None:
    payload = payload_of(TEXT)
    assert encoded(payload) == TEXT
    # str8 instead of fixstr for the first field: the same value in one byte more.
    longer = payload[:1] + b"\xd9" + bytes([len("t.internal")]) + payload[2:]
    with pytest.raises(InputError, match="not in canonical form"):
        parse_token(encoded(longer))


@given(st.integers(0, len(TEXT) - 1))
def test_h10_a_truncated_token_is_told_apart(length: int) -> None:
    with pytest.raises(InputError, match="the token cannot be used") as caught:
        parse_token(TEXT[:length])
    assert "copy the whole token again" in caught.value.hint


@given(st.integers(4, len(TEXT) - 1), st.sampled_from(tokens_alphabet()))
def test_h10_a_mistyped_token_is_told_apart(at: int, letter: str) -> None:
    changed = TEXT[:at] + letter + TEXT[at + 1 :]
    if changed != TEXT:
        with pytest.raises(InputError, match="the token cannot be used"):
            parse_token(changed)


@pytest.mark.parametrize("text", ["", " ", "mb1_", "mb2_" + TEXT[4:], "x" * 2**20, PREFIX + "A" * 2**20, "mb1_é", "\n"])
def test_h10_what_is_no_token(text: str) -> None:
    with pytest.raises(InputError, match="the token cannot be used") as caught:
        parse_token(text)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=200))
def test_h10_no_text_raises_anything_else(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(InputError):
            parse_token(candidate)


@given(st.binary(max_size=100))
def test_h10_no_payload_raises_anything_else(payload: bytes) -> None:
    with pytest.raises(InputError):
        parse_token(encoded(payload))


@pytest.mark.parametrize(
    "change",
    [
        {"trust_domain": "T.internal"},
        {"trust_domain": "t.internal."},
        {"gateways": ()},
        {"gateways": (("gw1", "127.0.0.1:7443"),) * 33},
        {"gateways": (("gw.1", "127.0.0.1:7443"),)},
        {"gateways": (("gw1", "127.0.0.1"),)},
        {"gateways": (("gw1", "[::ffff:10.0.0.1]:7443"),)},
        {"genesis": "AB" * 32},
        {"genesis": "ab"},
        {"role": "operator"},
        {"role": "root"},
        {"name": "vm_1"},
        {"name": "*"},
        {"name": "gw.1", "role": "gateway"},
        {"invite": ""},
        {"invite": "a b"},
        {"secret": b"short"},
    ],
    ids=str,
)
def test_a_token_with_a_bad_field_is_never_made(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(TOKEN, **change)


def test_a_token_too_long_is_never_made() -> None:
    name = ".".join(["a" * 60] * 4)
    gateways = tuple((f"{'g' * 50}{number}", f"{name}:7443") for number in range(32))
    with pytest.raises(InputError, match="at most 4096"):
        format_token(replace(TOKEN, gateways=gateways))


def test_the_secret_is_in_no_repr_and_no_message() -> None:
    assert repr(TOKEN.secret) not in repr(TOKEN)
    assert "secret" not in repr(TOKEN)
    with pytest.raises(InputError) as caught:
        parse_token(TEXT[:-1])
    assert TEXT[10:20] not in f"{caught.value}{caught.value.hint}"


def test_c21_secrets_are_kept_and_compared_as_hashes() -> None:
    stored = tokens.secret_hash(TOKEN.secret)
    assert stored == hashlib.sha256(TOKEN.secret).hexdigest()
    assert tokens.is_secret(TOKEN.secret, stored)
    assert not tokens.is_secret(tokens.new_secret(), stored)
    assert len(tokens.new_secret()) == tokens.SECRET_BYTES
