"""I/O: `init` makes a whole estate or none, whenever it is killed, and can be repeated."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import trio

from agents.estate import Home, operate
from bridge.identity.identity_file import load_identity
from inventory.names import SpiffeId
from inventory.registries.consul_place import ConsulPlace
from tests.support.consul_server import ConsulServer
from tests.support.consul_server import options as consul_options

ROUNDS = 5


def init(home: Path, *more: str) -> subprocess.Popen[bytes]:
    options = ["init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:1"]
    command = [sys.executable, "-m", "cli.main", "--home", str(home), *options, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_until_it_writes(process: subprocess.Popen[bytes], home: Path) -> None:
    begun = home.parent / f".{home.name}.init"
    deadline = time.monotonic() + 30
    while not (begun.exists() or home.exists() or process.poll() is not None):
        assert time.monotonic() < deadline


def wait_until_it_was_in_consul(process: subprocess.Popen[bytes], consul: ConsulServer, place: ConsulPlace) -> None:
    while not consul.keys(place.prefix) and process.poll() is None:
        pass


async def check_whole(home: Path) -> None:
    async with operate(home) as operator:
        assert operator.state.number == 2
        assert set(operator.state.gateways) == {"gw1"}
    assert load_identity(Home(home).identity).leaf.spiffe == SpiffeId("t.internal", "gateway", "gw1")
    assert [path.name for path in home.parent.iterdir()] == [home.name]


def test_init_killed_at_any_moment_can_be_repeated(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(ROUNDS):
        home = tmp_path / str(number) / "op"
        home.parent.mkdir()
        process = init(home)
        wait_until_it_writes(process, home)
        time.sleep(chance.uniform(0, 0.03))  # the moment of the kill is the thing under test
        process.kill()
        process.wait()
        if home.exists():
            assert Home(home).has_estate, "a home that is there is whole"
            assert init(home).wait() == 64, "and not made a second time"
        else:
            assert init(home).wait() == 0
        trio.run(check_whole, home)


def test_init_killed_while_it_writes_to_consul_can_be_repeated(tmp_path: Path, seed: int, consul: ConsulServer) -> None:
    chance = random.Random(seed)
    for number in range(ROUNDS):
        home = tmp_path / str(number) / "op"
        home.parent.mkdir()
        place = consul.place(f"init-{seed}-{number}/")
        more = ("--registry", "consul", *consul_options(place))
        process = init(home, *more)
        wait_until_it_was_in_consul(process, consul, place)
        time.sleep(chance.uniform(0, 0.06))  # the moment of the kill is the thing under test
        process.kill()
        process.wait()
        expected = 64 if home.exists() else 0
        assert init(home, *more).wait() == expected
        trio.run(check_whole, home)
