"""The loop, listeners and local sockets at their edges: numbers used again, crashes, hangups that must not spin."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.relay.listener import Listener
from bridge.relay.local import LocalSocket
from bridge.relay.loop import READ, Loop
from bridge.tunnels.frames import Code, Open
from bridge.tunnels.session import Stream
from tests.support.relay_pair import Contexts, Pump, Rig, local_pair, make_contexts, read_all


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(Path(tmp_path_factory.mktemp("identities")), time.time())


@pytest.fixture
def rig(contexts: Contexts) -> Iterator[Rig]:
    rig = Rig.up(contexts)
    yield rig
    rig.close()


class Told:
    """A handler that writes down what it was told, and may do something."""

    def __init__(self) -> None:
        self.events: list[int] = []
        self.crash: BaseException | None = None
        self.fails = False
        self.crash_fails = False

    def ready(self, events: int) -> None:
        self.events.append(events)
        if self.fails:
            raise RuntimeError("handler")

    def flush(self) -> None:
        self.ready(0)

    def crashed(self, error: BaseException) -> None:
        self.crash = error
        if self.crash_fails:
            raise RuntimeError("and again")


# --- The loop -----------------------------------------------------------------------------------------------------


def test_what_is_touched_for_the_next_turn_is_flushed_in_it_and_the_turn_does_not_wait() -> None:
    loop, later = Loop(), Told()
    loop.touch_next(later)
    loop.settle()
    assert not later.events, "not in this turn"
    assert loop.turn(wait=True) == 0
    assert later.events == [0]
    loop.turn()
    assert later.events == [0], "once"
    loop.close()


def test_a_number_used_again_does_not_inherit_an_event() -> None:
    """Two descriptors are ready; the first one's handler closes the second and gets its number for a new socket."""
    loop = Loop()
    pairs = [socket.socketpair() for _ in range(2)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.send(b"x")
    newcomer = Told()
    fresh: list[socket.socket] = []

    class Replaces(Told):
        def __init__(self, other: socket.socket) -> None:
            super().__init__()
            self.other = other

        def ready(self, events: int) -> None:
            if fresh:
                return
            number = self.other.fileno()
            loop.unregister(number)
            self.other.close()
            fresh.extend(socket.socketpair())
            if fresh[0].fileno() != number:
                os.dup2(fresh[0].fileno(), number)
            loop.register(number, newcomer, READ)

    loop.register(pairs[0][0].fileno(), Replaces(pairs[1][0]), READ)
    loop.register(pairs[1][0].fileno(), Replaces(pairs[0][0]), READ)
    assert loop.turn() == 2
    assert len(fresh) == 2 and newcomer.events == [], "that was the old connection's event"
    fresh[1].send(b"for the new one")
    while not newcomer.events:
        assert loop.turn()
    for sock in [*fresh, *(sock for pair in pairs for sock in pair)]:
        sock.close()
    loop.close()


def test_f43_a_handler_that_raises_is_told_and_others_go_on() -> None:
    seen: list[BaseException] = []
    loop = Loop(seen.append)
    bad, good = Told(), Told()
    bad.fails = bad.crash_fails = True
    pairs = [socket.socketpair() for _ in range(2)]
    for handler, (ours, theirs) in zip((bad, good), pairs, strict=True):
        theirs.send(b"x")
        loop.register(ours.fileno(), handler, READ)
    loop.turn()
    assert good.events and isinstance(bad.crash, RuntimeError)
    assert loop.crashes == len(seen) == 2, "the crash, and the crash of its handling"
    loop.touch(bad)
    loop.touch(good)
    loop.settle()
    assert good.events[-1] == 0 and loop.crashes == 4
    for sock in [sock for pair in pairs for sock in pair]:
        sock.close()
    loop.close()


def test_the_clock_is_the_owners_and_read_when_asked() -> None:
    times = iter([10.0, 11.0, 12.0])
    loop = Loop(clock=lambda: next(times))
    assert loop.now == 10.0 and loop.refresh() == 11.0
    loop.turn()
    assert loop.now == 12.0
    loop.close()


# --- Listeners ----------------------------------------------------------------------------------------------------


class Door:
    """A listening socket in a directory of its own, and who came through it."""

    def __init__(self, folder: Path) -> None:
        self.crashes: list[BaseException] = []
        self.loop = Loop(self.crashes.append)
        self.path = str(folder / "door")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(100)
        self.taken: list[socket.socket] = []
        self.made: list[socket.socket] = []
        self.room = True
        self.fails = False
        self.ahead = False
        self.back: list[Listener] = []
        self.listener = Listener(
            self.loop, self.sock, self.take, lambda: self.room, lambda: self.ahead, self.back.append
        )

    def take(self, sock: socket.socket, address: object) -> None:
        self.made.append(sock)
        if self.fails:
            raise RuntimeError("cannot")
        self.taken.append(sock)

    def knock(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        self.made.append(sock)
        sock.connect(self.path)
        return sock

    def close(self) -> None:
        self.listener.close()
        for sock in self.made:
            sock.close()
        self.loop.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


def test_connections_are_accepted_in_batches_and_do_not_block(door: Door) -> None:
    for _ in range(70):
        door.knock()
    door.loop.turn()
    assert len(door.taken) == 64
    door.loop.turn()
    assert len(door.taken) == 70 and not any(sock.getblocking() for sock in door.taken)


def test_f29_a_full_house_pauses_the_door_and_disturbs_nobody(door: Door) -> None:
    door.room = False
    waiting = door.knock()
    door.loop.turn()
    assert door.listener.paused and not door.taken
    assert door.loop.turn() == 0, "a paused listener must not spin"
    door.listener.resume()
    assert door.listener.paused
    door.room = True
    door.listener.resume()
    door.loop.turn()
    assert len(door.taken) == 1
    door.taken[0].send(b"welcome")
    assert waiting.recv(10) == b"welcome"


def test_who_is_ahead_lets_others_take_the_connection_and_takes_it_late(door: Door) -> None:
    door.ahead = True
    for _ in range(5):
        door.knock()
    door.loop.turn()
    assert not door.taken and door.back == [door.listener]
    assert door.loop.turn() == 0, "it sleeps meanwhile"
    door.listener.take_late()
    assert len(door.taken) == 2, "nobody else did: a few"
    door.loop.turn()
    assert len(door.back) == 2 and len(door.taken) == 2
    door.ahead = False
    door.listener.take_late()
    door.loop.turn()
    assert len(door.taken) == 5


def test_who_gets_ahead_while_it_accepts_leaves_the_rest(door: Door) -> None:
    for _ in range(5):
        door.knock()
    take = door.take

    def third_is_enough(sock: socket.socket, address: object) -> None:
        take(sock, address)
        door.ahead = len(door.taken) >= 3

    door.listener._accepted = third_is_enough
    door.loop.turn()
    assert len(door.taken) == 3
    door.loop.turn()
    assert door.back == [door.listener] and len(door.taken) == 3


def test_a_listener_that_stepped_back_can_be_closed(door: Door) -> None:
    door.ahead = True
    door.knock()
    door.loop.turn()
    door.listener.close()
    door.listener.take_late()
    assert not door.taken and door.loop.turn() == 0


def test_f29_running_out_of_descriptors_pauses_the_door(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.knock()

    class Empty:
        def __init__(self, sock: socket.socket) -> None:
            self.fileno = sock.fileno
            self.close = sock.close

        def accept(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(door.listener, "_sock", Empty(door.sock))
    door.loop.turn()
    assert door.listener.paused
    monkeypatch.undo()
    door.listener.resume()
    door.loop.turn()
    assert len(door.taken) == 1


def test_f43_a_connection_that_cannot_be_handled_is_closed(door: Door) -> None:
    door.fails = True
    first = door.knock()
    door.loop.turn()
    assert first.recv(1) == b"" and len(door.crashes) == 1
    door.fails = False
    door.knock()
    door.loop.turn()
    assert len(door.taken) == 1


def test_a_listener_closed_by_its_owner_while_accepting(door: Door) -> None:
    door.knock()
    door.knock()
    take = door.take

    def take_and_close(sock: socket.socket, address: object) -> None:
        take(sock, address)
        door.listener.close()

    door.listener._accepted = take_and_close
    door.loop.turn()
    assert len(door.taken) == 1 and not door.crashes
    door.listener.close()


# --- Local sockets that hang up ------------------------------------------------------------------------------------


def test_a_program_that_vanishes_while_nothing_may_be_read_does_not_spin(rig: Rig) -> None:
    """No credit is left, so nothing is read, and the program closes: a hangup that epoll reports for ever."""
    program = rig.a.open()
    Pump(rig.loop, program, bytes(600_000), shut=False)
    rig.idle()
    assert rig.a.locals[0].bytes_out < 600_000
    rig.loop.unregister(program.fileno())
    program.close()
    rig.idle()
    assert [rig.turn() for _ in range(10)] == [0] * 10
    assert not rig.a.ended, "there are bytes left in the socket"
    already = rig.a.locals[0].bytes_out
    sink = Pump(rig.loop, rig.b.services[0], b"")
    rig.until(lambda: sink.eof)
    assert len(sink.got) > already, "and they came when there was credit"
    rig.b.services[0].shutdown(socket.SHUT_WR)
    rig.idle()
    assert rig.a.results == rig.b.results == ["ok"]


def test_a_program_that_vanishes_while_its_stream_waits_for_another_try(rig: Rig) -> None:
    rig.b.serve = lambda stream, wish: rig.b.tunnel.session.refuse(stream, Code.CONNECT_FAILED, "not here")
    rig.a.on_refused = lambda local, reason: None
    program = rig.a.open()
    rig.idle()
    assert rig.a.refused
    program.close()
    rig.idle()
    assert [rig.turn() for _ in range(5)] == [0] * 5
    rig.a.locals[0].abort(Code.NO_ERROR, "failed", "no instance")
    assert rig.a.results == ["failed"]


def test_a_program_that_vanishes_while_bytes_wait_for_it(rig: Rig) -> None:
    program = rig.a.open()
    rig.idle()
    Pump(rig.loop, rig.b.services[0], bytes(600_000), shut=False)
    rig.idle()
    assert rig.a.tunnel.buffered > 0
    program.close()
    rig.idle()
    assert rig.a.results == ["failed"] and rig.a.tunnel.buffered == 0
    assert rig.b.results == ["failed"]


def test_a_released_socket_is_nobodys(rig: Rig) -> None:
    program, ours = local_pair()
    local = LocalSocket(rig.loop, ours, rig.a, None)
    assert local.release() is ours and local.release() is None
    local.abort(Code.CUT, "cut", "too late")
    ours.send(b"still open")
    assert read_all(program) == b"still open" and not rig.a.ended
    program.close()
    ours.close()


def test_a_connect_that_fails_at_once_is_a_refusal(rig: Rig) -> None:
    """A unix socket nobody listens on stands for every immediate error; those that come later are tested over TCP."""

    def connect(stream: Stream, wish: Open) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        LocalSocket(rig.loop, sock, rig.b, None).connect(rig.b.tunnel, stream, "/nowhere")  # type: ignore[arg-type]

    rig.b.serve = connect
    rig.a.open()
    rig.idle()
    assert rig.b.connect_errors == [errno.ENOENT]
    assert rig.a.refused[0].code == Code.CONNECT_FAILED and not rig.b.tunnel.session.streams


def test_a_target_that_listens_is_connected_at_once(rig: Rig) -> None:
    """Over loopback there is nothing to wait for: what came with the OPEN goes out in the same turn."""
    server = socket.create_server(("127.0.0.1", 0))

    def connect(stream: Stream, wish: Open) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        local = LocalSocket(rig.loop, sock, rig.b, None)
        local.sole = True
        local.connect(rig.b.tunnel, stream, server.getsockname())

    rig.b.serve = connect
    program = rig.a.open()
    program.send(b"early")
    rig.idle()
    target, _ = server.accept()
    with target, server:
        assert target.recv(100) == b"early" and rig.a.accepted
        target.send(b"late")
        rig.idle()
        assert read_all(program) == b"late"
        target.shutdown(socket.SHUT_WR)
        program.shutdown(socket.SHUT_WR)
        rig.idle()
        assert [rig.turn() for _ in range(5)] == [0] * 5
        assert rig.a.results == rig.b.results == ["ok"]


def test_a_connect_to_itself_is_a_refusal(rig: Rig) -> None:
    """Nobody listens on the target's port, and the kernel happens to give the connecting socket that very port."""

    def connect(stream: Stream, wish: Open) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.bind(("127.0.0.1", 0))
        LocalSocket(rig.loop, sock, rig.b, None).connect(rig.b.tunnel, stream, sock.getsockname())

    rig.b.serve = connect
    rig.a.open()
    rig.idle()
    assert rig.b.connect_errors == [errno.ECONNREFUSED]
    assert rig.a.refused[0].code == Code.CONNECT_FAILED and not rig.b.tunnel.session.streams
