"""Pure: requests, answers and errors as lines; and addresses that fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.admin.wire import (
    Answer,
    Request,
    WireError,
    decode_answer,
    decode_request,
    encode_line,
    socket_address,
)
from inventory.errors import AnswerIsNo, InputError, InternalError, MeshError, Unavailable


@pytest.mark.parametrize("kind", [AnswerIsNo, InputError, Unavailable, InternalError])
def test_an_error_arrives_as_it_was_raised(kind: type[MeshError]) -> None:
    line = encode_line(Answer(False, error=WireError.of(kind("it is so", where="there", hint="do this"))))
    answer = decode_answer(line[:-1])
    assert answer.error is not None
    error = answer.error.error()
    assert type(error) is kind
    assert (error.what, error.where, error.hint) == ("it is so", "there", "do this")
    bare = encode_line(Answer(False, error=WireError.of(kind("it is so"))))
    assert b"hint" not in bare and b"where" not in bare, "what there is not is not said to be empty"


def test_an_unknown_exit_code_is_our_bug() -> None:
    assert WireError("x", exit_code=3).error().exit_code == 70


def test_a_request_survives_its_line() -> None:
    request = Request("status", {"deep": {"a": [1, None]}})
    line = encode_line(request)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode_request(line[:-1]) == request


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"command":1}',
        b'{"command":"a","arguments":[]}',
        b'{"command":"a","extra":1}',
        b'{"command":"a"} {"command":"b"}',
        b'{"command":"\xff"}',
        b'{"command":"a","arguments":' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}",
        b"GET /status HTTP/1.1",
    ],
)
def test_c37_anything_but_a_request_is_refused(line: bytes) -> None:
    with pytest.raises(InputError):
        decode_request(line)


def test_an_address_always_fits(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    for home in (tmp_path, deep):
        with socket_address(home) as address:
            assert len(address) <= 107
            assert Path(address).parent.resolve() == home.resolve()
    with pytest.raises(FileNotFoundError), socket_address(deep / "gone"):
        pass
