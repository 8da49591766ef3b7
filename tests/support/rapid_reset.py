"""I/O: a malicious host as a process: opens streams on one tunnel and resets each at once, as fast as they are taken.

    python -m tests.support.rapid_reset ADDRESS HOME COUNT SERVICE TARGET

HOME is the home of an enrolled host. Prints one JSON object: how long it took, and what the far end answered.
"""

from __future__ import annotations

import json
import select
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bridge.tunnels.frames import CODE, HEADER, HEADER_SIZE, Code, FrameType, Open, encode_open, frame
from tests.support.tunnel_client import TunnelClient, root_of

_BATCH = 500
_PATIENCE = 120.0


@dataclass
class Flood:
    """What came back so far; `closed` when the far end had enough."""

    tunnel: TunnelClient
    answers: Counter[str] = field(default_factory=Counter)
    closed: str = ""
    last: int = 0
    """Highest stream id that was answered with a RESET or a REFUSE."""
    _rest: bytes = b""

    def send(self, data: bytes, until: float) -> None:
        tls = self.tunnel.tls
        poll = select.poll()
        poll.register(tls, select.POLLIN | select.POLLOUT)
        view = memoryview(data)
        while view and not self.closed and time.monotonic() < until:
            try:
                view = view[tls.send(view) :]
            except ssl.SSLWantWriteError:
                poll.poll(1000)
            except OSError as exc:
                self.closed = str(exc)
            self.read()

    def read(self) -> None:
        while not self.closed:
            try:
                data = self.tunnel.tls.recv(65536)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as exc:
                self.closed = str(exc)
                return
            if not data:
                self.closed = "closed"
                return
            self._count(self._rest + data)

    def _count(self, data: bytes) -> None:
        at = 0
        while at + HEADER_SIZE <= len(data):
            stream, kind, _, size = HEADER.unpack_from(data, at)
            end = at + HEADER_SIZE + size
            if end > len(data):
                break
            word = FrameType(kind).name.lower()
            if kind in (FrameType.REFUSE, FrameType.GOAWAY):
                word += f" {Code(json.loads(data[at + HEADER_SIZE : end])['code']).word}"
            if kind in (FrameType.REFUSE, FrameType.RESET):
                self.last = max(self.last, stream)
            self.answers[word] += 1
            at = end
        self._rest = data[at:]


def main() -> None:
    address, home, count, service, target = sys.argv[1:]
    total = int(count)
    wish = encode_open(Open(service=service, target=target))
    with TunnelClient(address, identity=Path(home) / "identity.pem", root=root_of(Path(home))) as tunnel:
        assert tunnel.wait_up(), (tunnel.refused, tunnel.closed)
        flood = Flood(tunnel)
        began = time.monotonic()
        until = began + _PATIENCE
        for first in range(0, total, _BATCH):
            pairs = (
                frame(number, FrameType.OPEN, wish) + frame(number, FrameType.RESET, CODE.pack(Code.ABORTED))
                for number in range(2 * first + 1, 2 * min(first + _BATCH, total), 2)
            )
            flood.send(b"".join(pairs), until)
        poll = select.poll()
        poll.register(tunnel.tls, select.POLLIN)
        while flood.last < 2 * total - 1 and not flood.closed and time.monotonic() < until:
            poll.poll(1000)
            flood.read()
        took = time.monotonic() - began
    print(json.dumps({"seconds": took, "last": flood.last, "closed": flood.closed, "answers": flood.answers}))


if __name__ == "__main__":
    main()
