"""One tunnel: how it comes up and ends, what waits to be written, silence, and peers that break the rules."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import limits
from bridge.relay.loop import Loop
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Code, Open, encode_open
from bridge.tunnels.records import TlsPipe
from bridge.tunnels.session import Stream
from tests.support.forged_records import Forger, pipes
from tests.support.playbook import ACCEPT, DATA, GOAWAY, HELLO, OPEN, PING, REFUSE, RESET, Frame, parse
from tests.support.relay_pair import Contexts, Pump, Rig, Side, make_contexts, read_all


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(Path(tmp_path_factory.mktemp("identities")), time.time())


@pytest.fixture
def rig(contexts: Contexts) -> Iterator[Rig]:
    rig = Rig.up(contexts)
    yield rig
    rig.close()


class Scripted:
    """One real tunnel, and a peer that writes frames or raw records by hand."""

    def __init__(self, contexts: Contexts, key_log: Path | None = None) -> None:
        self.loop = Loop()
        self.side = Side("b", self.loop)
        self.sock, ours = socket.socketpair()
        for sock in (self.sock, ours):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        if key_log is not None:
            contexts.client.keylog_filename = str(key_log)
        self.pipe, theirs = pipes(contexts.client, contexts.server)
        self.forger = Forger(key_log, self.pipe.tls) if key_log is not None else None
        peer = contexts.peers[1]
        self.tunnel = Tunnel(self.loop, ours, theirs, peer=peer, opener=False, via=None, owner=self.side)
        self.side.tunnel = self.tunnel
        self.tunnel.accept()
        self.tunnel.start()

    def write(self, *frames: Frame | bytes) -> None:
        self.pipe.tls.write(b"".join(map(bytes, frames)))
        self.raw(self.pipe.outgoing.read())

    def raw(self, records: bytes) -> None:
        """All of it, turning the loop whenever the socket is full, and until nothing is ready at the end."""
        view = memoryview(records)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                assert self.loop.turn()
            except BrokenPipeError:
                break
        self.turn()

    def turn(self) -> None:
        while self.loop.turn():
            pass

    def read(self) -> list[Frame]:
        """Every frame that came, up to the end of the connection if it has ended."""
        data = read_all(self.sock) or b""
        self.pipe.incoming.write(data)
        got = b""
        try:
            while piece := self.pipe.tls.read(1 << 16):
                got += piece
        except ssl.SSLWantReadError:
            pass
        return parse(got)

    def close(self) -> None:
        self.tunnel.close(Code.SHUTDOWN, "the test is over")
        self.loop.settle()
        for sock in [self.sock, *self.side.services]:
            sock.close()
        self.loop.close()


@pytest.fixture
def scripted(contexts: Contexts) -> Iterator[Scripted]:
    scripted = Scripted(contexts)
    yield scripted
    scripted.close()


# --- Coming up and ending -----------------------------------------------------------------------------------------


def test_the_owner_hears_once_that_it_is_up(rig: Rig) -> None:
    rig.idle()
    assert rig.a.ups == rig.b.ups == 1
    assert rig.a.tunnel.is_usable and rig.b.tunnel.is_usable


def test_an_orderly_close_tells_the_peer_why(rig: Rig) -> None:
    program = rig.a.open()
    rig.idle()
    rig.b.tunnel.close(Code.REVOKED, "host/a is revoked: stolen")
    rig.idle()
    assert rig.b.tunnel_ends == ["host/a is revoked: stolen"]
    assert rig.a.tunnel_ends == ["the peer closed the tunnel: revoked, 'host/a is revoked: stolen'"]
    assert [goaway.code for goaway in rig.a.goaways] == [Code.REVOKED]
    assert rig.a.results == rig.b.results == ["cut"]
    assert next(iter(rig.a.ended.values()))[1].startswith("the tunnel ended: the peer closed the tunnel")
    assert read_all(program) is None


def test_closing_twice_and_refusing_afterwards_is_one_end(rig: Rig) -> None:
    rig.a.tunnel.close(Code.SHUTDOWN, "first")
    rig.a.tunnel.close(Code.SHUTDOWN, "second")
    rig.a.tunnel.refuse(Code.IDENTITY, "third")
    assert not rig.a.tunnel.is_usable
    rig.idle()
    assert rig.a.tunnel_ends == ["first"] and len(rig.b.tunnel_ends) == 1
    rig.a.tunnel.tick(rig.loop.now + 100)
    rig.a.tunnel.accept()
    assert rig.a.tunnel_ends == ["first"]


def test_a_refused_tunnel_says_why_before_it_closes(contexts: Contexts) -> None:
    """The reason, the goodbye and the end of the connection arrive in one piece."""
    rig = Rig.bare(contexts)
    rig.join()
    rig.a.tunnel.accept()
    rig.b.tunnel.refuse(Code.REVOKED, "host/a is revoked")
    rig.loop.settle()
    rig.idle()
    assert rig.a.tunnel_ends == ["the peer refused the tunnel: revoked, 'host/a is revoked'"]
    assert rig.b.tunnel_ends == ["host/a is revoked"]
    assert rig.a.ups == rig.b.ups == 0
    rig.close()


def test_a_reason_that_lies_unread_when_writing_fails_is_heard(contexts: Contexts) -> None:
    """The peer refused and went; we notice when we want to write, before we have read why."""
    rig = Rig.bare(contexts)
    rig.join()
    rig.b.tunnel.refuse(Code.REVOKED, "host/a is revoked")
    rig.b.tunnel.flush()
    rig.a.tunnel.accept()
    rig.a.tunnel.flush()
    assert rig.a.tunnel_ends == ["the peer refused the tunnel: revoked, 'host/a is revoked'"]
    rig.close()


def test_what_came_with_the_end_of_the_handshake_is_acted_on(contexts: Contexts) -> None:
    rig = Rig.bare(contexts)
    rig.join()
    a, b = rig.a.tunnel, rig.b.tunnel
    a.accept()
    pipe = TlsPipe(a._tls, ssl.MemoryBIO(), a._outgoing)
    a._encrypt()
    b._records._pipe.incoming.write(pipe.outgoing.read())
    b.accept()
    b.start()
    assert rig.b.ups == 1, "nothing was read from the socket for it"
    rig.close()


def test_without_goodbye_live_streams_fail_and_untouched_ones_may_try_again(contexts: Contexts) -> None:
    """Tunnel death: what was sent early may have reached the service, so only a stream without it is tried again."""
    rig = Rig.up(contexts)
    held: list[Stream] = []
    rig.b.serve = lambda stream, wish: held.append(stream)
    rig.a.on_refused = lambda local, reason: None
    rig.a.open("untouched")
    rig.a.open("spoken").send(b"early")
    rig.a.open("ended").shutdown(socket.SHUT_WR)
    rig.idle()
    rig.sockets[1].shutdown(socket.SHUT_RDWR)
    rig.idle()
    assert rig.a.tunnel_ends == ["the peer closed the connection"]
    assert [(r.code, r.reason) for r in rig.a.refused] == [
        (Code.ABORTED, "the tunnel ended: the peer closed the connection")
    ]
    assert {str(local.context): result for local, (result, _) in rig.a.ended.items()} == {
        "spoken": "failed",
        "ended": "failed",
    }
    # The untouched one goes on over a new tunnel.
    rig.a.ups = rig.b.ups = 0
    rig.b.serve = rig.b._join
    rig.join()
    for side in (rig.a, rig.b):
        side.tunnel.accept()
        side.tunnel.start()
    rig.until(lambda: bool(rig.a.ups))
    rig.a.locals[0].open(rig.a.tunnel, encode_open(Open(service="again")))
    rig.loop.settle()
    rig.a.programs[0].send(b"hello")
    rig.idle()
    assert rig.b.services[0].recv(10) == b"hello"
    rig.close()


def test_a_reset_connection_is_said_so(contexts: Contexts) -> None:
    left, right = socket.socketpair()
    rig = Rig.up(contexts, transport=(left, right))
    right.close()
    rig.b.tunnel.closed = "vanished"
    rig.loop.unregister(rig.b.tunnel._fd)
    rig.a.tunnel.session.ping()
    rig.loop.touch(rig.a.tunnel)
    rig.idle()
    assert rig.a.tunnel_ends and "connection" in rig.a.tunnel_ends[0]
    rig.close()


def test_broken_records_end_the_tunnel_and_nothing_else(scripted: Scripted) -> None:
    scripted.write(HELLO(), ACCEPT())
    scripted.raw(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert scripted.side.tunnel_ends and scripted.side.tunnel_ends[0].startswith("TLS failed")


def test_goodbye_in_tls_alone_is_an_end(scripted: Scripted) -> None:
    scripted.write(HELLO(), ACCEPT(), OPEN(1, service="x"), DATA(1, b"last words"))
    with pytest.raises(ssl.SSLWantReadError):
        scripted.pipe.tls.unwrap()
    scripted.raw(scripted.pipe.outgoing.read())
    assert scripted.side.tunnel_ends == ["the peer closed the tunnel"]
    assert read_all(scripted.side.services[0]) == b"last words"


def test_closing_inside_a_callback_stops_everything_that_follows(scripted: Scripted) -> None:
    scripted.side.serve = lambda stream, wish: scripted.tunnel.close(Code.SHUTDOWN, "enough")
    scripted.write(HELLO(), ACCEPT(), OPEN(1, service="x"), OPEN(3, service="y"), DATA(99, b"wrong"))
    assert scripted.side.tunnel_ends == ["enough"]
    assert scripted.read()[-1] == GOAWAY(Code.SHUTDOWN, "enough")


def test_ending_inside_a_callback_is_survived(scripted: Scripted) -> None:
    scripted.side.serve = lambda stream, wish: scripted.tunnel.crashed(RuntimeError())
    scripted.write(HELLO(), ACCEPT(), OPEN(1, service="x"), OPEN(3, service="y"), DATA(1, b"x"))
    assert scripted.side.tunnel_ends == ["internal error: RuntimeError"]


# --- Waiting to be written ----------------------------------------------------------------------------------------


def test_a_tunnel_that_cannot_write_stops_its_readers_and_lets_them_go_on(rig: Rig) -> None:
    rig.idle()
    rig.loop.unregister(rig.b.tunnel._fd)  # b stops reading
    data = random.Random(5).randbytes(200_000)
    rig.a.tunnel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    programs = [rig.a.open() for _ in range(40)]
    pumps = [Pump(rig.loop, program, data) for program in programs]
    rig.idle()
    tunnel = rig.a.tunnel
    assert tunnel.waiting, "some may not add to it"
    held = tunnel.queued
    assert held < limits.TUNNEL_PENDING_MAX + 2 * limits.STREAM_TURN_BUDGET, "it stays near the limit"
    rig.loop.register(rig.b.tunnel._fd, rig.b.tunnel, 1)
    rig.until(lambda: len(rig.b.services) == 40)
    sinks = [Pump(rig.loop, service, b"") for service in rig.b.services]
    rig.until(lambda: all(sink.eof for sink in sinks))
    assert all(sink.got == data for sink in sinks) and not any(pump.error for pump in pumps)
    assert tunnel.queued <= limits.TUNNEL_PENDING_MAX and not tunnel.waiting


def test_f30_those_who_fill_a_tunnel_do_not_keep_the_others_waiting(rig: Rig) -> None:
    """Whoever was served goes behind whoever was not: the same few would fill it again each time."""
    rig.a.tunnel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    programs = [rig.a.open() for _ in range(60)]
    rig.until(lambda: len(rig.b.services) == 60)
    for side in (rig.a, rig.b):
        for stream in side.tunnel.session.streams.values():
            stream.send_credit = stream.recv_credit = 1 << 30
    sinks = [Pump(rig.loop, service, b"", shut=False) for service in rig.b.services]
    for program in programs:
        Pump(rig.loop, program, bytes(4 << 20))
    rig.until(lambda: max(len(sink.got) for sink in sinks) > 2 << 20)
    got = sorted(len(sink.got) for sink in sinks)
    print(f"least {got[0]}, most {got[-1]}")
    assert got[0] > got[-1] // 4


def test_one_with_nothing_left_keeps_nobody_waiting(rig: Rig) -> None:
    """Its turn comes after its bytes were taken as something small; those behind it still get theirs."""
    rig.a.tunnel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    fillers = [rig.a.open() for _ in range(20)]
    small = [rig.a.open() for _ in range(60)]
    rig.until(lambda: len(rig.b.services) == 80)
    for filler in fillers:
        Pump(rig.loop, filler, bytes(1 << 20))
    for program in small:
        Pump(rig.loop, program, bytes(4096), shut=False)
    sinks = [Pump(rig.loop, service, b"", shut=False) for service in rig.b.services]
    rig.until(lambda: sum(len(sink.got) for sink in sinks) == (20 << 20) + 60 * 4096)


def test_f21_on_a_slow_tunnel_a_keystroke_and_a_ping_pass_what_waits(rig: Rig) -> None:
    tunnel = rig.a.tunnel
    tunnel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    tunnel.share = tunnel._pace.share = limits.SHARE_MIN
    pumps = [Pump(rig.loop, rig.a.open(), bytes(200_000), shut=False) for _ in range(10)]
    rig.until(lambda: len(rig.b.services) == 10)
    sinks = [Pump(rig.loop, service, b"") for service in rig.b.services]
    rig.until(lambda: all(len(sink.got) > 5000 for sink in sinks))
    rig.loop.unregister(rig.b.tunnel._fd)  # b stops reading: everybody's share waits
    rig.idle()
    assert tunnel._in_turn and not tunnel.waiting
    assert tunnel.queued < 30 * limits.KIB, "the rest is not read yet"
    typist = rig.a.open()
    typist.send(b"k")
    tunnel.session.ping()
    rig.loop.touch(tunnel)
    rig.idle()
    before, pongs = sum(len(sink.got) for sink in sinks), tunnel.session.pongs
    rig.loop.register(rig.b.tunnel._fd, rig.b.tunnel, 1)
    rig.until(lambda: len(rig.b.services) == 11)
    rig.until(lambda: read_all(rig.b.services[-1]) == b"k")
    rig.until(lambda: tunnel.session.pongs > pongs)
    assert sum(len(sink.got) for sink in sinks) - before < 20 * limits.KIB
    rig.until(lambda: all(len(sink.got) == 200_000 for sink in sinks))
    assert not tunnel._in_turn and not any(pump.error for pump in pumps)


def test_both_ends_full_at_once_is_no_deadlock(rig: Rig) -> None:
    data = bytes(1 << 20)
    ends = [Pump(rig.loop, rig.a.open(), data) for _ in range(8)]
    rig.until(lambda: len(rig.b.services) == 8)
    ends += [Pump(rig.loop, service, data) for service in rig.b.services]
    rig.until(lambda: all(end.eof and len(end.got) == len(data) for end in ends))


def test_urgent_frames_go_first(scripted: Scripted) -> None:
    scripted.write(HELLO(), ACCEPT(), OPEN(1, service="x"))
    scripted.read()
    scripted.tunnel.session.out.append(bytes(DATA(1, b"queued")))
    scripted.tunnel.session.ping()
    scripted.tunnel.flush()
    assert [frame.kind for frame in scripted.read()] == ["PING", "DATA"]


def test_a_peer_that_does_not_read_its_answers_is_let_go(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANSWERS_MAX", 5000)
    scripted.tunnel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    scripted.side.serve = lambda stream, wish: None
    scripted.write(HELLO(), ACCEPT())
    at = 1
    while not scripted.side.tunnel_ends:
        scripted.write(*[frame for n in range(at, at + 2000, 2) for frame in (OPEN(n, service="x"), RESET(n))])
        at += 2000
        assert len(scripted.tunnel.session.out) <= 20_000 and at < 1_000_000
    assert scripted.side.tunnel_ends == ["the peer does not read what it is sent"]


# --- Silence ------------------------------------------------------------------------------------------------------


def test_a_quiet_peer_is_pinged_and_answers(rig: Rig) -> None:
    heard = rig.a.tunnel.session.last_heard
    rig.a.tunnel.tick(heard + limits.HEARTBEAT_INTERVAL - 0.1)
    assert not rig.a.tunnel.session.urgent
    rig.a.tunnel.tick(heard + limits.HEARTBEAT_INTERVAL + 0.1)
    rig.loop.settle()
    rig.idle()
    assert rig.a.tunnel.session.pongs == 1 and rig.a.tunnel.session.last_heard > heard


def test_a_silent_peer_is_given_up_after_three_intervals(rig: Rig) -> None:
    heard = rig.a.tunnel.session.last_heard
    ended_at = 0
    for second in range(1, 30):
        rig.a.tunnel.tick(heard + second)
        if rig.a.tunnel.closed and not ended_at:
            ended_at = second
    assert 15 <= ended_at <= 18 and rig.a.tunnel_ends == [f"the peer has been silent for {ended_at} s"]


def test_our_own_stall_is_not_taken_for_the_peers_silence(rig: Rig) -> None:
    """After a minute of not running, the peer's bytes may lie unread in the socket."""
    heard = rig.a.tunnel.session.last_heard
    rig.a.tunnel.tick(heard + 60)
    rig.a.tunnel.tick(heard + 61)
    assert rig.a.tunnel.closed is None


