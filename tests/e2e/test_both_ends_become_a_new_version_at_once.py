"""I/O: SIGHUP with another version on disk to both hosts in the same moment, under connections that come and go.

Each end is then away from its gateway while the other one needs a new way to it: no request fails or is held up for
longer than the change takes. Several rounds in one estate, each to a version of its own.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import estate as estates
from tests.support.estate import Estate
from tests.support.installed import Installed
from tests.support.pair import CLIENT, SERVER, start_pair, wait_connected, wait_version
from tests.support.traffic import Backend, Load

ROUNDS = 4
HELD_UP = 5.0
"""Seconds that no request may take; both ends are there again after two, on a machine that has nothing else to do."""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    made = Installed(tmp_path / "source")
    monkeypatch.setattr(estates, "ROOT", made.place)
    yield made


def not_ok(estate: Estate) -> str:
    """What both ends wrote down of streams that did not end well."""
    lines = (
        line
        for home in (CLIENT, SERVER)
        for line in estate.ok(home, "-o", "json", "flows", "--limit", "2000").splitlines()
    )
    return "\n".join(line for line in lines if '"result":"ok"' not in line)


@pytest.mark.slow
def test_f10_both_at_once(estate: Estate, installed: Installed) -> None:
    with Backend("quick") as quick:
        pair = start_pair(estate, {"quick": quick.target}, workers=2)
        place = pair.place("quick")
        for number in range(2, 2 + ROUNDS):
            version = f"{number}.0.0"
            installed.version(version)
            with Load(*place, clients=2, rate=100) as load:
                load.wait_for(50)
                began = time.monotonic()
                for home in (SERVER, CLIENT):
                    estate.nodes[home].signal(signal.SIGHUP)
                for home in (SERVER, CLIENT):
                    wait_version(estate, home, version)
                took = time.monotonic() - began
                load.wait_for(200)
            wait_connected(estate, SERVER, CLIENT)
            failed = [
                f"{why}, began {at - began:.3f} s after SIGHUP"
                for why, at in zip(load.failures, load.failed_from, strict=True)
            ]
            figures = f"slowest {load.slowest:.2f} s, all in {took:.2f} s"
            print(f"round {number}: {len(failed)} of {load.total} failed; {figures}")
            assert not failed, "\n".join([*failed, not_ok(estate)])
            assert load.slowest < HELD_UP, not_ok(estate)
