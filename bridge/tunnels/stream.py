"""Pure: one stream's bookkeeping, and the shapes of what a session talks to. No behaviour: that is `session`."""

from __future__ import annotations

from typing import Protocol

from bridge.tunnels.frames import Hello, Open, Reason
from bridge.tunnels.stream_state import State


class Sink(Protocol):
    """The reader's end of a stream: what the session calls when something arrives for it.

    `on_refuse` and `on_reset` are the last calls. When one of them all raises, the stream is reset and `on_reset` is
    called, even when it was `on_reset` that raised.
    """

    def on_accept(self) -> None: ...
    def on_refuse(self, reason: Reason) -> None: ...
    def on_data(self, data: memoryview) -> None:
        """Must use or copy `data` before it returns."""

    def on_fin(self) -> None: ...
    def on_reset(self, code: int) -> None: ...
    def on_window(self) -> None: ...


class Handler(Protocol):
    """The tunnel's owner: what concerns no single stream."""

    def on_hello(self, hello: Hello) -> None: ...
    def on_accepted(self) -> None: ...
    def on_refused(self, reason: Reason) -> None: ...
    def on_open(self, stream: Stream, wish: Open) -> None:
        """Must give the stream its sink (`stream.sink`) or refuse it before it returns."""

    def on_goaway(self, reason: Reason) -> None: ...
    def on_crash(self, error: BaseException) -> None:
        """A sink or `on_open` raised; its stream was reset. To be counted and told."""


class Stream:
    """One stream's bookkeeping. Credits and counters are bytes."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "id",
        "recv_credit",
        "send_credit",
        "sink",
        "state",
        "unacknowledged",
        "window",
    )

    def __init__(self, stream_id: int, state: State, *, send_credit: int, window: int) -> None:
        self.id = stream_id
        self.state = state
        self.send_credit = send_credit
        self.recv_credit = window
        self.window = window
        self.unacknowledged = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.sink: Sink | None = None
