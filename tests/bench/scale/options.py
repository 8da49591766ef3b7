"""Pure: what can be asked of the scale benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.scale.shape import Shape

PARTS = ("changes", "idle", "decisions", "restart", "churn", "curve")


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        team: hosts of one team: who sees the change of a team.
        seconds: how long instances come and go.
        rate: changes a second meanwhile.
        rounds: how often each change is made.
        down: seconds for which the gateway stays away, once.
        sizes: hosts of each point of the curves.
    """

    hosts: int
    services: int
    instances: int
    rules: int
    team: int
    seconds: float
    rate: float
    rounds: int
    down: float
    sizes: tuple[int, ...]
    only: tuple[str, ...]
    out: Path
    docs: bool

    @property
    def shape(self) -> Shape:
        return Shape(
            hosts=self.hosts, team=self.team, services=self.services, instances=self.instances, rules=self.rules
        )

    @property
    def is_complete(self) -> bool:
        """Whether a run of these is what docs/performance.md shows."""
        whole = (self.hosts, self.services, self.instances, self.rules) == (1000, 10_000, 100_000, 10_000)
        return whole and set(self.only) == set(PARTS) and self.rate >= 200 and self.seconds >= 60


def parse_options(arguments: Sequence[str]) -> Options:
    """Ends the program with a usage message when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="make bench-scale ARGS=...", description="One gateway with a thousand simulated hosts."
    )
    parser.add_argument("--hosts", type=int, default=1000, help="simulated hosts, a multiple of --team (default 1000)")
    parser.add_argument("--services", type=int, default=10_000, help="of all teams together (default 10000)")
    parser.add_argument("--instances", type=int, default=100_000, help="of all services together (default 100000)")
    parser.add_argument("--rules", type=int, default=10_000, help="allow rules of the policy (default 10000)")
    parser.add_argument("--team", type=int, default=10, help="hosts that see each other's services (default 10)")
    parser.add_argument("--seconds", type=float, default=60.0, help="instances come and go for this long (default 60)")
    parser.add_argument("--rate", type=float, default=200.0, help="instance changes a second meanwhile (default 200)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each change is made (default 5)")
    parser.add_argument("--down", type=float, default=30.0, help="seconds without the gateway (default 30)")
    parser.add_argument("--sizes", type=_numbers, default=(10, 100, 1000), help="of the curves (default 10,100,1000)")
    parser.add_argument("--only", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("build/bench-scale"), help="default build/bench-scale")
    parser.add_argument("--no-docs", dest="docs", action="store_false", help="leave docs/performance.md as it is")
    parser.add_argument("--quick", action="store_true", help="20 hosts, a few seconds for each part")
    asked = vars(parser.parse_args(arguments))
    quick = asked.pop("quick")
    options = Options(**asked)
    if quick:
        options = replace(
            options,
            hosts=20,
            services=200,
            instances=2000,
            rules=200,
            seconds=3.0,
            rate=50.0,
            rounds=2,
            down=3.0,
            sizes=(10,),
        )
    if min(options.hosts, options.services, options.instances, options.rules, options.team, options.rounds) < 1:
        parser.error("numbers of things are from 1 on")
    if options.hosts % options.team:
        parser.error("--hosts is a multiple of --team")
    if not (options.seconds > 0 and options.rate > 0 and options.down > 0):
        parser.error("--seconds, --rate and --down are more than 0")
    return options


def _parts(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    unknown = [word for word in words if word not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(PARTS)}")
    return words


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(sorted(int(word) for word in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise argparse.ArgumentTypeError("numbers from 1 on")
    return numbers
