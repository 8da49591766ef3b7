"""The codec: bytes for bytes what docs/protocol.md says, and strict about what it reads."""

from __future__ import annotations

import pytest

from bridge import limits
from bridge.tunnels import frames
from bridge.tunnels.frames import Code, FrameType, Hello, Open, ProtocolViolation, Reason, decode_body


def test_a_header_is_eight_bytes_in_network_order() -> None:
    assert frames.frame(0x01020304, FrameType.DATA, b"xyz") == bytes.fromhex("01020304 05 00 0003") + b"xyz"
    assert frames.HEADER_SIZE == 8


def test_numbers_of_types_and_codes_never_change() -> None:
    """They are on the wire between versions."""
    assert [t.name for t in FrameType] == [
        "HELLO", "OPEN", "ACCEPT", "REFUSE", "DATA", "WINDOW", "FIN", "RESET", "PING", "PONG", "GOAWAY",
    ]  # fmt: skip
    assert [int(t) for t in FrameType] == list(range(1, 12))
    assert (Code.PROTOCOL, Code.DENIED, Code.SHUTDOWN) == (1, 8, 17)


def test_hello_says_every_limit() -> None:
    body = frames.json_frame(0, FrameType.HELLO, Hello())[8:]
    assert body == b'{"version":1,"window":65536,"max_streams":20000}'


def test_open_leaves_out_what_is_not_said() -> None:
    assert frames.encode_open(Open(service="ledger")) == b'{"service":"ledger"}'
    wish = Open(service="ledger", target="10.0.0.1:80", user="batch", trace="t1")
    assert decode_body(frames.encode_open(wish), Open, "OPEN") == wish


def test_codes_have_words_and_newer_ones_too() -> None:
    assert Code.UNKNOWN_SERVICE.word == "unknown service"
    assert frames.code_word(8) == "denied"
    assert frames.code_word(999) == "code 999"


@pytest.mark.parametrize("text", ["x" * 100_000, "\udc80 not UTF-8", "nul \0 nul", "\x01" * 5000, "é" * 5000])
def test_a_reason_always_fits_and_can_always_be_read(text: str) -> None:
    frame = frames.reason_frame(1, FrameType.REFUSE, Code.DENIED, text, rule=text)
    assert len(frame) <= limits.CONTROL_BODY_MAX
    reason = decode_body(frame[8:], Reason, "REFUSE")
    assert reason.code == Code.DENIED and reason.rule is not None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.PROTOCOL),
        (b"{}", Code.PROTOCOL),
        (b"[]", Code.PROTOCOL),
        (b'{"service":1}', Code.PROTOCOL),
        (b'{"service":"a","user":["root"]}', Code.PROTOCOL),
        (b'{"service":"a"}x', Code.PROTOCOL),
        (b'{"service":"\xff"}', Code.PROTOCOL),
        (b'{"service":"a\\u0000b"}', Code.PROTOCOL),
        (b'{"service":' + b"[" * 4000, Code.PROTOCOL),
        (b'{"service":"' + b"a" * limits.CONTROL_BODY_MAX + b'"}', Code.FRAME_SIZE),
    ],
)
def test_h11_a_bad_control_body_is_a_violation(body: bytes, code: Code) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode_body(body, Open, "OPEN")
    assert caught.value.code is code


def test_later_versions_may_add_fields() -> None:
    assert decode_body(b'{"version":1,"compression":"none"}', Hello, "HELLO") == Hello()
