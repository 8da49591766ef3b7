"""Streams through two tunnels on a socketpair: what goes in comes out, each direction ends by itself, nobody waits for
anybody else."""

from __future__ import annotations

import gc
import hashlib
import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import limits
from bridge.relay.local import LocalSocket
from bridge.tunnels.frames import Code, Open, Reason, encode_open
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


def test_a_request_and_its_answer(rig: Rig) -> None:
    program = rig.a.open("ledger")
    program.send(b"question")
    rig.until(lambda: bool(rig.b.services))
    service = rig.b.services[0]
    rig.idle()
    assert service.recv(100) == b"question"
    service.send(b"answer")
    rig.idle()
    assert program.recv(100) == b"answer"
    assert rig.a.accepted == ["ledger"]
    program.close()
    service.close()
    rig.idle()
    assert rig.a.results == rig.b.results == ["ok"]
    assert not rig.a.tunnel.session.streams and not rig.b.tunnel.session.streams
    assert (rig.a.locals[0].bytes_out, rig.a.locals[0].bytes_in) == (8, 6)
    assert (rig.b.locals[0].bytes_in, rig.b.locals[0].bytes_out) == (8, 6)


def test_the_server_may_speak_first(rig: Rig) -> None:
    program = rig.a.open("smtp")
    rig.idle()
    rig.b.services[0].send(b"220 ready")
    rig.idle()
    assert program.recv(100) == b"220 ready"


def test_either_end_of_a_tunnel_opens_streams(rig: Rig) -> None:
    program = rig.b.open("control")
    program.send(b"hello")
    rig.idle()
    assert rig.a.services[0].recv(100) == b"hello"


def test_a_client_that_ends_its_sending_side_gets_the_whole_answer(rig: Rig) -> None:
    program = rig.a.open()
    program.send(b"all of it")
    program.shutdown(socket.SHUT_WR)
    rig.idle()
    service = rig.b.services[0]
    assert read_all(service) == b"all of it" and service.recv(1) == b""
    answer = random.Random(1).randbytes(3_000_000)
    sender = Pump(rig.loop, service, answer)
    reader = Pump(rig.loop, program, b"")
    rig.until(lambda: reader.eof)
    assert reader.got == answer and not sender.error
    rig.idle()
    assert rig.a.results == rig.b.results == ["ok"]


def test_a_server_that_ends_its_sending_side_still_gets_the_rest(rig: Rig) -> None:
    program = rig.a.open()
    rig.idle()
    service = rig.b.services[0]
    service.send(b"bye")
    service.shutdown(socket.SHUT_WR)
    rig.idle()
    assert read_all(program) == b"bye" and program.recv(1) == b""
    program.send(b"one more thing")
    rig.idle()
    assert read_all(service) == b"one more thing"
    program.close()
    rig.idle()
    assert service.recv(1) == b"" and rig.a.results == rig.b.results == ["ok"]


def test_everything_arrives_in_both_directions_at_once(rig: Rig) -> None:
    size = 16 << 20
    there, back = random.Random(2).randbytes(size), random.Random(3).randbytes(size)
    program = rig.a.open()
    rig.until(lambda: bool(rig.b.services))
    ends = [Pump(rig.loop, program, there), Pump(rig.loop, rig.b.services[0], back)]
    rig.until(lambda: all(end.eof for end in ends))
    assert hashlib.sha256(ends[1].got).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256(ends[0].got).digest() == hashlib.sha256(back).digest()
    rig.idle()
    assert rig.a.results == rig.b.results == ["ok"]
    assert rig.loop.buffered == 0


def test_windows_of_a_long_flow_grow(rig: Rig) -> None:
    program = rig.a.open()
    rig.until(lambda: bool(rig.b.services))
    (stream,) = rig.b.tunnel.session.streams.values()
    assert stream.window == limits.WINDOW_INITIAL
    sink = Pump(rig.loop, rig.b.services[0], b"", shut=False)
    source = Pump(rig.loop, program, bytes(20 << 20), shut=False)
    rig.until(lambda: len(sink.got) == 20 << 20)
    assert stream.window == limits.WINDOW_MAX and not source.error


def test_a_reader_that_stops_stops_only_itself(rig: Rig) -> None:
    stuck = rig.a.open("stuck")
    Pump(rig.loop, stuck, bytes(8 << 20))  # nobody reads at the other end
    rig.idle()
    held = rig.b.tunnel.buffered
    assert 0 < held <= limits.WINDOW_MAX
    program = rig.a.open("quick")
    rig.until(lambda: len(rig.b.services) == 2)
    sink = Pump(rig.loop, rig.b.services[1], b"")
    Pump(rig.loop, program, bytes(8 << 20))
    rig.until(lambda: sink.eof)
    assert len(sink.got) == 8 << 20
    assert rig.b.tunnel.buffered == held
    # And when it reads again, everything is there.
    late = Pump(rig.loop, rig.b.services[0], b"")
    rig.until(lambda: late.eof)
    assert len(late.got) == 8 << 20 and rig.b.tunnel.buffered == 0


