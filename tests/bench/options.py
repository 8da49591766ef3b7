"""Pure: what can be asked of the benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOADS = ("requests", "connections", "bulk", "start", "idle")
SYSTEMS = ("none", "envoy", "haproxy", "nginx", "bridge", "bridge-gateway")


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        systems: names, a peer's perhaps with `:WORKERS`.
        seconds: one measurement of requests or connections; bulk takes three fifths of it.
        connections: of the request loads.
        idle: how many connections are held.
    """

    rounds: int
    seconds: float
    only: tuple[str, ...]
    systems: tuple[str, ...]
    connections: tuple[int, ...]
    idle: tuple[int, ...]
    out: Path
    docs: bool

    @property
    def is_complete(self) -> bool:
        """Whether a run of these is what docs/performance.md shows."""
        everything = set(self.only) == set(LOADS) and {1, 32, 256} <= set(self.connections)
        return everything and set(SYSTEMS) <= set(self.systems) and {2000, 10000} <= set(self.idle)


def parse_options(arguments: Sequence[str]) -> Options:
    """Ends the program with a usage message when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=...",
        description="The bridge side by side with Envoy, HAProxy and nginx, under the same load.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds through all systems (default 5)")
    parser.add_argument("--seconds", type=float, default=2.2, help="one measurement (default 2.2)")
    parser.add_argument("--only", type=_among(LOADS), default=LOADS, help=f"some of {','.join(LOADS)}")
    parser.add_argument(
        "--systems", type=_systems, default=SYSTEMS, help=f"some of {','.join(SYSTEMS)}; envoy:2 is one with 2 workers"
    )
    parser.add_argument("--connections", type=_numbers, default=(1, 32, 256), help="default 1,32,256")
    parser.add_argument("--idle", type=_numbers, default=(2000, 10000), help="default 2000,10000")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where results go (default build/bench)")
    parser.add_argument("--no-docs", dest="docs", action="store_false", help="leave docs/performance.md as it is")
    asked = parser.parse_args(arguments)
    if asked.rounds < 1 or not asked.seconds > 0:
        parser.error("--rounds and --seconds are more than 0")
    return Options(**vars(asked))


class _among:
    def __init__(self, known: Sequence[str]) -> None:
        self._known = known

    def __call__(self, text: str) -> tuple[str, ...]:
        words = tuple(text.split(","))
        unknown = [word for word in words if word not in self._known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(self._known)}")
        return words


def _systems(text: str) -> tuple[str, ...]:
    for word in text.split(","):
        name, colon, workers = word.partition(":")
        if name not in SYSTEMS or (colon and (name not in ("envoy", "haproxy", "nginx") or not workers.isdigit())):
            raise argparse.ArgumentTypeError(f"{word}: none of {', '.join(SYSTEMS)}")
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: not numbers with commas between") from None
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError("numbers from 1 on")
    return numbers