def test_a_peer_that_does_not_take_our_goodbye_is_left(scripted: Scripted) -> None:
    scripted.write(HELLO(), ACCEPT(), OPEN(1, service="x"))
    scripted.tunnel._pending = memoryview(bytes(64 << 20))
    scripted.tunnel.close(Code.SHUTDOWN, "going")
    scripted.turn()
    assert not scripted.side.tunnel_ends, "there is no room for it"
    scripted.tunnel.tick(scripted.loop.now + limits.HEARTBEAT_INTERVAL + 0.1)
    assert scripted.side.tunnel_ends == ["going"]


# --- Hostile peers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([DATA(1, b"x")], Code.PROTOCOL),
        ([OPEN(2, service="x")], Code.PROTOCOL),
        ([OPEN(1, service="x"), OPEN(1, service="x")], Code.PROTOCOL),
        ([OPEN(1, service="x"), *[DATA(1, bytes(33000))] * 2], Code.FLOW_CONTROL),
        ([Frame(0, "PING", b"short")], Code.FRAME_SIZE),
        ([HELLO()], Code.PROTOCOL),
        ([b"\xff" * 8], Code.FRAME_SIZE),
    ],
)
def test_h11_a_violation_closes_the_tunnel_with_its_code(
    scripted: Scripted, frames: list[Frame | bytes], code: Code
) -> None:
    def hold(stream: Stream, wish: Open) -> None:
        """Accept nothing, read nothing."""

    scripted.side.serve = hold
    scripted.write(HELLO(), ACCEPT())
    scripted.read()
    scripted.write(*frames)
    said = [frame for frame in scripted.read() if frame.kind == "GOAWAY"]
    assert [frame.body["code"] for frame in said] == [code]
    assert len(scripted.side.tunnel_ends) == 1 and "violation" in scripted.side.tunnel_ends[0]


