"""Protocol tests as scripts: one session, a scripted peer, and a list of everything the session said and called.

    play = Playbook.up(opener=True)
    play.open("ledger")
    play.says(OPEN(1, service="ledger"))
    play.hears(ACCEPT(1))
    play.told("1 accept")

Frames are written and read here with code of its own, so that a mistake in the codec cannot hide behind itself. A
playbook that ends with something said or called and not asked for fails in `done`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from bridge import limits
from bridge.tunnels.frames import Code, Hello, Open, ProtocolViolation, Reason, encode_open
from bridge.tunnels.session import Session, Stream
from bridge.tunnels.window_budget import WindowBudget

_KINDS = ("", "HELLO", "OPEN", "ACCEPT", "REFUSE", "DATA", "WINDOW", "FIN", "RESET", "PING", "PONG", "GOAWAY")


@dataclass(frozen=True)
class Frame:
    """What travels, readable. JSON bodies are compared as values, all others as bytes."""

    stream: int
    kind: str
    body: Any = b""

    def __bytes__(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return struct.pack(">IBBH", self.stream, _KINDS.index(self.kind), 0, len(body)) + body


def HELLO(window: int = limits.WINDOW_INITIAL, max_streams: int = 20000, version: int = 1) -> Frame:
    return Frame(0, "HELLO", {"version": version, "window": window, "max_streams": max_streams})


def OPEN(stream: int, **wish: str) -> Frame:
    return Frame(stream, "OPEN", wish)


def ACCEPT(stream: int = 0) -> Frame:
    return Frame(stream, "ACCEPT")


def REFUSE(stream: int, code: Code, reason: str = "", **rule: str) -> Frame:
    said = {"reason": reason} if reason else {}
    return Frame(stream, "REFUSE", {"code": int(code), **said, **rule})


def DATA(stream: int, body: bytes) -> Frame:
    return Frame(stream, "DATA", body)


def WINDOW(stream: int, credit: int) -> Frame:
    return Frame(stream, "WINDOW", struct.pack(">I", credit))


def FIN(stream: int) -> Frame:
    return Frame(stream, "FIN")


def RESET(stream: int, code: Code = Code.NO_ERROR) -> Frame:
    return Frame(stream, "RESET", struct.pack(">H", code))


def PING(body: bytes = bytes(8)) -> Frame:
    return Frame(0, "PING", body)


def PONG(body: bytes = bytes(8)) -> Frame:
    return Frame(0, "PONG", body)


def GOAWAY(code: Code, reason: str = "") -> Frame:
    said = {"reason": reason} if reason else {}
    return Frame(0, "GOAWAY", {"code": int(code), **said})


def parse(data: bytes) -> list[Frame]:
    """Whole frames, and nothing after them."""
    found = []
    while data:
        stream, kind, flags, size = struct.unpack_from(">IBBH", data)
        body, data = data[8 : 8 + size], data[8 + size :]
        assert flags == 0 and len(body) == size, "a broken frame was written"
        is_json = _KINDS[kind] in ("HELLO", "OPEN", "GOAWAY") or (_KINDS[kind] == "REFUSE")
        found.append(Frame(stream, _KINDS[kind], json.loads(body) if is_json else body))
    return found


def take(session: Session) -> bytes:
    """What the session wants written now, urgent frames first."""
    data = b"".join(session.urgent + session.out)
    session.urgent.clear()
    session.out.clear()
    return data


class Playbook:
    """One session under test. It is its own handler, and gives every stream a sink that writes down its calls."""

    def __init__(self, *, opener: bool, max_streams: int = 20000, budget: WindowBudget | None = None) -> None:
        self.session = Session(opener=opener, handler=self, max_streams=max_streams, budget=budget)
        self.streams: dict[int, Stream] = {}
        self.received: dict[int, bytearray] = {}
        self.crash_on: set[str] = set()
        """Calls, as `told` writes them, at which the sink raises."""
        self._calls: list[str] = []

    @classmethod
    def up(
        cls,
        *,
        opener: bool,
        window: int = limits.WINDOW_INITIAL,
        max_streams: int = 20000,
        budget: WindowBudget | None = None,
    ) -> Playbook:
        """With the tunnel accepted by both ends."""
        play = cls(opener=opener, budget=budget)
        play.session.accept_tunnel()
        play.says(HELLO(), ACCEPT())
        play.hears(HELLO(window=window, max_streams=max_streams), ACCEPT())
        play.told("hello", "accepted")
        return play

    # --- the script -----------------------------------------------------------------------------------------------

    def hears(self, *frames: Frame | bytes) -> None:
        """The peer's bytes arrive, all at once."""
        data = b"".join(map(bytes, frames))
        used = self.session.receive(memoryview(data), len(data))
        assert used == len(data), f"{len(data) - used} bytes were left over"

    def breaks(self, code: Code, *frames: Frame | bytes) -> ProtocolViolation:
        """The peer's bytes are a violation with this code."""
        try:
            self.hears(*frames)
        except ProtocolViolation as violation:
            assert violation.code is code, f"{violation.code.name} instead of {code.name}: {violation.what}"
            return violation
        raise AssertionError(f"nothing was wrong with {frames}")

    def says(self, *frames: Frame) -> None:
        """Exactly these frames were sent since the last time of asking."""
        said = parse(take(self.session))
        assert said == list(frames), f"\nsaid:     {said}\nexpected: {list(frames)}"

    def told(self, *calls: str) -> None:
        """Exactly these calls were made since the last time of asking."""
        calls_made, self._calls = self._calls, []
        assert calls_made == list(calls), f"\ncalled:   {calls_made}\nexpected: {list(calls)}"

    def done(self) -> None:
        self.says()
        self.told()
        assert not self.session.streams, f"streams left: {self.session.streams}"

    def open(self, service: str) -> Stream:
        assert self.session.can_open
        sink = _WritesDown(self)
        stream = self.session.open(sink, encode_open(Open(service=service)))
        sink.id = stream.id
        self.streams[stream.id] = stream
        return stream

    # --- the handler ----------------------------------------------------------------------------------------------

    def call(self, text: str) -> None:
        self._calls.append(text)
        if text in self.crash_on:
            raise RuntimeError(text)

    def on_hello(self, hello: Hello) -> None:
        self.call("hello")

    def on_accepted(self) -> None:
        self.call("accepted")

    def on_refused(self, reason: Reason) -> None:
        self.call(f"refused {Code(reason.code).word}: {reason.reason}")

    def on_open(self, stream: Stream, wish: Open) -> None:
        sink = _WritesDown(self)
        sink.id = stream.id
        stream.sink = sink
        self.streams[stream.id] = stream
        self.call(f"open {stream.id} {wish.service}")

    def on_goaway(self, reason: Reason) -> None:
        self.call(f"goaway {Code(reason.code).word}: {reason.reason}")

    def on_crash(self, error: BaseException) -> None:
        self._calls.append(f"crash {error}")


class _WritesDown:
    """A sink."""

    def __init__(self, play: Playbook) -> None:
        self._play = play
        self.id = 0

    def on_accept(self) -> None:
        self._play.call(f"{self.id} accept")

    def on_refuse(self, reason: Reason) -> None:
        self._play.call(f"{self.id} refuse {Code(reason.code).word}: {reason.reason}")

    def on_data(self, data: memoryview) -> None:
        self._play.received.setdefault(self.id, bytearray()).extend(data)
        self._play.call(f"{self.id} data {len(data)}")

    def on_fin(self) -> None:
        self._play.call(f"{self.id} fin")

    def on_reset(self, code: int) -> None:
        self._play.call(f"{self.id} reset {Code(code).word}")

    def on_window(self) -> None:
        self._play.call(f"{self.id} window")
