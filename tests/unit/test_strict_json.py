"""Pure: hostile JSON never becomes a value."""

from __future__ import annotations

import msgspec
import pytest

from inventory.errors import InputError
from inventory.names import parse_label
from inventory.strict_json import DEPTH_MAX, decode


class Message(msgspec.Struct, forbid_unknown_fields=True):
    text: str = ""
    number: float = 0.0
    items: list[object] = []


def read(data: bytes, most: int = 1024 * 1024) -> Message:
    return decode(data, Message, max_bytes=most, what="test message")


def refusal(data: bytes, most: int = 1024 * 1024) -> str:
    with pytest.raises(InputError, match=r"^test message ") as caught:
        read(data, most)
    assert caught.value.exit_code == 64
    assert len(str(caught.value)) < 200
    return str(caught.value)


def test_a_message_is_read() -> None:
    assert read(b'{"text": "a\\n\\u00e9", "number": 1.5}') == Message("a\né", 1.5)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"nan", b"1" * 5000])
def test_h14_numbers_that_are_none_are_refused(number: bytes) -> None:
    refusal(b'{"number": ' + number + b"}")
    refusal(b'{"items": [' + number + b"]}") if number != b"1" * 5000 else None


@pytest.mark.parametrize("opening, closing", [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize("depth", [DEPTH_MAX, 100_000])
def test_h16_deep_nesting_is_refused_before_decoding(opening: bytes, closing: bytes, depth: int) -> None:
    deep = b'{"items": [' + opening * depth + b"1" + closing * depth + b"]}"
    assert f"deeper than {DEPTH_MAX}" in refusal(deep)
    assert f"deeper than {DEPTH_MAX}" in refusal(deep.rstrip(closing + b"1]}"))


def test_h16_the_limit_itself_is_accepted() -> None:
    inner = DEPTH_MAX - 2
    assert read(b'{"items": [' + b"[" * inner + b"]" * inner + b"]}").items


@pytest.mark.parametrize(
    "text", [rb"[[[[" * 20, rb"\"[" * 40, rb"\\\"{" * 40, rb"\\", rb"[\\" + rb"{" * 40, rb"\"\"" + rb"[" * 40]
)
def test_h16_brackets_inside_strings_do_not_count(text: bytes) -> None:
    data = b'{"text": "' + text + b'", "items": [[], "' + text + b'", {}]}'
    assert read(data).text == msgspec.json.decode(b'"' + text + b'"')


def test_h16_strings_do_not_hide_nesting() -> None:
    deep = b'{"items": [' + b'"\\\\",["\\"",{"a\\\\\\"":' * 40
    assert "deeper" in refusal(deep)


@pytest.mark.parametrize(
    "text",
    [rb"\ud800", rb"\ude00", rb"\ud800A", rb"\ud800\ud800", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", rb"\u0000", b"\x00"],
)
def test_h18_text_that_is_none_is_refused(text: bytes) -> None:
    refusal(b'{"text": "' + text + b'"}')
    refusal(b'{"' + text + b'": 1}')


def test_h18_an_escaped_backslash_before_u0000_is_text() -> None:
    assert read(rb'{"text": "\\u0000"}').text == r"\u0000"
    assert "NUL" in refusal(rb'{"text": "\\\u0000"}')


def test_h18_a_byte_order_mark_is_refused_by_name() -> None:
    assert "byte order mark" in refusal(b"\xef\xbb\xbf{}")
    refusal("{}".encode("utf-16"))


def test_h18_ten_mebibytes_are_refused_by_size() -> None:
    assert "at most 1048576" in refusal(b'{"text": "' + b"a" * (10 * 1024 * 1024) + b'"}')


@pytest.mark.parametrize("data", [b"", b"{", b"{} {}", b"[]", b"null", b'{"text": 1}', b'{"other": 1}', b"{'text': 1}"])
def test_other_things_are_refused(data: bytes) -> None:
    refusal(data)


def test_foreign_names_are_escaped_and_cut() -> None:
    message = refusal(b'{"' + "\u202e\x7f".encode() + b"x" * 5000 + b'": 1}')
    assert message.isascii() and message.isprintable()


def test_a_value_that_checks_itself_is_refused_with_its_own_words() -> None:
    class Named(msgspec.Struct):
        name: str

        def __post_init__(self) -> None:
            parse_label(self.name, "site")

    with pytest.raises(InputError, match=r"^test message cannot be used: 'a_b' is not a site"):
        decode(b'{"name": "a_b"}', Named, max_bytes=100, what="test message")