def test_h11_another_version_is_told_which_one_we_speak(contexts: Contexts) -> None:
    scripted = Scripted(contexts)
    scripted.write(HELLO(version=7))
    (goaway,) = [frame for frame in scripted.read() if frame.kind == "GOAWAY"]
    assert goaway.body["code"] == Code.VERSION and "we speak 1" in goaway.body["reason"]
    scripted.close()


def test_h12_bytes_one_by_one_are_as_good_as_all_at_once(scripted: Scripted) -> None:
    frames = b"".join(map(bytes, [HELLO(), ACCEPT(), OPEN(1, service="x"), DATA(1, b"hello")]))
    for byte in frames:
        scripted.pipe.tls.write(bytes([byte]))
    for byte in scripted.pipe.outgoing.read():
        scripted.raw(bytes([byte]))
    assert read_all(scripted.side.services[0]) == b"hello"


def test_c29_a_peer_that_floods_opens_gets_small_turns(scripted: Scripted) -> None:
    """Linear, bounded, and after the first read no turn takes more than 16 KiB of it, so others come in between."""
    scripted.side.serve = lambda stream, wish: None
    scripted.write(HELLO(), ACCEPT())
    most, count, at = 0, 20_000, 1
    began = time.process_time()
    while at < 2 * count:
        frames = [f for n in range(at, at + 4000, 2) for f in (OPEN(n, service="x"), RESET(n))]
        at += 4000
        scripted.pipe.tls.write(b"".join(map(bytes, frames)))
        scripted.sock.send(scripted.pipe.outgoing.read())
        while True:
            before = scripted.tunnel.session.opens
            if not scripted.loop.turn():
                break
            most = max(most, scripted.tunnel.session.opens - before)
            scripted.read()
    assert scripted.tunnel.session.opens == count and not scripted.tunnel.session.streams
    assert most < 16 * 1024 / 30 * 2
    assert time.process_time() - began < 5


