"""I/O: a host that asks for what it may not have, so many times a second, on one tunnel.

    python -m tests.support.error_flood ADDRESS HOME RATE SECONDS

HOME is the home of an enrolled host. Prints one JSON object: how many were asked, and what the far end answered.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path

from bridge.tunnels.frames import CODE, Code, FrameType, Open, encode_open, frame
from tests.support.rapid_reset import Flood
from tests.support.tunnel_client import TunnelClient, root_of

_BEAT = 0.02


def main() -> None:
    address, home, rate, seconds = sys.argv[1:]
    wish = encode_open(Open(service="secret", target="127.0.0.1:9"))
    with TunnelClient(address, identity=Path(home) / "identity.pem", root=root_of(Path(home))) as tunnel:
        assert tunnel.wait_up(), (tunnel.refused, tunnel.closed)
        flood = Flood(tunnel)
        began = time.monotonic()
        until = began + float(seconds)
        asked = answered = 0
        over = CODE.pack(Code.NO_ERROR)
        while time.monotonic() < until and not flood.closed:
            due = int((time.monotonic() - began) * float(rate))
            # A refusal is answered, or the streams would count as open.
            flood.send(b"".join(frame(2 * n + 1, FrameType.RESET, over) for n in range(answered, asked)), until)
            answered = asked
            flood.send(b"".join(frame(2 * n + 1, FrameType.OPEN, wish) for n in range(asked, due)), until)
            asked = due
            flood.read()
            time.sleep(_BEAT)
        poll = select.poll()
        poll.register(tunnel.tls, select.POLLIN)
        while flood.last < 2 * asked - 1 and not flood.closed and time.monotonic() < until + 20:
            poll.poll(1000)
            flood.read()
    answers = {"asked": asked, "seconds": time.monotonic() - began, "closed": flood.closed, "answers": flood.answers}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
