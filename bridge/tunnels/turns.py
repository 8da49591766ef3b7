"""Pure: whose frames go next on a tunnel that takes less than what waits for it.

A stream that had nothing waiting goes first, then all take turns; so a keystroke passes any number of bulk streams, and
none of those gets more than another. The order within one stream is kept. DATA is cut to fit, because nothing of a
frame, nor of the TLS record around it, is of use to the peer before its last byte is there.
"""

from __future__ import annotations

from collections import deque

from bridge.tunnels.frames import HEADER, HEADER_SIZE, FrameType

_DATA = int(FrameType.DATA)
_CRUMB = 64
"""Less room than this is not worth a frame of its own."""


class Turns:
    """Frames that wait, by stream. `size` is their bytes."""

    def __init__(self) -> None:
        self.size = 0
        self._frames: dict[int, deque[bytes]] = {}
        self._sizes: dict[int, int] = {}
        self._fresh: deque[int] = deque()
        """Streams that had nothing waiting when something came, and were not served since."""
        self._round: deque[int] = deque()
        """The others. One that was served from `_fresh` stays here for one more round even when it is empty: else a
        bulk stream that is refilled as fast as it is emptied would be fresh for ever."""

    def waiting(self, stream_id: int) -> int:
        """Bytes that wait for one stream's turn."""
        return self._sizes.get(stream_id, 0)

    def add(self, frames: list[bytes]) -> None:
        """Whole frames, in the order in which they were made."""
        for frame in frames:
            stream_id = HEADER.unpack_from(frame)[0]
            queue = self._frames.get(stream_id)
            if queue is None:
                queue = self._frames[stream_id] = deque()
                self._sizes[stream_id] = 0
                self._fresh.append(stream_id)
            queue.append(frame)
            self._sizes[stream_id] += len(frame)
            self.size += len(frame)

    def take(self, most: int) -> tuple[list[bytes], list[int]]:
        """Frames of about `most` bytes (one that cannot be cut goes whole), and the streams that they are of."""
        taken: list[bytes] = []
        served: list[int] = []
        room = most
        while room > 0 and (self._fresh or self._round):
            fresh = bool(self._fresh)
            stream_id = self._fresh.popleft() if fresh else self._round.popleft()
            queue = self._frames[stream_id]
            if not queue:
                del self._frames[stream_id], self._sizes[stream_id]
                continue
            room = self._take_from(queue, stream_id, room, taken)
            served.append(stream_id)
            self._round.append(stream_id)
        return taken, served

    def _take_from(self, queue: deque[bytes], stream_id: int, room: int, taken: list[bytes]) -> int:
        """As much of one stream as there is room for; the room that is left, 0 when something did not fit."""
        while queue:
            frame = queue[0]
            if len(frame) > room and taken and (frame[4] != _DATA or room < _CRUMB):
                return 0
            if len(frame) > room and frame[4] == _DATA:
                size = max(room, _CRUMB) - HEADER_SIZE
                rest = memoryview(frame)[HEADER_SIZE + size :]
                queue[0] = HEADER.pack(stream_id, _DATA, 0, len(rest)) + rest
                frame = HEADER.pack(stream_id, _DATA, 0, size) + memoryview(frame)[HEADER_SIZE : HEADER_SIZE + size]
                self._sizes[stream_id] += HEADER_SIZE
                self.size += HEADER_SIZE
            else:
                queue.popleft()
            taken.append(frame)
            self._sizes[stream_id] -= len(frame)
            self.size -= len(frame)
            room -= len(frame)
            if room <= 0:
                return 0
        return room
