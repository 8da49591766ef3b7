"""docs/protocol.md says what the code does: its tables, one by one, against the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from agents.control import enrolment, messages
from bridge import limits
from bridge.tunnels.frames import CREDIT_MAX, STREAM_ID_MAX, VERSION, Code, FrameType, Hello, Open, Reason
from bridge.tunnels.stream_state import NEXT, Event, State

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


def tables(heading: str) -> list[list[list[str]]]:
    """The tables under a heading, as rows of cells; the first row is the head."""
    without_pictures = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    text = re.split(r"^#+ ", without_pictures, flags=re.MULTILINE)
    (section,) = [part for part in text if part.startswith(heading)]
    found: list[list[list[str]]] = []
    inside = False
    for line in section.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            if not set(line) <= set("|-"):
                found[-1].append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
        inside = line.startswith("|")
    return [[[cell.strip().strip("|").strip().strip("`") for cell in row] for row in table] for table in found]


def test_the_frame_types() -> None:
    (table,) = tables("4. Frames")
    assert [(int(row[0]), row[1]) for row in table[1:]] == [(int(t), t.name) for t in FrameType]


def test_the_fields_of_json_bodies() -> None:
    (table,) = tables("4. Frames")
    bodies = {row[1]: set(re.findall(r"`(\w+)`", "`" + row[3] + "`")) for row in table[1:] if "JSON" in row[3]}
    assert bodies == {
        "HELLO": set(Hello.__struct_fields__),
        "OPEN": set(Open.__struct_fields__),
        "REFUSE": set(Reason.__struct_fields__),
        "GOAWAY": set(Reason.__struct_fields__) - {"rule"},
    }
    hello, _words = tables("HELLO, ACCEPT, REFUSE and GOAWAY on stream 0")
    assert [row[0] for row in hello[1:]] == list(Hello.__struct_fields__)
    (wish,) = tables("OPEN")
    assert [row[0] for row in wish[1:]] == list(Open.__struct_fields__)


@pytest.mark.parametrize("direction", ["SEND", "RECV"])
def test_the_states_of_a_stream(direction: str) -> None:
    table = tables("5. Streams")[direction == "RECV"]
    frames = table[0][1:]
    assert {f"{direction}_{frame}" for frame in frames} == {e.name for e in Event if e.name.startswith(direction)}
    assert [row[0] for row in table[1:]] == [state.name for state in State]
    for row in table[1:]:
        for frame, cell in zip(frames, row[1:], strict=True):
            after = NEXT[State[row[0]]][Event[f"{direction}_{frame}"]]
            said = None if cell == "–" else row[0] if cell == "=" else cell
            assert said == (after.name if after is not None else None), (row[0], frame)


def test_the_codes() -> None:
    (table,) = tables("10. Codes")
    assert [(int(row[0]), row[1]) for row in table[1:]] == [(int(code), code.word) for code in Code]


def test_the_words_for_an_identity_that_is_refused() -> None:
    _hello, words = tables("HELLO, ACCEPT, REFUSE and GOAWAY on stream 0")
    assert {row[0] for row in words[1:]} == set(refusal_words())


def refusal_words() -> list[str]:
    """Every first argument of PeerRefused in the data path."""
    found = []
    for path in (ROOT / "bridge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "PeerRefused":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
                found.append(str(node.args[0].value))
    return found


def test_the_control_messages() -> None:
    (table,) = tables("8. The control stream")
    said = {(row[0], row[1]) for row in table[1:]}
    assert said == {(tag(t), "host") for t in get_args(messages.FromHost)} | {
        (tag(t), "gateway") for t in get_args(messages.FromGateway)
    }


def test_the_enrolment_messages() -> None:
    (table,) = tables("9. Enrolment")
    said = {(row[0], row[1]) for row in table[1:]}
    assert said == {(tag(t), "guest") for t in get_args(enrolment.Question)} | {
        (tag(t), "gateway") for t in get_args(enrolment.Answer)
    }


def tag(struct: type) -> str:
    config = struct.__struct_config__  # type: ignore[attr-defined]
    return str(config.tag)


@pytest.mark.parametrize(
    ("sentence", "values"),
    [
        ("Version {}.", [VERSION]),
        ("at most {} bytes with its line feed", [limits.PREFACE_MAX]),
        ("a connection has {} s in all", [limits.PREAUTH_TIMEOUT]),
        ("at most {} connections in that stage", [limits.PREAUTH_MAX]),
        ("It is good once, for {} s", [limits.TICKET_LIFETIME]),
        ("with {} s of tolerance", [limits.CLOCK_TOLERANCE]),
        ("one object of at most {} bytes", [limits.CONTROL_BODY_MAX]),
        ("at most {} characters, and is escaped", [limits.FOREIGN_TEXT_MAX]),
        ("announces {} bytes", [limits.WINDOW_INITIAL]),
        ("keep up grow: to {} bytes", [limits.WINDOW_USUAL]),
        ("up to {} bytes. All", [limits.WINDOW_MAX]),
        ("have grown is at most {} bytes", [limits.WINDOWS_GROWN_MAX]),
        ("heard nothing for {} s", [limits.HEARTBEAT_INTERVAL]),
        ("After {} s of silence", [limits.HEARTBEAT_INTERVAL * limits.HEARTBEAT_MISSES]),
        ("nesting deeper than {} does", [limits.JSON_DEPTH_MAX]),
        ("each a 4-byte length and that many bytes of JSON, at most {}.", [limits.ENROLMENT_MAX_BYTES]),
        ("nothing moved for {} s", [2 * limits.HEARTBEAT_INTERVAL * limits.HEARTBEAT_MISSES]),
        ("body of a DATA frame | {}", [limits.FRAME_BODY_MAX]),
        ("open at once | {}, by", [limits.STREAMS_PER_TUNNEL]),
        ("per second | {}, after", [limits.OPENS_PER_SECOND]),
        ("handshake is over | {}", [limits.HANDSHAKE_MAX_BYTES]),
        ("behind one tunnel | {}", [limits.TUNNEL_BUFFERED_MAX]),
        ("that does not read | {}", [limits.ANSWERS_MAX]),
        ("to its answer | {} s", [limits.OPEN_WAIT_TIMEOUT]),
    ],
)
def test_the_numbers(sentence: str, values: list[float]) -> None:
    expected = sentence.format(*(f"{value:,.0f}" for value in values))
    assert expected in " ".join(PAGE.split()), f"the page does not say: {expected}"


def test_the_greatest_numbers_are_what_the_page_calls_them() -> None:
    assert CREDIT_MAX == STREAM_ID_MAX == 2**31 - 1