def test_too_much_held_for_slow_readers_cuts_a_slow_reader(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TUNNEL_BUFFERED_MAX", 200 << 10)
    for _ in range(2):
        Pump(rig.loop, rig.a.open(), bytes(1 << 20))
    rig.idle()
    assert rig.b.results == ["failed"] and "slow readers" in next(iter(rig.b.ended.values()))[1]
    assert rig.a.results == ["failed"]
    assert 0 < rig.b.tunnel.buffered <= 200 << 10


def test_an_abort_goes_through_in_both_directions(rig: Rig) -> None:
    for side, other in ((rig.a, rig.b), (rig.b, rig.a)):
        side.open()
        rig.idle()
        ours, theirs = side.locals[-1], other.locals[-1]
        ours.abort(Code.CUT, "cut", "the policy no longer allows it")
        rig.idle()
        assert side.ended[ours] == ("cut", "the policy no longer allows it")
        assert other.ended[theirs] == ("cut", "the far end ended it: cut")
        assert read_all(other.services[-1]) is None
    assert not rig.a.tunnel.session.streams and not rig.b.tunnel.session.streams


def test_bytes_for_a_socket_that_died_do_not_disturb(rig: Rig) -> None:
    """The peer goes on sending until it hears of the end; what it sends is ignored, and its credit stays right."""
    program = rig.a.open()
    rig.idle()
    rig.b.services[0].close()
    Pump(rig.loop, program, bytes(1 << 20))
    rig.idle()
    assert rig.b.results == ["failed"] and rig.a.results == ["failed"]
    assert not rig.a.tunnel.session.streams and not rig.b.tunnel.session.streams
    assert rig.a.tunnel.closed is None
    again = rig.a.open()
    again.send(b"x")
    rig.idle()
    assert rig.b.services[1].recv(10) == b"x"


# --- Refusals and second tries ------------------------------------------------------------------------------------


def test_a_refusal_reaches_the_owner_with_its_reason(rig: Rig) -> None:
    rig.b.serve = lambda stream, wish: rig.b.tunnel.session.refuse(stream, Code.DENIED, "no rule", rule="r1")
    program = rig.a.open("cards")
    program.send(b"early")
    rig.idle()
    assert rig.a.refused == [Reason(code=int(Code.DENIED), reason="no rule", rule="r1")]
    assert rig.a.results == ["refused"] and read_all(program) is None
    assert not rig.a.tunnel.session.streams and not rig.b.tunnel.session.streams


@pytest.mark.parametrize("end_early", [False, True])
@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_after_a_refusal_early_bytes_go_again_on_another_stream(rig: Rig, size: int, end_early: bool) -> None:
    def refuse_once(stream: Stream, wish: Open) -> None:
        rig.b.serve = rig.b._join
        rig.b.tunnel.session.refuse(stream, Code.CONNECT_FAILED, "not here")

    rig.b.serve = refuse_once
    rig.a.on_refused = lambda local, reason: local.open(rig.a.tunnel, encode_open(Open(service="again")))
    data = random.Random(4).randbytes(size)
    program = rig.a.open("first")
    pump = Pump(rig.loop, program, data or b"", shut=end_early)
    if not data and end_early:
        program.shutdown(socket.SHUT_WR)
    rig.until(lambda: bool(rig.b.services))
    sink = Pump(rig.loop, rig.b.services[0], b"answer")
    rig.until(lambda: len(sink.got) == size and len(pump.got) == 6 and sink.eof == end_early)
    assert sink.got == data and pump.got == b"answer"
    assert rig.a.locals[0].bytes_out == size


def test_early_bytes_are_kept_up_to_a_limit_whatever_the_peers_window(contexts: Contexts) -> None:
    rig = Rig.up(contexts)
    rig.b.serve = lambda stream, wish: held.append(stream)
    held: list[Stream] = []
    program = rig.a.open()
    stream = next(iter(rig.a.tunnel.session.streams.values()))
    stream.send_credit = 1 << 30
    Pump(rig.loop, program, bytes(2 << 20))
    rig.idle()
    assert rig.a.locals[0].bytes_out == limits.EARLY_MAX
    rig.b.tunnel.session.accept(held[0])
    rig.loop.touch(rig.b.tunnel)
    rig.loop.settle()
    stream.send_credit = 1000
    rig.idle()
    assert rig.a.locals[0].bytes_out == limits.EARLY_MAX + 1000, "it goes on once it is accepted"
    rig.close()


def test_early_bytes_go_again_into_a_smaller_window(rig: Rig) -> None:
    """The second peer's HELLO may allow less than the first one's did."""

    def refuse_once(stream: Stream, wish: Open) -> None:
        rig.b.serve = rig.b._join
        rig.b.tunnel.session.refuse(stream, Code.CONNECT_FAILED, "not here")

    def again(local: LocalSocket, reason: Reason) -> None:
        hello = rig.a.tunnel.session.peer_hello
        rig.a.tunnel.session.peer_hello = type(hello)(window=100)  # type: ignore[misc]
        local.open(rig.a.tunnel, encode_open(Open(service="again")))

    rig.b.serve, rig.a.on_refused = refuse_once, again
    program = rig.a.open()
    program.send(b"x" * 1000)
    program.shutdown(socket.SHUT_WR)
    rig.until(lambda: bool(rig.b.services))
    rig.idle()
    assert read_all(rig.b.services[0]) == b"x" * 100
    stream = next(iter(rig.b.tunnel.session.streams.values()))
    for _ in range(9):
        stream.unacknowledged = limits.WINDOW_INITIAL // 2  # have it grant credit
        stream.recv_credit -= limits.WINDOW_INITIAL // 2
        rig.b.tunnel.session.consumed(stream, 0)
        rig.loop.touch(rig.b.tunnel)
        rig.loop.settle()
        rig.idle()
    assert read_all(rig.b.services[0]) == b"x" * 900
    assert rig.b.services[0].recv(1) == b"", "and the end as well"


# --- Connecting to a service --------------------------------------------------------------------------------------


def test_f43_an_exception_of_an_owner_ends_that_stream_only(contexts: Contexts) -> None:
    rig = Rig.up(contexts)
    other = rig.a.open("other")
    rig.idle()
    for victim, call in (("a", "local_accepted"), ("b", "local_connected"), ("b", "tunnel_open"), ("a", "local_ended")):
        side = getattr(rig, victim)
        original = getattr(side, call)

        def raising(*args: object) -> None:
            raise MemoryError("failpoint")

        setattr(side, call, raising)
        program = rig.a.open("victim")
        rig.idle()
        if call == "local_ended":
            program.close()
            rig.b.services[-1].close()
            rig.idle()
        setattr(side, call, original)
        assert rig.loop.crashes == len(rig.crashes) > 0, call
        rig.crashes.clear()
        rig.loop.crashes = 0
        program.close()
        rig.idle()
        assert rig.a.tunnel.closed is None and rig.b.tunnel.closed is None
        assert len(rig.a.tunnel.session.streams) == len(rig.b.tunnel.session.streams) == 1, call
        other.send(b"still here")
        rig.idle()
        assert read_all(rig.b.services[0]) == b"still here"
    rig.close()


# --- Many ---------------------------------------------------------------------------------------------------------


def test_ten_thousand_idle_streams_are_cheap(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Python's share per stream and end: socket object, LocalSocket and Stream. One pair of descriptors serves all:
    what is measured is our bookkeeping, not the kernel's."""
    import tracemalloc

    count = 10_000
    shared = local_pair()

    class _Unregistered(LocalSocket):
        __slots__ = ()

        def _watch(self) -> None:
            """All of these share one descriptor, which can be registered once only."""

    def serve(stream: Stream, wish: Open) -> None:
        local = _Unregistered(rig.loop, shared[1], rig.b, None)
        kept.append(local)
        local.join(rig.b.tunnel, stream)

    kept: list[LocalSocket] = []
    rig.b.serve = serve
    wish = encode_open(Open(service="x"))
    rig.a.accepted, rig.b.accepted = [], []
    gc.collect()
    tracemalloc.start()
    for at in range(count):
        local = _Unregistered(rig.loop, shared[0], rig.a, None)
        kept.append(local)
        local.open(rig.a.tunnel, wish)
        if at % 1000 == 999:
            rig.loop.settle()
            rig.idle()
    rig.idle()
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rig.a.accepted) == count and len(rig.b.tunnel.session.streams) == count
    per_end = used / count / 2
    with capsys.disabled():
        print(f"\n{per_end:.0f} bytes per idle stream and end, without the socket ({sys.getsizeof(shared[0])} more)")
    assert per_end < 900
    for local in kept:
        local.owner = rig.a
        local.ended = True
        if local.stream is not None:
            local.stream.sink = None
    for sock in shared:
        sock.close()
