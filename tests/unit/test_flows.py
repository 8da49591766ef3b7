"""Pure: the flow record as a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import limits
from bridge.flows import Flow, decode_flow, encode_flow, encode_with_care
from inventory.errors import InputError

FLOW = Flow(ts=1e9, id="f1", subject="host:vm1", service="ledger", result="ok", rule="r", bytes_in=5, via="gw1")


def test_a_flow_survives_its_line() -> None:
    assert decode_flow(encode_flow(FLOW)) == FLOW


def test_every_field_is_in_the_line() -> None:
    assert tuple(json.loads(encode_flow(FLOW))) == Flow.__struct_fields__


def test_c44_a_peers_text_in_every_field_gives_one_short_line() -> None:
    evil = "\n\x1b\u202e" + '"' * 65536
    flow = Flow(
        ts=1e9,
        id=evil,
        trace_id=evil,
        subject=evil,
        user=evil,
        service=evil,
        instance=evil,
        host=evil,
        rule=evil,
        via=evil,
        reason=evil,
        result="failed",
        bytes_in=2**63 - 1,
        bytes_out=2**63 - 1,
        duration_ms=1e300,
        connect_ms=1e300,
    )
    line = encode_flow(flow)
    assert len(line) <= limits.LOG_LINE_MAX
    assert line.count(b"\n") == 1
    assert "cut" not in json.loads(line)
    assert decode_flow(line).result == "failed"


_ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), max_size=limits.FOREIGN_TEXT_MAX + 2)
_TEXTS = st.one_of(_ASCII, st.text(max_size=12), st.integers(180, 260).map(lambda size: "x" * size))


@given(
    texts=st.lists(st.one_of(st.just(""), _TEXTS), min_size=10, max_size=10),
    count=st.integers(-(2**65), 2**65),
    seconds=st.floats(),
)
def test_c44_the_fast_way_writes_what_the_careful_one_does(texts: list[str], count: int, seconds: float) -> None:
    names = ("id", "trace_id", "subject", "user", "service", "instance", "host", "rule", "via", "reason")
    words = dict(zip(names, texts, strict=True))
    flow = Flow(ts=seconds, result="ok", bytes_in=count, bytes_out=5, connect_ms=seconds, **words)  # type: ignore[arg-type]
    assert encode_flow(flow) == encode_with_care(flow)


@pytest.mark.parametrize("size", [limits.FOREIGN_TEXT_MAX - 1, limits.FOREIGN_TEXT_MAX, limits.FOREIGN_TEXT_MAX + 1])
def test_c44_one_long_text_is_cut_at_the_same_length(size: int) -> None:
    flow = Flow(ts=0.0, id="", subject="", service="", result="ok", via="", reason="r" * size)
    assert encode_flow(flow) == encode_with_care(flow)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b'{"ts":1}',
        b"\xff",
        b"[" * 100_000,
        b'{"ts":1,"id":"","subject":"","service":"","result":"x"}',
    ],
)
def test_anything_else_is_an_input_error(line: bytes) -> None:
    with pytest.raises(InputError, match="not a flow record"):
        decode_flow(line)


def test_fields_of_a_newer_version_are_passed_over() -> None:
    line = encode_flow(FLOW)[:-2] + b',"colour":"red"}\n'
    assert decode_flow(line) == FLOW
