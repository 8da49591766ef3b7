"""Pure: check specs and verdicts against anything at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.checks.answers import Failed
from agents.checks.kinds import ExchangeProbe, Expect, Send, Tn3270Probe
from agents.checks.spec import CODE_PAGES, parse_check
from agents.checks.ssh_exchange import Exchange
from agents.checks.state import Verdict
from agents.checks.tn3270 import Negotiation
from inventory.errors import InputError

PIECES = [
    "tcp",
    "http:",
    "/",
    "exec:",
    "send:",
    "expect:",
    '"',
    "'",
    "\\",
    "x0a",
    ";",
    "interval=",
    "tls",
    "ssh",
    "ftp",
    "tn3270",
    "warn=",
    "screen=",
    "lu=",
    "key=",
    "name=",
    "ebcdic=cp500",
    "2s",
    "=",
    " ",
    "é",
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join))
def test_any_text_is_a_check_or_an_input_error(text: str) -> None:
    try:
        parse_check(text, allow_exec=True)
    except InputError as exc:
        assert exc.where.startswith("check, character ")
        assert int(exc.where.rsplit(" ", 1)[1]) <= len(text) + 1
        assert exc.what.isprintable()


@given(st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=20)), min_size=1, max_size=6))
def test_any_bytes_can_be_sent_and_expected(steps: list[tuple[bool, bytes]]) -> None:
    steps = [*steps, (False, b"end")]
    text = " ".join(
        ("send:" if sends else "expect:") + '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'
        for sends, data in steps
    )
    assert parse_check(text).probe == ExchangeProbe(tuple(Send(d) if sends else Expect(d) for sends, d in steps))


TELNET = [bytes((255, verb)) for verb in (239, 240, 250, 251, 252, 253, 254, 255)]
TELNET += [b"\x00", b"\x18", b"\x19", b"\x28", b"\x28\x02\x04", b"\x28\x02\x06\x05", b"\x18\x01", b"\xc1"]


@given(st.lists(st.one_of(st.sampled_from(TELNET), st.binary(max_size=3)), max_size=40), st.integers(1, 5))
def test_any_telnet_means_the_same_in_any_pieces(words: list[bytes], size: int) -> None:
    """And is an answer or a reason, never an error."""
    data = b"".join(words)

    def after(pieces: list[bytes]) -> tuple[bytes, str, bool, str]:
        negotiation, said = Negotiation(Tn3270Probe(screen=b"\xc1")), b""
        try:
            for piece in pieces:
                said += negotiation.feed(piece)
        except Failed as exc:
            return b"", "", False, str(exc).partition(":")[0]  # a sample of what came depends on how much there was
        return said, negotiation.kind, negotiation.passed, ""

    assert after([data]) == after([data[at : at + size] for at in range(0, len(data), size)])


SSH = [b"SSH-2.0-x\r\n", b"\0\0\0\x0c\x0a\x02", b"\0\0\0\x0c\x04\x14"]


@given(st.lists(st.one_of(st.sampled_from(SSH), st.binary(max_size=30)), max_size=9))
def test_any_bytes_are_an_ssh_answer_or_a_reason(pieces: list[bytes]) -> None:
    exchange = Exchange()
    try:
        for piece in pieces:
            exchange.feed(piece)
    except Failed as exc:
        assert str(exc).isprintable()
    assert exchange.host_key is None, "nobody proved a key"


@given(st.sampled_from(CODE_PAGES), st.text(st.characters(min_codepoint=32, max_codepoint=255), min_size=1, max_size=9))
def test_text_is_in_its_code_page_or_refused(page: str, text: str) -> None:
    written = text.replace("\\", "\\\\").replace('"', '\\"')
    try:
        encoded = text.encode(page)
    except UnicodeEncodeError:
        with pytest.raises(InputError, match=f"is not in {page}"):
            parse_check(f'expect:"{written}";ebcdic={page}')
        return
    assert parse_check(f'expect:"{written}";ebcdic={page}').probe == ExchangeProbe((Expect(encoded),))
    assert parse_check(f'tn3270;screen="{written}";ebcdic={page}').probe == Tn3270Probe(screen=encoded, page=page)


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.booleans(), max_size=40))
def test_verdicts_agree_with_looking_back_at_the_last_results(rise: int, fall: int, results: list[bool]) -> None:
    verdict, state = Verdict(rise=rise, fall=fall), "unknown"
    for end in range(1, len(results) + 1):
        seen = results[:end]
        before = state
        if state == "unknown":
            state = "passing" if seen[-1] else "failing"
        elif state == "passing" and len(seen) > fall - 1 and not any(seen[-fall:]):
            state = "failing"
        elif state == "failing" and len(seen) > rise - 1 and all(seen[-rise:]):
            state = "passing"
        changed = verdict.result(seen[-1], "")
        assert verdict.health.state == state
        assert (changed is not None) == (state != before)
