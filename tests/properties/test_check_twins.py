"""Pure: check specs and verdicts against anything at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.checks.spec import ExchangeProbe, Expect, Send, parse_check
from agents.checks.state import Verdict
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