@pytest.mark.parametrize("answer", [False, True])
def test_c26_a_flood_of_key_updates_is_cut_off(contexts: Contexts, tmp_path: Path, answer: bool) -> None:
    scripted = Scripted(contexts, tmp_path / "keys")
    forger = scripted.forger
    assert forger is not None
    scripted.raw(forger.data(bytes(HELLO()) + bytes(ACCEPT())))
    assert scripted.side.ups == 1
    scripted.raw(forger.key_update(answer=answer) + forger.data(bytes(PING())))
    assert not scripted.side.tunnel_ends, "one is quite all right"
    slowest, sent = 0.0, 0
    while not scripted.side.tunnel_ends and sent < 10_000:
        scripted.sock.send(b"".join(forger.key_update(answer=answer) for _ in range(500)))
        sent += 500
        began = time.process_time()
        scripted.turn()
        slowest = max(slowest, time.process_time() - began)
    assert scripted.side.tunnel_ends == ["the peer sends TLS records that carry nothing"]
    assert sent <= 1500 and scripted.tunnel._outgoing.pending < 100_000
    assert slowest < 0.1
    scripted.close()


def test_c26_key_updates_between_small_frames_are_cut_off_too(contexts: Contexts, tmp_path: Path) -> None:
    scripted = Scripted(contexts, tmp_path / "keys")
    forger = scripted.forger
    assert forger is not None
    scripted.raw(forger.data(bytes(HELLO()) + bytes(ACCEPT())))
    for _ in range(2000):
        if scripted.side.tunnel_ends:
            break
        scripted.raw(forger.key_update(answer=False) + forger.data(bytes(PING())))
    assert scripted.side.tunnel_ends == ["the peer sends TLS records that carry nothing"]
    scripted.close()


