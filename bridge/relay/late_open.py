"""Pure: an OPEN that waits for its turn, because its peer sent many at once (C29).

What arrives for the stream meanwhile is kept, within its first window, and told to the real sink in the same order. A
stream that was reset before its turn costs nothing more: nobody decides, connects or records anything for it.
"""

from __future__ import annotations

from bridge.tunnels.frames import Open, Reason
from bridge.tunnels.stream import Stream


class LateOpen:
    """The stream's sink until its turn comes."""

    __slots__ = ("_data", "_has_ended", "is_over", "stream", "wish")

    def __init__(self, stream: Stream, wish: Open) -> None:
        self.stream = stream
        self.wish = wish
        self.is_over = False
        self._data = bytearray()
        self._has_ended = False
        stream.sink = self

    def replay(self) -> None:
        """The stream has its real sink now, unless it was refused."""
        sink = self.stream.sink
        if sink is not None and self._data:
            sink.on_data(memoryview(self._data))
        sink = self.stream.sink
        if sink is not None and self._has_ended:
            sink.on_fin()

    def on_data(self, data: memoryview) -> None:
        self._data += data

    def on_fin(self) -> None:
        self._has_ended = True

    def on_reset(self, code: int) -> None:
        self.is_over = True

    def on_accept(self) -> None:
        """Only who opens is told."""

    def on_refuse(self, reason: Reason) -> None:
        """Only who opens is told."""

    def on_window(self) -> None:
        """Nobody waits for it yet."""
