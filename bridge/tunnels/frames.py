"""Pure: the frames of the tunnel protocol, as bytes. docs/protocol.md is the same thing in words.

     0               4       5       6               8
    +---------------+-------+-------+---------------+
    | stream id     | type  | flags | body length   |   then the body; integers are big-endian
    +---------------+-------+-------+---------------+

Nothing here knows what is legal when: that is `stream_state` and `session`.
"""

from __future__ import annotations

import enum
import struct
from typing import TypeVar

import msgspec

from bridge import limits
from bridge.errors import PeerError
from inventory.errors import InputError
from inventory.names import shown
from inventory.strict_json import decode as strict_decode

VERSION = 1
HEADER = struct.Struct(">IBBH")
HEADER_SIZE = HEADER.size
CREDIT = struct.Struct(">I")
CODE = struct.Struct(">H")
CREDIT_MAX = 2**31 - 1
STREAM_ID_MAX = 2**31 - 1


class FrameType(enum.IntEnum):
    HELLO = 1
    OPEN = 2
    ACCEPT = 3
    REFUSE = 4
    DATA = 5
    WINDOW = 6
    FIN = 7
    RESET = 8
    PING = 9
    PONG = 10
    GOAWAY = 11


class Code(enum.IntEnum):
    """Why a stream or a tunnel ended; carried by REFUSE, RESET and GOAWAY, and the same words in flow records."""

    NO_ERROR = 0
    PROTOCOL = 1
    FLOW_CONTROL = 2
    STREAM_CLOSED = 3
    FRAME_SIZE = 4
    VERSION = 5
    IDENTITY = 6
    REVOKED = 7
    DENIED = 8
    UNKNOWN_SERVICE = 9
    CONNECT_FAILED = 10
    TIMEOUT = 11
    DRAINING = 12
    LIMIT = 13
    CUT = 14
    ABORTED = 15
    INTERNAL = 16
    SHUTDOWN = 17
    BUSY = 18

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", " ")


def code_word(code: int) -> str:
    """The word for a code that may be newer than we are."""
    try:
        return Code(code).word
    except ValueError:
        return f"code {code}"


class ProtocolViolation(PeerError):
    """The peer broke the protocol; its tunnel is closed with `code`."""

    def __init__(self, code: Code, what: str) -> None:
        super().__init__(f"tunnel protocol violation: {what}", hint="the peer may run an incompatible version")
        self.code = code


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame in each direction. Unknown fields are ignored, so that later versions may add some."""

    version: int = VERSION
    window: int = limits.WINDOW_INITIAL
    """Bytes that the peer may send on a new stream before the first WINDOW."""
    max_streams: int = limits.STREAMS_PER_TUNNEL
    """Streams that the peer may have open at once."""


class Open(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A wish for a stream. Who asks is the certificate's to say (C10); only a gateway says more, of those for whom the
    signed log lets it speak."""

    service: str
    target: str = ""
    """Which instance, by its `ADDR:PORT`; empty for services of the node itself, such as `@control`."""
    host: str | None = None
    """At a gateway: on which of the hosts that it reaches the instance is; None: what it brings in itself."""
    user: str | None = None
    """The connecting process's local user, attested by the opener's agent."""
    trace: str = ""
    subject: str | None = None
    """From a gateway only: for whom it asks, as the policy writes it (`client:lpar7`)."""
    source: str | None = None
    """From a gateway only: the `ADDR:PORT` that it calls from."""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of REFUSE and GOAWAY."""

    code: int
    reason: str = ""
    rule: str | None = None


_Body = TypeVar("_Body", Hello, Open, Reason)
_encode_json = msgspec.json.Encoder().encode


def frame(stream_id: int, kind: FrameType, body: bytes = b"") -> bytes:
    """One frame with `body` of at most 65,535 bytes."""
    return HEADER.pack(stream_id, kind, 0, len(body)) + body


def encode_open(wish: Open) -> bytes:
    """The body of an OPEN frame."""
    return _encode_json(wish)


def json_frame(stream_id: int, kind: FrameType, body: Hello | Open | Reason) -> bytes:
    """A control frame."""
    return frame(stream_id, kind, _encode_json(body))


def reason_frame(stream_id: int, kind: FrameType, code: Code, reason: str, rule: str | None = None) -> bytes:
    """REFUSE or GOAWAY; our text is cut, and made encodable, so that it always fits."""
    rule = _sendable(rule) if rule is not None else None
    return json_frame(stream_id, kind, Reason(code=int(code), reason=_sendable(reason), rule=rule))


def _sendable(text: str) -> str:
    """Our text may quote a file name or an error with bytes that are not UTF-8; NUL is refused by every reader."""
    cut = text[: limits.FOREIGN_TEXT_MAX].replace("\0", " ")
    return cut.encode("utf-8", "replace").decode("utf-8")


def decode_body(body: bytes, kind: type[_Body], name: str) -> _Body:
    """A control body, strictly decoded.

    Raises:
        ProtocolViolation: too large, not JSON of that shape.
    """
    if len(body) > limits.CONTROL_BODY_MAX:
        raise ProtocolViolation(Code.FRAME_SIZE, f"{name} of {len(body)} bytes, at most {limits.CONTROL_BODY_MAX}")
    try:
        return strict_decode(body, kind, max_bytes=limits.CONTROL_BODY_MAX, what=name)
    except InputError as exc:
        raise ProtocolViolation(Code.PROTOCOL, f"bad {name}: {shown(exc.what)}") from None
