"""One tunnel whose peer opens many streams at once: what a turn takes, and that nothing of them is lost."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import limits
from bridge.tunnels.frames import Open
from bridge.tunnels.session import Stream
from tests.support.playbook import ACCEPT, DATA, FIN, HELLO, OPEN, RESET, Frame
from tests.support.relay_pair import Contexts, make_contexts
from tests.unit.test_relay_tunnel import Scripted


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(Path(tmp_path_factory.mktemp("identities")), time.time())


@pytest.fixture
def peer(contexts: Contexts) -> Iterator[Scripted]:
    made = Scripted(contexts)
    made.write(HELLO(), ACCEPT())
    made.read()
    yield made
    made.sock.close()
    made.tunnel._end("the test is over")
    made.loop.close()


class Heard:
    """A sink that writes down what it was told."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.code: int | None = None

    def on_data(self, data: memoryview) -> None:
        assert not self.ended
        self.data += data

    def on_fin(self) -> None:
        self.ended = True

    def on_reset(self, code: int) -> None:
        self.code = code


def send(peer: Scripted, frames: list[Frame]) -> None:
    peer.pipe.tls.write(b"".join(map(bytes, frames)))
    peer.sock.send(peer.pipe.outgoing.read())


def test_c29_a_turn_decides_a_few_and_none_that_was_reset(peer: Scripted) -> None:
    opened: list[int] = []
    peer.side.serve = lambda stream, wish: opened.append(stream.id)
    numbers = range(1, 800, 2)
    send(peer, [f for n in numbers for f in (OPEN(n, service="x"), RESET(n))])
    turns = 0
    while peer.loop.turn():
        turns += 1
        assert len(opened) <= turns * limits.OPENS_PER_TURN
    for _ in range(5):
        peer.loop.turn()
    assert len(opened) == limits.OPENS_PER_TURN, "the others were reset before their turn came"
    assert not peer.tunnel.session.streams and not peer.tunnel._late


def test_c29_all_that_were_meant_are_opened_a_few_in_each_turn_and_lose_nothing(peer: Scripted) -> None:
    heard: dict[int, Heard] = {}

    def serve(stream: Stream, wish: Open) -> None:
        heard[stream.id] = Heard()
        stream.sink = heard[stream.id]  # type: ignore[assignment]

    peer.side.serve = serve
    numbers = range(1, 400, 2)
    send(peer, [f for n in numbers for f in (OPEN(n, service="x"), DATA(n, b"one"), DATA(n, b"two"), FIN(n))])
    before = 0
    for _ in range(50):
        peer.loop.turn()
        assert len(heard) - before <= limits.OPENS_PER_TURN
        before = len(heard)
    assert sorted(heard) == list(numbers)
    assert all(sink.data == b"onetwo" and sink.ended for sink in heard.values())


def test_f43_one_that_fails_when_its_turn_comes_is_reset_alone(peer: Scripted) -> None:
    heard: dict[int, Heard] = {}

    def serve(stream: Stream, wish: Open) -> None:
        if stream.id == 99:
            raise RuntimeError("a bug")
        heard[stream.id] = Heard()
        stream.sink = heard[stream.id]  # type: ignore[assignment]

    peer.side.serve = serve
    send(peer, [OPEN(n, service="x") for n in range(1, 200, 2)])
    for _ in range(20):
        peer.loop.turn()
    assert len(heard) == 99 and peer.loop.crashes == 1
    assert all(sink.code is None for sink in heard.values())


def test_a_tunnel_that_ends_takes_those_that_wait_with_it(peer: Scripted) -> None:
    opened: list[int] = []
    peer.side.serve = lambda stream, wish: opened.append(stream.id)
    send(peer, [OPEN(n, service="x") for n in range(1, 400, 2)])
    peer.loop.turn()
    peer.sock.shutdown(socket.SHUT_RDWR)
    for _ in range(20):
        peer.loop.turn()
    assert len(opened) <= 2 * limits.OPENS_PER_TURN
    assert peer.side.tunnel_ends and not peer.tunnel._late
