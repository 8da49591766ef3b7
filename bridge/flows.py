"""Pure: the flow record, what is remembered of one stream: who, to what, under which rule, how long, how it ended.

One flow is one JSON line. The field names are read by people's scripts: add to them, never rename one.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bridge import limits
from bridge.lines import json_line
from inventory.errors import InputError
from inventory.names import shown

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Result = Literal["ok", "refused", "cut", "failed"]
"""How a stream ended: by itself; not allowed to begin; ended by us with a reason; broken or never connected."""
RESULTS: tuple[Result, ...] = ("ok", "refused", "cut", "failed")
DIRECT = "direct"


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stream, written when it ends.

    Args:
        ts: when it was asked for, unix seconds.
        id: unique in the estate; the same in the records of both ends.
        trace_id: as the opener sent it in OPEN.
        subject: `host:NAME` or `client:NAME`.
        user: the connecting process's local user, when the opener's agent attested one.
        instance: the id of the instance it reached; empty when it reached none.
        host: the host that recorded it.
        rule: the policy rule that decided.
        via: `direct`, or the name of the gateway that spliced it.
        bytes_in: bytes towards the service.
        bytes_out: bytes from the service.
        observed: names of the rules in observe mode that matched: what they would have decided, had they been enforced.
        connect_ms: from the request until the far end accepted.
    """

    ts: float
    id: str
    subject: str
    service: str
    result: Result
    trace_id: str = ""
    user: str = ""
    instance: str = ""
    host: str = ""
    rule: str = ""
    via: str = DIRECT
    bytes_in: Count = 0
    bytes_out: Count = 0
    duration_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    connect_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    reason: str = ""
    observed: str = ""


_encode = msgspec.json.Encoder().encode
_BARE = Flow(ts=0.0, id="", subject="", service="", result="ok", via="")
_PLAIN_LINE_MAX = len(_encode(msgspec.structs.asdict(_BARE))) + limits.FOREIGN_TEXT_MAX
"""In a line of this length no text is longer than FOREIGN_TEXT_MAX: everything else takes the rest."""


def encode_flow(flow: Flow) -> bytes:
    """One JSON line of printable ASCII with its newline, at most LOG_LINE_MAX bytes.

    Always what `encode_with_care` says. Nearly every record is harmless as it is, and seen to be so for a tenth of
    the time: short, ASCII, with nothing that JSON had to escape.
    """
    if 0 <= flow.bytes_in < 2**63 and 0 <= flow.bytes_out < 2**63:
        line = _encode(msgspec.structs.asdict(flow))
        if len(line) <= _PLAIN_LINE_MAX and line.isascii() and b"\\" not in line and b"\x7f" not in line:
            return line + b"\n"
    return encode_with_care(flow)


def encode_with_care(flow: Flow) -> bytes:
    """The same, whatever is in the record."""
    return json_line({name: getattr(flow, name) for name in flow.__struct_fields__})


def decode_flow(line: bytes) -> Flow:
    """A line as `encode_flow` wrote it; fields of a newer version are passed over.

    Raises:
        InputError: not a flow record.
    """
    try:
        return msgspec.json.decode(line, type=Flow)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InputError(f"not a flow record: {shown(str(exc))}") from None
