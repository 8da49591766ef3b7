"""The tunnel protocol as scripts: one session, a scripted peer, everything it says and calls."""

from __future__ import annotations

import random

import pytest

from bridge import limits
from bridge.tunnels.frames import CREDIT_MAX, Code, Open, ProtocolViolation
from bridge.tunnels.session import Session
from bridge.tunnels.stream import Stream
from bridge.tunnels.window_budget import WindowBudget
from tests.support.playbook import (
    ACCEPT,
    DATA,
    FIN,
    GOAWAY,
    HELLO,
    OPEN,
    PING,
    PONG,
    REFUSE,
    RESET,
    WINDOW,
    Frame,
    Playbook,
    take,
)

KIB = limits.KIB

# --- The tunnel itself --------------------------------------------------------------------------------------------


def test_a_tunnel_is_up_when_both_ends_have_accepted() -> None:
    play = Playbook(opener=True)
    play.says(HELLO())
    play.hears(HELLO())
    play.told("hello")
    play.session.accept_tunnel()
    play.says(ACCEPT())
    assert not play.session.is_up and not play.session.can_open
    play.hears(ACCEPT())
    play.told("accepted")
    assert play.session.is_up and play.session.can_open
    play.done()


def test_a_refused_tunnel_says_why() -> None:
    play = Playbook(opener=False)
    play.session.refuse_tunnel(Code.REVOKED, "host/vm1 is revoked")
    play.says(HELLO(), REFUSE(0, Code.REVOKED, "host/vm1 is revoked"))
    play.hears(HELLO(), REFUSE(0, Code.IDENTITY, "who are you"))
    play.told("hello", "refused identity: who are you")
    play.done()


def test_after_goaway_nothing_new_is_opened_and_the_old_goes_on() -> None:
    play = Playbook.up(opener=True)
    play.open("ledger")
    play.says(OPEN(1, service="ledger"))
    play.hears(ACCEPT(1), GOAWAY(Code.DRAINING, "maintenance"), DATA(1, b"still here"))
    play.told("1 accept", "goaway draining: maintenance", "1 data 10")
    assert not play.session.can_open


def test_pings_are_answered_with_their_own_bytes() -> None:
    play = Playbook.up(opener=True)
    play.hears(PING(b"12345678"))
    play.says(PONG(b"12345678"))
    play.session.ping()
    play.says(PING())
    play.hears(PONG())
    assert play.session.pongs == 1
    play.done()


def test_a_peer_that_pings_without_reading_gets_no_heap_of_answers() -> None:
    play = Playbook.up(opener=True)
    play.hears(*[PING()] * 10_000)
    assert len(play.session.urgent) <= 64


def test_the_peers_limit_of_streams_is_kept() -> None:
    play = Playbook.up(opener=True, max_streams=2)
    play.open("a")
    play.open("b")
    assert not play.session.can_open
    play.hears(REFUSE(1, Code.LIMIT))
    assert play.session.can_open


# --- One stream, from the opener's end ----------------------------------------------------------------------------


def test_open_accept_talk_and_close() -> None:
    play = Playbook.up(opener=True)
    stream = play.open("ledger")
    play.session.data(stream, b"early")
    play.says(OPEN(1, service="ledger"), DATA(1, b"early"))
    play.hears(ACCEPT(1), DATA(1, b"answer"))
    play.told("1 accept", "1 data 6")
    play.session.fin(stream)
    play.says(FIN(1))
    play.hears(DATA(1, b"more"), FIN(1))
    play.told("1 data 4", "1 fin")
    assert play.received[1] == b"answermore"
    play.done()


def test_ids_are_odd_for_who_dialled_and_even_for_the_other() -> None:
    for opener, ids in ((True, [1, 3, 5]), (False, [2, 4, 6])):
        play = Playbook.up(opener=opener)
        assert [play.open("x").id for _ in range(3)] == ids


