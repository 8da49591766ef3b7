"""Pure: the flow record as a line."""

from __future__ import annotations

import json

import pytest

from bridge import limits
from bridge.flows import Flow, decode_flow, encode_flow
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