def test_c26_records_without_content_end_the_tunnel(contexts: Contexts, tmp_path: Path) -> None:
    scripted = Scripted(contexts, tmp_path / "keys")
    assert scripted.forger is not None
    scripted.raw(b"".join(scripted.forger.data(b"") for _ in range(3000)))
    assert len(scripted.side.tunnel_ends) == 1
    scripted.close()


def test_full_records_in_small_pieces_are_no_flood(scripted: Scripted) -> None:
    """A record of 16 KiB in packets of 1,400 bytes: eleven reads in a row that decrypt to nothing."""
    scripted.write(HELLO(), ACCEPT(), OPEN(1, service="x"))
    scripted.pipe.tls.write(b"".join(bytes(DATA(1, bytes(60_000))) for _ in range(4)))
    records = scripted.pipe.outgoing.read()
    for at in range(0, len(records), 1400):
        scripted.raw(records[at : at + 1400])
    assert not scripted.side.tunnel_ends
    assert len(read_all(scripted.side.services[0]) or b"") + scripted.tunnel.buffered == 240_000


def test_fuzz_random_bytes_inside_tls_close_the_tunnel(contexts: Contexts) -> None:
    rng = random.Random(7)
    for _ in range(150):
        scripted = Scripted(contexts)
        scripted.side.serve = lambda stream, wish: None
        good = b"".join(map(bytes, [HELLO(), ACCEPT(), OPEN(1, service="x")]))
        scripted.write(good[: rng.randrange(len(good))], rng.randbytes(rng.randrange(1, 300)), bytes(70_000))
        assert len(scripted.side.tunnel_ends) == 1
        scripted.close()


def test_a_refusal_to_a_refusal(scripted: Scripted) -> None:
    scripted.write(HELLO(), REFUSE(0, Code.IDENTITY, "\x1b[31mcolours"))
    assert scripted.side.tunnel_ends == ["the peer refused the tunnel: identity, '\\x1b[31mcolours'"]