def test_a_refusal_is_acknowledged() -> None:
    play = Playbook.up(opener=True)
    play.open("cards")
    play.says(OPEN(1, service="cards"))
    play.hears(REFUSE(1, Code.DENIED, "no rule allows it", rule="r1"))
    play.told("1 refuse denied: no rule allows it")
    play.says(RESET(1))
    play.done()


def test_a_refusal_that_crosses_our_reset_is_the_end_of_it() -> None:
    play = Playbook.up(opener=True)
    play.session.reset(play.open("cards"), Code.ABORTED)
    play.says(OPEN(1, service="cards"), RESET(1, Code.ABORTED))
    play.hears(REFUSE(1, Code.DENIED))
    play.done()


def test_a_reset_before_the_answer_waits_out_whatever_was_under_way() -> None:
    """FIN, then RESET, before the peer had answered: the peer may end the stream by itself and never see our RESET."""
    play = Playbook.up(opener=True)
    stream = play.open("ledger")
    play.session.fin(stream)
    play.session.reset(stream, Code.ABORTED)
    play.says(OPEN(1, service="ledger"), FIN(1), RESET(1, Code.ABORTED))
    play.hears(ACCEPT(1), DATA(1, b"ignored"), FIN(1))
    play.done()


# --- One stream, from the other end -------------------------------------------------------------------------------


def test_accepting_a_stream() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="ledger"), DATA(1, b"early"), FIN(1))
    play.told("open 1 ledger", "1 data 5", "1 fin")
    stream = play.streams[1]
    play.session.accept(stream)
    play.session.data(stream, b"answer")
    play.session.fin(stream)
    play.says(ACCEPT(1), DATA(1, b"answer"), FIN(1))
    play.done()


def test_refusing_a_stream_ignores_what_was_sent_early() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="ledger"))
    play.told("open 1 ledger")
    play.session.refuse(play.streams[1], Code.DENIED, "no rule", rule="r1")
    play.says(REFUSE(1, Code.DENIED, "no rule", rule="r1"))
    play.hears(DATA(1, b"early"), FIN(1), RESET(1))
    play.done()


def test_an_abort_is_answered_once() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="ledger"))
    play.session.accept(play.streams[1])
    play.hears(RESET(1, Code.ABORTED))
    play.told("open 1 ledger", "1 reset aborted")
    play.says(ACCEPT(1), RESET(1))
    play.hears(RESET(1), WINDOW(1, 5))  # late ones are normal
    play.done()


def test_two_resets_that_cross_end_it_without_more_words() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="ledger"))
    play.session.reset(play.streams[1], Code.CUT)
    play.session.reset(play.streams[1], Code.ABORTED)  # harmless
    play.told("open 1 ledger")
    play.says(RESET(1, Code.CUT))
    play.hears(DATA(1, b"under way"), RESET(1, Code.ABORTED))
    play.done()
    play.session.reset(play.streams[1], Code.ABORTED)
    play.done()


# --- Credit -------------------------------------------------------------------------------------------------------


def test_credit_comes_back_when_half_the_window_was_read() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="x"), *[DATA(1, bytes(8 * KIB))] * 8)
    stream = play.streams[1]
    assert stream.recv_credit == 0
    play.session.consumed(stream, 32 * KIB - 1)
    play.says()
    play.session.consumed(stream, 1)
    play.says(WINDOW(1, 32 * KIB))
    assert stream.recv_credit == 32 * KIB


def test_a_reader_that_keeps_up_has_the_usual_window_from_its_first_grant() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="x"), DATA(1, bytes(32 * KIB)))
    stream = play.streams[1]
    play.session.consumed(stream, 32 * KIB)
    play.says(WINDOW(1, 32 * KIB + limits.WINDOW_USUAL - limits.WINDOW_INITIAL))
    assert stream.recv_credit == stream.window == limits.WINDOW_USUAL


