"""I/O: whoever is killed while a host enrols, at any moment: one key, one identity, and the token still works (F04).

joining process ----- TCP -----> listener of the test, or a real gateway
killed again and again           killed once
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agents.control.enrolment import EnrolmentServer
from agents.control.joining import JoinOptions, join
from agents.estate import Home, Operator, operate
from agents.knowledge.key_holders import keys_of
from agents.operating import bootstrap
from agents.operating.hosts import add_host, new_host
from bridge.identity.identity_file import load_identity
from bridge.identity.issuer import Issuer
from bridge.identity.tokens import parse_token
from inventory.authority import Slice, read_refusals
from inventory.errors import AnswerIsNo
from inventory.names import SpiffeId
from tests.support.estate import OPERATOR, Estate

ROUNDS = 6
GUESTS = 50


class Listener:
    """A plain TCP listener that hands everything to `serve_guest`; `on_guest` hears of each connection first."""

    def __init__(self, server: EnrolmentServer, address: str) -> None:
        self._server = server
        self.address = address
        self.on_guest: Callable[[], None] = lambda: None
        self.issued: list[str] = []

    async def handle(self, stream: trio.SocketStream) -> None:
        self.on_guest()
        sock = socket.socket(fileno=os.dup(stream.socket.fileno()))
        record = await self._server.serve_guest(sock, str(stream.socket.getpeername()))
        if record is not None:
            self.issued.append(record.key)


@asynccontextmanager
async def listening(tmp_path: Path) -> AsyncIterator[tuple[Operator, Listener]]:
    """An estate in tmp_path/op whose enrolment is served by this process."""
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{tcp.socket.getsockname()[1]}"
    home = Home(tmp_path / "op")
    estate = bootstrap.new_estate(domain="t.internal", gateway=f"gw1={address}", operator_name="alice")
    await bootstrap.init(home.path, estate)
    async with operate(home.path) as operator, trio.open_nursery() as nursery:
        server = EnrolmentServer(
            home.path,
            operator.registry,
            Issuer.from_pem(home.issuer.read_text()),
            state=lambda: operator.log.state,
            latest=lambda: operator.log.latest,
            refresh=operator.log.refresh,
        )
        listener = Listener(server, address)
        nursery.start_soon(trio.serve_listeners, listener.handle, [tcp])
        yield operator, listener
        nursery.cancel_scope.cancel()


async def invited(operator: Operator, name: str) -> str:
    return (await add_host(operator, new_host(name, labels={}, site=None, serves=[]))).token


def joining(home: Path, token: str) -> subprocess.Popen[bytes]:
    """`agent join -`; what it says is in HOME.err."""
    command = [sys.executable, "-m", "cli.main", "--home", str(home), "agent", "join", "-"]
    with home.with_suffix(".err").open("wb") as said, home.with_suffix(".token").open("w+") as source:
        source.write(token)
        source.seek(0)
        return subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL, stderr=said)


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await trio.to_thread.run_sync(process.wait)


def last_words(home: Path) -> str:
    return home.with_suffix(".err").read_text()


async def check_one_identity(operator: Operator, home: Path, name: str) -> None:
    """What both sides hold fits together, and there was never a second key."""
    spiffe = SpiffeId("t.internal", "host", name)
    leaf = load_identity(Home(home).identity).leaf
    assert leaf.spiffe == spiffe
    assert await keys_of(operator.registry, spiffe) == [leaf.key]
    known = Slice.decode(Home(home).slice.read_bytes(), operator.config.genesis)
    assert set(known.state.hosts) == {name}
    assert not Home(home).pending.exists()


async def test_f04_a_joining_host_killed_at_any_moment_enrols_with_the_same_key(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with listening(tmp_path) as (operator, listener):
        for number in range(ROUNDS):
            name, home = f"vm{number}", tmp_path / f"vm{number}"
            token = await invited(operator, name)
            for _ in range(2):
                connected = trio.Event()
                # The second connection is the one that asks; what comes after it is what matters most.
                left = [chance.choice([1, 2, 2])]

                def on_guest(event: trio.Event = connected, left: list[int] = left) -> None:
                    left[0] -= 1
                    if left[0] == 0:
                        event.set()

                listener.on_guest = on_guest
                process = joining(home, token)
                with trio.fail_after(30):
                    await connected.wait()
                # The moment of the kill is the thing under test.
                await trio.sleep(chance.uniform(0, 0.03))
                process.kill()
                if await ended(process) == 0 or Home(home).has_estate:
                    break  # it was faster: an enrolled home asks nobody again
            listener.on_guest = lambda: None
            if not Home(home).has_estate:
                process = joining(home, token)
                assert await ended(process) == 0, last_words(home)
            await check_one_identity(operator, home, name)
        assert len(set(listener.issued)) == ROUNDS


@pytest.mark.usefixtures("each_registry")
def test_f04_a_gateway_killed_during_enrolment_loses_nothing(estate: Estate, seed: int) -> None:
    """The joining host goes on by itself when the gateway is back."""
    chance = random.Random(seed)
    estate.init()
    estate.start_gateway()
    for number in range(3):
        name = f"vm{number}"
        home = estate.home(name)
        token = estate.ok(OPERATOR, "host", "add", name)
        process = joining(home, token)
        trio.run(trio.sleep, chance.uniform(0.2, 0.6))  # the moment of the kill is the thing under test
        estate.kill9(OPERATOR)
        estate.start_gateway()
        assert process.wait(30) == 0, last_words(home)

        async def check(name: str = name, home: Path = home) -> None:
            async with operate(estate.home(OPERATOR)) as operator:
                await check_one_identity(operator, home, name)

        trio.run(check)


async def test_c19_fifty_machines_with_one_token_make_one_identity(tmp_path: Path) -> None:
    async with listening(tmp_path) as (operator, listener):
        token = await invited(operator, "vm1")
        joined: list[Path] = []
        refused: list[str] = []

        async def guest(home: Path) -> None:
            try:
                await join(token, home, JoinOptions(), version="1")
                joined.append(home)
            except AnswerIsNo as exc:
                refused.append(exc.what)

        async with trio.open_nursery() as nursery:
            for number in range(GUESTS):
                nursery.start_soon(guest, tmp_path / f"copy{number}")
        assert len(joined) == 1
        assert refused == ["token refused"] * (GUESTS - 1)
        await check_one_identity(operator, joined[0], "vm1")
        recorded = await read_refusals(operator.registry, parse_token(token).invite)
        assert len(recorded) == GUESTS - 1
        assert all(refusal.source.startswith("('127.0.0.1'") for refusal in recorded)
        assert len(listener.issued) == 1
