"""Pure: operator keys: files, signatures, and public keys that must not be believed."""

from __future__ import annotations

import pytest

from inventory.authority.keys import OperatorKey, parse_public_key, verify
from inventory.errors import InputError
from tests.support.authority import ALICE, BOB

# Ed25519: every point of order 1, 2, 4 and 8 in its canonical encoding.
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]
# y is p + something, or x is 0 with the sign bit set.
NOT_CANONICAL = [
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
# The group's order, for signatures with S + L.
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_h21_small_order_keys_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="small order"):
        parse_public_key(key)
    with pytest.raises(InputError):
        # The signature that a verifier without this check takes for almost any message.
        verify(key, b"anything", bytes.fromhex(SMALL_ORDER[0]) + bytes(32))


@pytest.mark.parametrize("key", NOT_CANONICAL)
def test_h21_keys_in_another_encoding_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="not a valid Ed25519"):
        parse_public_key(key)


@pytest.mark.parametrize("key", ["", "ab", ALICE.public.upper(), ALICE.public + "\n", ALICE.public[:-1], "é" * 64])
def test_h21_other_spellings_of_a_key_are_refused(key: str) -> None:
    with pytest.raises(InputError, match="not an operator key"):
        parse_public_key(key)


def test_h21_a_signature_has_one_form() -> None:
    signature = ALICE.sign(b"text")
    s = int.from_bytes(signature[32:], "little")
    other = signature[:32] + (s + ORDER).to_bytes(32, "little")
    assert verify(ALICE.public, b"text", signature)
    assert not verify(ALICE.public, b"text", other)


def test_a_signature_is_by_one_key_over_one_text() -> None:
    signature = ALICE.sign(b"text")
    assert not verify(BOB.public, b"text", signature)
    assert not verify(ALICE.public, b"text ", signature)
    assert not verify(ALICE.public, b"text", signature[:-1])
    assert not verify(ALICE.public, b"text", signature + b"\0")
    assert not verify(ALICE.public, b"text", b"")


def test_a_key_survives_its_file() -> None:
    key = OperatorKey.generate()
    content = key.to_bytes()
    assert content.startswith(b"meshbridge operator key v1 ") and content.count(b"\n") == 1
    assert OperatorKey.from_bytes(content).public == key.public
    assert OperatorKey.generate().public != key.public


def test_a_damaged_key_file_is_refused_without_quoting_it() -> None:
    content = ALICE.to_bytes()
    secret = content.split()[-1].decode()
    for bad in (
        b"",
        b"x",
        content[:-4],
        content + content,
        content.replace(b"v1", b"v2"),
        content.upper(),
        content * 2,
    ):
        with pytest.raises(InputError) as caught:
            OperatorKey.from_bytes(bad)
        assert secret[:8] not in f"{caught.value} {caught.value.hint}"


def test_a_key_does_not_print_itself() -> None:
    secret = ALICE.to_bytes().split()[-1].decode()
    assert repr(ALICE) == f"OperatorKey({ALICE.public})"
    assert secret not in str(ALICE)