def grow(play: Playbook, stream: Stream, size: int) -> None:
    """Its reader keeps up with a long flow."""
    for _ in range(size // (32 * KIB)):
        play.hears(DATA(stream.id, bytes(32 * KIB)))
        play.session.consumed(stream, 32 * KIB)
    play.session.out.clear()


def test_f30_windows_grow_within_the_budget_of_the_process_and_give_it_back() -> None:
    budget = WindowBudget()
    plays = [Playbook.up(opener=False, budget=budget) for _ in range(2)]
    for play in plays:
        play.hears(*[OPEN(number, service="x") for number in range(1, 1001, 2)])
        for number in range(1, 1001, 2):
            grow(play, play.streams[number], 256 * KIB if number > 60 else 9 * limits.MIB)
    windows = [stream.window for play in plays for stream in play.streams.values()]
    assert budget.grown == sum(windows) - len(windows) * limits.WINDOW_INITIAL <= limits.WINDOWS_GROWN_MAX
    assert max(windows) == limits.WINDOW_MAX and min(windows) == limits.WINDOW_INITIAL
    assert sum(windows[:500]) <= 500 * 128 * KIB
    assert all(s.recv_credit + s.unacknowledged == s.window for play in plays for s in play.streams.values())
    plays[0].hears(*[RESET(number) for number in range(1, 1001, 2)])
    plays[1].session.abandon(Code.ABORTED)
    assert budget.grown == 0


def test_f30_a_reader_that_does_not_keep_up_gives_back_what_others_need() -> None:
    budget = WindowBudget(8 * limits.MIB)
    play = Playbook.up(opener=False, budget=budget)
    play.hears(OPEN(1, service="x"))
    slow = play.streams[1]
    grow(play, slow, 3 * limits.MIB)
    assert slow.window == limits.MIB
    budget.grown += 4 * limits.MIB  # of others
    waiting = slow.recv_credit
    play.hears(*[DATA(1, bytes(32 * KIB))] * (waiting // (32 * KIB)))
    for _ in range(10):
        play.session.consumed(slow, 32 * KIB)
        waiting -= 32 * KIB
    assert slow.window < limits.MIB
    assert slow.recv_credit + slow.unacknowledged + waiting == slow.window, "not a byte of credit was lost"
    assert all(frame[8:] != bytes(4) for frame in play.session.out), "a grant of nothing is a violation"
    play.hears(RESET(1))
    assert budget.grown == 4 * limits.MIB


def test_a_window_grows_for_a_long_flow_and_no_further_than_its_limit() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="x"))
    stream = play.streams[1]
    grants = []
    for _ in range(400):
        play.hears(DATA(1, bytes(60_000)))
        play.session.consumed(stream, 60_000)
        grants += [int.from_bytes(f[8:], "big") for f in play.session.out]
        play.session.out.clear()
    assert stream.window == limits.WINDOW_MAX
    assert stream.recv_credit + stream.unacknowledged == limits.WINDOW_MAX
    assert max(grants) <= 2 * limits.WINDOW_MAX


def test_nothing_is_granted_for_a_direction_that_is_over() -> None:
    play = Playbook.up(opener=False)
    play.hears(OPEN(1, service="x"), *[DATA(1, bytes(8 * KIB))] * 8, FIN(1))
    play.session.accept(play.streams[1])
    play.session.consumed(play.streams[1], 64 * KIB)
    play.says(ACCEPT(1))
    play.session.reset(play.streams[1], Code.ABORTED)
    play.session.consumed(play.streams[1], 256 * KIB)
    play.says(RESET(1, Code.ABORTED))


def test_the_peers_first_window_is_the_one_in_its_hello() -> None:
    play = Playbook.up(opener=True, window=10)
    stream = play.open("x")
    assert stream.send_credit == 10
    with pytest.raises(AssertionError):
        play.session.data(stream, bytes(11))
    play.hears(WINDOW(1, 5))
    play.told("1 window")
    assert stream.send_credit == 15


# --- Our own mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "call"),
    [
        (ACCEPT(1), "1 accept"),
        (DATA(1, b"x"), "1 data 1"),
        (FIN(1), "1 fin"),
        (WINDOW(1, 1), "1 window"),
        (REFUSE(1, Code.DENIED), "1 refuse denied: "),
        (RESET(1, Code.CUT), "1 reset cut"),
    ],
)
def test_f43_a_sink_that_raises_loses_its_stream_and_nothing_else(frame: Frame, call: str) -> None:
    play = Playbook.up(opener=True)
    play.open("a")
    play.open("b")
    if frame.kind in ("DATA", "FIN"):
        play.hears(ACCEPT(1))
    play.told(*(["1 accept"] if frame.kind in ("DATA", "FIN") else []))
    take(play.session)
    play.crash_on = {call}
    play.hears(frame, ACCEPT(3), DATA(3, b"well"))
    play.told(call, f"crash {call}", "1 reset internal", "3 accept", "3 data 4")
    answer = RESET(1) if frame.kind in ("REFUSE", "RESET") else RESET(1, Code.INTERNAL)
    play.says(answer)


