"""I/O: a bad network for packets: a program that carries them between TUN devices, late, thinly, out of order or never.

    python -m tests.support.rough_link --seed 7 --loss 0.05 --delay 0.2 --jitter 0.05 FD=10.78.0.1 FD=10.78.0.2 ...

With `--later` it carries everything at once until SIGUSR1, so that a test need not set its nodes up over a bad link.
Each FD is the TUN device of a host with that address; every packet goes to the device of its destination. TCP above it
sees what it would on such a link: nothing here knows of connections. What happens to the n-th packet from one address
to another depends on the seed and n alone. At its end (SIGTERM) it prints one JSON line: the seed, and for each pair
how many packets it carried, lost and overtook.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import select
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count

_PACKET = 65536
_IPV4 = 4


@dataclass(frozen=True)
class Roughness:
    """What a link does to packets, in each direction.

    Args:
        loss: the share that vanishes.
        delay: seconds on the way, for all.
        jitter: up to so many seconds more or less; packets keep their order all the same.
        reorder: the share that is `jitter` later than it would be, and overtaken meanwhile.
        rate: bits per second into and out of each host, one packet after the other; 0: no limit.
        queue: bytes that wait in front of that; what is above is lost.
    """

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    rate: int = 0
    queue: int = 16 * 1024


class Weather:
    """How the link is just now."""

    def __init__(self, link: Roughness) -> None:
        self.link = link


class Cable:
    """One direction of one host's cable: packets leave it one after the other."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self._free_at = 0.0

    def leaves_at(self, now: float, size: int) -> float | None:
        """When a packet that comes now is through; None when the queue is full."""
        link = self._weather.link
        if not link.rate:
            return now
        begins = max(now, self._free_at)
        if (begins - now) * link.rate / 8 + size > link.queue:
            return None
        self._free_at = begins + size * 8 / link.rate
        return self._free_at


class Pair:
    """From one address to another."""

    def __init__(self, weather: Weather, seed: int, name: str) -> None:
        self._weather = weather
        self._random = random.Random(f"{seed} {name}")
        self._last = 0.0
        self.fates: Counter[str] = Counter()

    def delay(self, now: float) -> float | None:
        """When a packet that leaves now arrives; None when it does not."""
        link = self._weather.link
        lost, late, shift = self._random.random(), self._random.random(), self._random.uniform(-1, 1)
        if lost < link.loss:
            self.fates["lost"] += 1
            return None
        at = max(self._last, now + link.delay + shift * link.jitter)
        if late < link.reorder:
            self.fates["late"] += 1
            return at + link.jitter
        self.fates["carried"] += 1
        self._last = at
        return at


class RoughLink:
    def __init__(self, devices: dict[str, int], weather: Weather, seed: int) -> None:
        self._devices = devices
        self._weather = weather
        self._seed = seed
        self._up = {address: Cable(weather) for address in devices}
        self._down = {address: Cable(weather) for address in devices}
        self._pairs: dict[tuple[str, str], Pair] = {}
        self._events: list[tuple[float, int, bool, str, bytes]] = []
        """When, a number that keeps equal times in order, whether it is through the last cable, to whom, what."""
        self._numbers = count()
        self.full = 0

    def run(self) -> None:
        """Until SystemExit."""
        poller = select.epoll()
        names = {descriptor: address for address, descriptor in self._devices.items()}
        for descriptor in names:
            os.set_blocking(descriptor, False)
            poller.register(descriptor, select.EPOLLIN)
        while True:
            wait = max(0.0, self._events[0][0] - time.monotonic()) if self._events else 0.5
            for descriptor, _ in poller.poll(wait):
                self._read(names[descriptor], descriptor)
            now = time.monotonic()
            while self._events and self._events[0][0] <= now:
                at, _, through, address, packet = heapq.heappop(self._events)
                if through:
                    os.write(self._devices[address], packet)
                else:
                    self._later(self._down[address].leaves_at(at, len(packet)), True, address, packet)

    def _read(self, source: str, descriptor: int) -> None:
        while True:
            try:
                packet = os.read(descriptor, _PACKET)
            except BlockingIOError:
                return
            if packet[0] >> 4 != _IPV4:
                continue
            destination = socket.inet_ntoa(packet[16:20])
            if destination not in self._devices:
                continue
            leaves = self._up[source].leaves_at(time.monotonic(), len(packet))
            if leaves is None:
                self.full += 1
                continue
            key = (source, destination)
            pair = self._pairs.get(key)
            if pair is None:
                pair = self._pairs[key] = Pair(self._weather, self._seed, f"{source}>{destination}")
            self._later(pair.delay(leaves), False, destination, packet)

    def _later(self, at: float | None, through: bool, address: str, packet: bytes) -> None:
        if at is not None:
            heapq.heappush(self._events, (at, next(self._numbers), through, address, packet))
        elif through:
            self.full += 1

    def story(self) -> str:
        pairs = {f"{a}>{b}": dict(pair.fates) for (a, b), pair in self._pairs.items()}
        return json.dumps({"seed": self._seed, "queue_full": self.full, "pairs": pairs})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.rough_link")
    parser.add_argument("--seed", type=int, required=True)
    for name in ("loss", "delay", "jitter", "reorder"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--rate", type=int, default=0)
    parser.add_argument("--queue", type=int, default=Roughness.queue)
    parser.add_argument("--later", action="store_true")
    parser.add_argument("devices", nargs="+", metavar="FD=ADDRESS")
    given = parser.parse_args()
    devices = {address: int(number) for number, _, address in (device.partition("=") for device in given.devices)}
    roughness = Roughness(given.loss, given.delay, given.jitter, given.reorder, given.rate, given.queue)
    weather = Weather(Roughness() if given.later else roughness)
    link = RoughLink(devices, weather, given.seed)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(weather, "link", roughness))
    signal.signal(signal.SIGTERM, lambda *_: exit())
    try:
        link.run()
    finally:
        print(link.story(), flush=True)


if __name__ == "__main__":
    main()
