"""I/O: one splice in a loop of its own, with a program at each end, over whatever kind of sockets the test brings.

program a ── socket ══ splice ══ socket ── program b
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

from bridge.relay.loop import Loop
from bridge.relay.splice import Splice

PATIENCE = 20.0


class SpliceBench:
    """`a` and `b` are the programs' ends; `ends` is what the owner was told."""

    def __init__(self, left: tuple[socket.socket, socket.socket], right: tuple[socket.socket, socket.socket]) -> None:
        self.crashes: list[BaseException] = []
        self.loop = Loop(self.crashes.append)
        self.a, ours_a = left
        self.b, ours_b = right
        self.ours = (ours_a, ours_b)
        self.ends: list[str] = []
        self.turns = 0
        self.splice = Splice(self.loop, ours_a, ours_b, lambda splice, reason: self.ends.append(reason))
        for sock in (self.a, self.b):
            sock.setblocking(False)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.turns += 1
            if not self.loop.turn():
                select.select([self.loop.fileno()], [], [], 0.2)
            assert time.monotonic() < deadline, "not within the time"

    def idle_turns(self, seconds: float = 0.05) -> int:
        """Turns that found something ready while nobody did anything; the first few may settle what went before."""
        deadline = time.monotonic() + PATIENCE
        quiet_since = time.monotonic()
        busy = 0
        while time.monotonic() - quiet_since < seconds:
            ready, _, _ = select.select([self.loop.fileno()], [], [], seconds)
            if ready and self.loop.turn():
                busy += 1
            if busy > 100 or time.monotonic() > deadline:
                break
        return busy

    def receive(self, sock: socket.socket, size: int) -> bytes:
        """Exactly `size` bytes, or up to the end."""
        got = bytearray()
        ended = False

        def have_them() -> bool:
            nonlocal ended
            try:
                data = sock.recv(size - len(got))
                got.extend(data)
                ended = not data
            except BlockingIOError:
                pass
            return ended or len(got) == size

        self.until(have_them)
        return bytes(got)

    def close(self) -> None:
        self.splice.close("the test is over")
        for sock in (self.a, self.b):
            sock.close()
        self.loop.close()
        assert not self.crashes, self.crashes