def test_f43_an_owner_that_raises_on_open_loses_that_stream() -> None:
    play = Playbook.up(opener=False)
    play.crash_on = {"open 1 x"}
    play.hears(OPEN(1, service="x"), DATA(1, b"early"), OPEN(3, service="y"))
    play.told("open 1 x", "crash open 1 x", "1 reset internal", "open 3 y")
    play.says(RESET(1, Code.INTERNAL))


def test_when_the_tunnel_goes_every_sink_hears_of_it_even_if_one_raises() -> None:
    play = Playbook.up(opener=True)
    for service in "abc":
        play.open(service)
    play.crash_on = {"1 reset aborted"}
    play.session.abandon(Code.ABORTED)
    play.told("1 reset aborted", "crash 1 reset aborted", "3 reset aborted", "5 reset aborted")
    take(play.session)
    play.done()


# --- Hostile peers ------------------------------------------------------------------------------------------------


def raw(stream: int, kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    return stream.to_bytes(4, "big") + bytes([kind, flags]) + len(body).to_bytes(2, "big") + body


def talking() -> Playbook:
    """We are the end that was dialled; stream 1 is open, 3 waits for our answer, 5 has ended."""
    play = Playbook.up(opener=False)
    play.hears(*[OPEN(n, service="x") for n in (1, 3, 5)])
    play.session.accept(play.streams[1])
    play.hears(RESET(5))
    return play


def test_h11_a_length_beyond_what_a_control_frame_may_have() -> None:
    """At once, without waiting for the bytes; the header has 16 bits, so there is no 2^32-1 to claim."""
    talking().breaks(Code.FRAME_SIZE, raw(7, 2, bytes(0xFFFF))[:8])
    talking().breaks(Code.FRAME_SIZE, raw(7, 2, b" " * 5000))


@pytest.mark.parametrize(
    ("kind", "size"), [("ACCEPT", 1), ("WINDOW", 3), ("WINDOW", 5), ("FIN", 1), ("RESET", 1), ("RESET", 3)]
)
def test_h11_a_length_that_is_not_the_frames_own(kind: str, size: int) -> None:
    talking().breaks(Code.FRAME_SIZE, Frame(1, kind, bytes(size)))


@pytest.mark.parametrize("kind", ["PING", "PONG", "ACCEPT"])
def test_h11_a_length_that_is_not_the_tunnel_frames_own(kind: str) -> None:
    talking().breaks(Code.FRAME_SIZE, Frame(0, kind, bytes(7)))


def test_h11_data_of_length_zero() -> None:
    talking().breaks(Code.PROTOCOL, DATA(1, b""))


@pytest.mark.parametrize("kind", [0, 12, 99, 255])
@pytest.mark.parametrize("stream", [0, 1])
def test_h11_an_unknown_type(stream: int, kind: int) -> None:
    talking().breaks(Code.PROTOCOL, raw(stream, kind))


@pytest.mark.parametrize("version", [0, 2, 99])
def test_h11_an_unknown_version(version: int) -> None:
    violation = Playbook(opener=False).breaks(Code.VERSION, HELLO(version=version))
    assert f"version {version}" in violation.what and "we speak 1" in violation.what


@pytest.mark.parametrize("kind", ["OPEN", "DATA", "WINDOW", "FIN", "RESET"])
def test_h11_a_stream_frame_on_stream_0(kind: str) -> None:
    talking().breaks(Code.PROTOCOL, Frame(0, kind, b"1234"))


@pytest.mark.parametrize("kind", ["PING", "PONG", "GOAWAY", "HELLO"])
def test_h11_a_tunnel_frame_on_a_stream(kind: str) -> None:
    talking().breaks(Code.PROTOCOL, Frame(1, kind, bytes(8)))


@pytest.mark.parametrize("stream", [1, 3, 5])
def test_h11_a_stream_id_used_again(stream: int) -> None:
    talking().breaks(Code.PROTOCOL, OPEN(stream, service="x"))


@pytest.mark.parametrize("stream", [2, 8, 2**31, 2**31 + 1, 2**32 - 1])
def test_h11_a_stream_id_that_is_not_the_peers_to_give(stream: int) -> None:
    talking().breaks(Code.PROTOCOL, OPEN(stream, service="x"))


@pytest.mark.parametrize("frame", [DATA(7, b"x"), FIN(7), WINDOW(7, 1), RESET(7), ACCEPT(2), DATA(2, b"x"), RESET(2)])
def test_h11_a_frame_on_a_stream_that_never_was(frame: Frame) -> None:
    talking().breaks(Code.PROTOCOL, frame)


@pytest.mark.parametrize("frame", [DATA(5, b"x"), FIN(5), ACCEPT(5), REFUSE(5, Code.DENIED)])
def test_h11_a_frame_on_a_stream_that_has_ended(frame: Frame) -> None:
    talking().breaks(Code.STREAM_CLOSED, frame)


def test_h11_data_after_fin() -> None:
    talking().breaks(Code.STREAM_CLOSED, FIN(1), DATA(1, b"x"))
    talking().breaks(Code.STREAM_CLOSED, FIN(3), DATA(3, b"x"))
    talking().breaks(Code.PROTOCOL, FIN(1), FIN(1))


@pytest.mark.parametrize("frame", [ACCEPT(1), REFUSE(1, Code.DENIED), ACCEPT(3), REFUSE(3, Code.DENIED), WINDOW(3, 9)])
def test_h11_answers_from_the_end_that_asked(frame: Frame) -> None:
    talking().breaks(Code.PROTOCOL, frame)


def test_h11_more_data_than_the_window_allows() -> None:
    play = talking()
    play.hears(*[DATA(1, bytes(16 * KIB))] * 3, DATA(1, bytes(16 * KIB - 4)))
    play.breaks(Code.FLOW_CONTROL, DATA(1, bytes(5)))
    play = talking()
    play.session.reset(play.streams[1], Code.CUT)  # not even towards a stream whose data is ignored
    play.breaks(Code.FLOW_CONTROL, *[DATA(1, bytes(16 * KIB))] * 5)


@pytest.mark.parametrize("credit", [0, CREDIT_MAX, CREDIT_MAX + 1, 2**32 - 1])
def test_h11_a_window_of_zero_or_beyond_31_bits(credit: int) -> None:
    talking().breaks(Code.FLOW_CONTROL, WINDOW(1, credit))


def test_h11_windows_that_add_up_to_too_much() -> None:
    play = talking()
    play.hears(WINDOW(1, CREDIT_MAX - limits.WINDOW_INITIAL))
    assert play.streams[1].send_credit == CREDIT_MAX
    play.breaks(Code.FLOW_CONTROL, WINDOW(1, 1))


@pytest.mark.parametrize("flags", [1, 128, 255])
@pytest.mark.parametrize(("stream", "kind", "body"), [(1, 5, b"x"), (0, 9, bytes(8)), (1, 7, b"")])
def test_h11_unknown_flags(stream: int, kind: int, body: bytes, flags: int) -> None:
    talking().breaks(Code.PROTOCOL, raw(stream, kind, body, flags))


def test_h11_an_open_before_both_have_accepted() -> None:
    play = Playbook(opener=False)
    play.breaks(Code.PROTOCOL, HELLO(), OPEN(1, service="x"))
    play = Playbook(opener=False)
    play.breaks(Code.PROTOCOL, HELLO(), ACCEPT(), OPEN(1, service="x"))
    play = Playbook(opener=False)
    play.session.accept_tunnel()
    play.breaks(Code.PROTOCOL, HELLO(), OPEN(1, service="x"))


@pytest.mark.parametrize("frame", [ACCEPT(), PING(), OPEN(1, service="x"), DATA(1, b"x"), GOAWAY(Code.SHUTDOWN)])
def test_h11_a_frame_before_hello(frame: Frame) -> None:
    Playbook(opener=False).breaks(Code.PROTOCOL, frame)


def test_h11_hello_or_answers_twice() -> None:
    Playbook(opener=False).breaks(Code.PROTOCOL, HELLO(), HELLO())
    talking().breaks(Code.PROTOCOL, HELLO())
    talking().breaks(Code.PROTOCOL, ACCEPT())
    talking().breaks(Code.PROTOCOL, REFUSE(0, Code.IDENTITY))
    refused = Playbook(opener=False)
    refused.breaks(Code.PROTOCOL, HELLO(), REFUSE(0, Code.IDENTITY), ACCEPT())


@pytest.mark.parametrize("hello", [HELLO(window=0), HELLO(window=2**31), HELLO(max_streams=-1)])
def test_h11_a_hello_with_impossible_limits(hello: Frame) -> None:
    Playbook(opener=False).breaks(Code.PROTOCOL, hello)


def test_h11_more_streams_than_our_hello_allows() -> None:
    play = Playbook(opener=False, max_streams=2)
    play.session.accept_tunnel()
    play.hears(HELLO(), ACCEPT(), OPEN(1, service="a"), OPEN(3, service="b"))
    play.breaks(Code.LIMIT, OPEN(5, service="c"))


def test_a_refused_stream_counts_until_the_peer_has_heard_of_it() -> None:
    """So that a peer that never acknowledges cannot fill the table."""
    play = Playbook(opener=False, max_streams=1)
    play.session.accept_tunnel()
    play.hears(HELLO(), ACCEPT(), OPEN(1, service="a"))
    play.session.refuse(play.streams[1], Code.DENIED, "")
    play.hears(RESET(1), OPEN(3, service="b"))
    play.session.refuse(play.streams[3], Code.DENIED, "")
    play.breaks(Code.LIMIT, OPEN(5, service="c"))


def test_h12_a_header_split_at_every_byte() -> None:
    whole = b"".join(map(bytes, [HELLO(), ACCEPT(), OPEN(1, service="x"), DATA(1, b"hello"), FIN(1)]))
    for cut in range(len(whole) + 1):
        play = Playbook(opener=False)
        play.session.accept_tunnel()
        used = play.session.receive(memoryview(whole), cut)
        assert used <= cut
        rest = whole[used:]
        assert play.session.receive(memoryview(rest), len(rest)) == len(rest)
        play.told("hello", "accepted", "open 1 x", "1 data 5", "1 fin")
        assert play.received[1] == b"hello"


def test_h12_every_byte_on_its_own() -> None:
    play = Playbook(opener=False)
    play.session.accept_tunnel()
    waiting = b""
    for byte in b"".join(map(bytes, [HELLO(), ACCEPT(), OPEN(1, service="x"), DATA(1, b"hello"), FIN(1)])):
        waiting += bytes([byte])
        waiting = waiting[play.session.receive(memoryview(waiting), len(waiting)) :]
    play.told("hello", "accepted", "open 1 x", "1 data 5", "1 fin")


def _opens(count: int) -> bytes:
    opened, reset = bytes(OPEN(0, service="x"))[4:], bytes(RESET(0))[4:]
    ids = [(2 * n + 1).to_bytes(4, "big") for n in range(count)]
    return b"".join(part for number in ids for part in (number, opened, number, reset))


class _Forgetful(Playbook):
    """Keeps no list of what happened."""

    def __init__(self, *, opener: bool, max_streams: int = limits.STREAMS_PER_TUNNEL) -> None:
        super().__init__(opener=opener, max_streams=max_streams)
        self.session.accept_tunnel()

    def call(self, text: str) -> None:
        pass

    def on_open(self, stream: Stream, wish: Open) -> None:
        pass


def _forgetful() -> Playbook:
    play = _Forgetful(opener=False)
    play.hears(HELLO(), ACCEPT())
    take(play.session)
    return play


def test_c29_h13_a_hundred_thousand_opens_and_resets_are_bounded() -> None:
    play = _forgetful()
    session = play.session
    data = memoryview(_opens(100_000))
    refused, answers, at = 0, 0, 0
    while at < len(data):
        used = session.receive(data[at : at + 64 * KIB], min(64 * KIB, len(data) - at))
        at += used
        answers += len(session.out)
        refused += sum(frame[4] == 4 for frame in session.out)
        session.out.clear()
        assert not session.streams or len(session.streams) == 1
    assert session.opens == 100_000
    assert refused == 100_000 - limits.OPENS_PER_SECOND  # no time passed: exactly the burst was let in
    assert answers == 100_000  # one short frame each
    session.now += 0.5
    session.receive(memoryview(bytes(OPEN(200_001, service="x"))), 8 + len('{"service": "x"}'))
    assert not session.out, "half a second later there is room again"


def test_c29_opens_without_reading_the_answers_do_not_fill_the_table() -> None:
    play = _forgetful()
    opens = b"".join(bytes(OPEN(2 * n + 1, service="x")) for n in range(limits.STREAMS_PER_TUNNEL))
    play.hears(opens)
    assert len(play.session.streams) == limits.STREAMS_PER_TUNNEL
    play.breaks(Code.LIMIT, OPEN(2 * limits.STREAMS_PER_TUNNEL + 1, service="x"))


def test_fuzz_nothing_but_a_violation_ever_comes_out() -> None:
    rng = random.Random(11)
    frames = [HELLO(), ACCEPT(), OPEN(1, service="x"), DATA(1, b"abc"), WINDOW(1, 5), FIN(1), RESET(1), PING(), PONG()]
    for _ in range(3000):
        play = _Forgetful(opener=False)
        data = bytearray(b"".join(map(bytes, rng.choices(frames, k=8)) if rng.random() < 0.3 else map(bytes, frames)))
        for _ in range(rng.choice((0, 1, 1, 2, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            data = bytearray(rng.randbytes(200))
        _fed_in_pieces(play.session, bytes(data), rng)
        assert len(play.session.streams) < 10 and sum(map(len, play.session.out)) < 10_000


def _fed_in_pieces(session: Session, data: bytes, rng: random.Random) -> None:
    waiting = b""
    try:
        while data:
            size = rng.randrange(1, 60)
            waiting, data = waiting + data[:size], data[size:]
            waiting = waiting[session.receive(memoryview(waiting), len(waiting)) :]
    except ProtocolViolation:
        pass
