"""I/O: a bad network for one TCP port: a program that passes connections on, in pieces, late, with stalls.

    python -m tests.support.chaos --seed 7 --port 0 --target 127.0.0.1:7443 --piece 1

Prints the port it listens on, and at its end (SIGTERM) one JSON line with the seed and what it did. TCP hides loss as
delay, so loss is a stall here; real loss is what tests/support/rough_link.py makes. An end of stream and a reset are
passed on as what they are, after the bytes before them. The n-th connection's pieces and stalls depend on the seed, n
and the bytes that come, and on nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import struct
from collections import Counter
from dataclasses import dataclass

import trio

_READ = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Chaos:
    """What happens to each direction of a connection.

    Args:
        piece: a write has at most so many bytes, and at random fewer; 1: every byte is a write of its own.
        delay: seconds before each write.
        stalls: the share of writes that are late by `stall` seconds.
        rate: bytes per second; 0: no limit.
    """

    piece: int = _READ
    delay: float = 0.0
    stalls: float = 0.0
    stall: float = 0.05
    rate: int = 0


class ChaosLink:
    def __init__(self, target: tuple[str, int], chaos: Chaos, seed: int) -> None:
        self._target = target
        self._chaos = chaos
        self._seed = seed
        self.seen: Counter[str] = Counter()

    async def serve(self, near: trio.SocketStream) -> None:
        number = self.seen["connections"]
        self.seen["connections"] += 1
        try:
            far = await trio.open_tcp_stream(*self._target)
        except OSError:
            self.seen["target_refused"] += 1
            return
        async with far, trio.open_nursery() as nursery:
            for way, source, sink in (("there", near, far), ("back", far, near)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                chance = random.Random(f"{self._seed} {number} {way}")
                nursery.start_soon(self._carry, source, sink, chance, nursery.cancel_scope)

    async def _carry(
        self, source: trio.SocketStream, sink: trio.SocketStream, chance: random.Random, both: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(_READ):
                await self._send(sink, memoryview(data), chance)
            await sink.send_eof()
            self.seen["ends"] += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.seen["resets"] += 1
            for stream in (source, sink):
                with contextlib.suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            both.cancel()

    async def _send(self, sink: trio.SocketStream, data: memoryview, chance: random.Random) -> None:
        chaos = self._chaos
        while data:
            size = chance.randint(1, chaos.piece)
            late = chaos.delay + (chaos.stall if chance.random() < chaos.stalls else 0.0)
            late += size / chaos.rate if chaos.rate else 0.0
            if late:
                await trio.sleep(late)
            await sink.send_all(data[:size])
            self.seen["writes"] += 1
            data = data[size:]


async def run(link: ChaosLink, port: int) -> None:
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, link.serve, listeners)
            print(listeners[0].socket.getsockname()[1], flush=True)
            await anext(signals)
            nursery.cancel_scope.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.chaos")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--target", required=True)
    parser.add_argument("--piece", type=int, default=Chaos.piece)
    for name in ("delay", "stalls", "stall"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Chaos, name))
    parser.add_argument("--rate", type=int, default=0)
    given = parser.parse_args()
    host, _, port = given.target.rpartition(":")
    chaos = Chaos(given.piece, given.delay, given.stalls, given.stall, given.rate)
    link = ChaosLink((host, int(port)), chaos, given.seed)
    trio.run(run, link, given.port)
    print(json.dumps({"seed": given.seed, **link.seen}), flush=True)


if __name__ == "__main__":
    main()
