"""Two honest sessions joined back to back, doing whatever two programs might do, over a pipe that cuts bytes anywhere.

Invariant: no violation is ever raised between them, every byte arrives once and in order, and in the end both tables
of streams are empty.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge import limits
from bridge.tunnels.frames import CREDIT_MAX, Code, Hello, Open, Reason, encode_open
from bridge.tunnels.session import Session, Stream
from bridge.tunnels.stream_state import NEXT, Event, State

_WISH = encode_open(Open(service="ledger"))


class Reader:
    """A sink that holds what it gets until told to read."""

    def __init__(self, sent: bytearray) -> None:
        self.sent_to_us = sent
        self.got = bytearray()
        self.unread = 0
        self.ended = ""
        self.accepted = False

    def on_accept(self) -> None:
        assert not self.accepted and not self.ended
        self.accepted = True

    def on_refuse(self, reason: Reason) -> None:
        assert not self.accepted and not self.ended
        self.ended = "refuse"

    def on_data(self, data: memoryview) -> None:
        assert not self.ended
        self.got += data
        self.unread += len(data)

    def on_fin(self) -> None:
        assert not self.ended
        self.ended = "fin"
        assert self.got == self.sent_to_us, "the end came before the last byte"

    def on_reset(self, code: int) -> None:
        assert self.ended in ("", "fin")
        self.ended = "reset"

    def on_window(self) -> None:
        assert self.ended != "reset"


class End:
    """One session, its streams as (stream, reader, bytes written), and the bytes under way from it."""

    def __init__(self, *, opener: bool, max_streams: int) -> None:
        self.session = Session(opener=opener, handler=self, max_streams=max_streams)
        self.session.accept_tunnel()
        self.wire: deque[bytes] = deque()
        self.inbox = b""
        self.streams: dict[int, tuple[Stream, Reader, bytearray]] = {}
        self.peer: End

    def join(self, stream: Stream) -> Reader:
        written = bytearray()
        theirs = self.peer.streams.get(stream.id)
        reader = Reader(theirs[2] if theirs else bytearray())
        if theirs:
            theirs[1].sent_to_us = written
        self.streams[stream.id] = (stream, reader, written)
        stream.sink = reader
        return reader

    def flush(self) -> None:
        data = b"".join(self.session.urgent + self.session.out)
        self.session.urgent.clear()
        self.session.out.clear()
        if data:
            self.wire.append(data)

    def deliver(self, size: int) -> None:
        """At most `size` bytes of ours reach the peer."""
        self.flush()
        while size > 0 and self.wire:
            chunk = self.wire.popleft()
            if len(chunk) > size:
                self.wire.appendleft(chunk[size:])
                chunk = chunk[:size]
            size -= len(chunk)
            inbox = self.peer.inbox + chunk
            used = self.peer.session.receive(memoryview(inbox), len(inbox))
            self.peer.inbox = inbox[used:]

    def on_hello(self, hello: Hello) -> None: ...
    def on_accepted(self) -> None: ...
    def on_refused(self, reason: Reason) -> None: ...
    def on_goaway(self, reason: Reason) -> None: ...
    def on_open(self, stream: Stream, wish: Open) -> None:
        self.join(stream)

    def on_crash(self, error: BaseException) -> None:
        raise error


class TwoSessions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.a = End(opener=True, max_streams=5)
        self.b = End(opener=False, max_streams=5)
        self.a.peer, self.b.peer = self.b, self.a
        for end in (self.a, self.b):
            end.deliver(10**9)

    def end(self, which: bool) -> End:
        return self.a if which else self.b

    def pick(self, which: bool, number: int, event: Event) -> tuple[Stream, Reader, bytearray] | None:
        """One of the end's streams for which this event is possible now."""
        can = [s for s in self.end(which).streams.values() if NEXT[s[0].state][event] is not None]
        return can[number % len(can)] if can else None

    which = st.booleans()
    number = st.integers(0, 9)

    @rule(which=which)
    def open(self, which: bool) -> None:
        end = self.end(which)
        if end.session.can_open:
            reader = Reader(bytearray())
            stream = end.session.open(reader, _WISH)
            end.streams[stream.id] = (stream, reader, bytearray())

    @rule(which=which, number=number)
    def accept(self, which: bool, number: int) -> None:
        if picked := self.pick(which, number, Event.SEND_ACCEPT):
            self.end(which).session.accept(picked[0])

    @rule(which=which, number=number)
    def refuse(self, which: bool, number: int) -> None:
        if picked := self.pick(which, number, Event.SEND_REFUSE):
            self.end(which).session.refuse(picked[0], Code.DENIED, "no rule")

    @rule(which=which, number=number, size=st.integers(1, 65535))
    def write(self, which: bool, number: int, size: int) -> None:
        if picked := self.pick(which, number, Event.SEND_DATA):
            stream, _reader, written = picked
            size = min(size, stream.send_credit)
            if size:
                body = bytes((len(written) + i) % 251 for i in range(min(size, 64))).ljust(size, b"x")
                written += body
                self.end(which).session.data(stream, body)

    @rule(which=which, number=number)
    def fin(self, which: bool, number: int) -> None:
        if picked := self.pick(which, number, Event.SEND_FIN):
            self.end(which).session.fin(picked[0])

    @rule(which=which, number=number)
    def reset(self, which: bool, number: int) -> None:
        if picked := self.pick(which, number, Event.SEND_RESET):
            picked[0].sink = None
            self.end(which).session.reset(picked[0], Code.ABORTED)

    @rule(which=which, number=number, share=st.floats(0.1, 1))
    def read(self, which: bool, number: int, share: float) -> None:
        """Also for streams that have ended meanwhile: a local socket takes its last bytes when it can."""
        holding = [s for s in self.end(which).streams.values() if s[1].unread]
        if holding:
            stream, reader, _ = holding[number % len(holding)]
            size = max(1, int(reader.unread * share))
            reader.unread -= size
            self.end(which).session.consumed(stream, size)

    @rule(which=which, size=st.one_of(st.integers(1, 40), st.integers(1, 10**6)))
    def deliver(self, which: bool, size: int) -> None:
        self.end(which).deliver(size)

    @precondition(lambda self: bool(self.a.streams))
    @rule()
    def settle(self) -> None:
        while self.a.wire or self.b.wire or self.a.session.out or self.b.session.out:
            self.a.deliver(10**9)
            self.b.deliver(10**9)

    @invariant()
    def credit_is_never_negative_or_too_much(self) -> None:
        for end in (self.a, self.b):
            for stream, reader, _ in end.streams.values():
                assert 0 <= stream.send_credit <= CREDIT_MAX
                assert 0 <= stream.recv_credit <= 2 * limits.WINDOW_MAX
                assert reader.got == reader.sent_to_us[: len(reader.got)]

    @invariant()
    def both_ends_know_how_many_streams_count(self) -> None:
        for end in (self.a, self.b):
            assert end.session._peer_streams == sum(1 for i in end.session.streams if i % 2 != (end is self.a))
            assert len(end.session.streams) <= 10

    def teardown(self) -> None:
        """Both programs finish what they began: everything is answered, read and closed, and nothing is left."""
        for _ in range(200):
            for end in (self.a, self.b):
                self._finish(end)
                end.deliver(10**9)
        for end in (self.a, self.b):
            assert not end.session.streams and not end.inbox
            assert all(stream.state is State.CLOSED for stream, _, _ in end.streams.values())
        for number, (_, reader, _) in [*self.a.streams.items(), *self.b.streams.items()]:
            assert reader.ended in ("", "fin", "reset", "refuse"), number

    def _finish(self, end: End) -> None:
        for stream, reader, _ in list(end.streams.values()):
            if NEXT[stream.state][Event.SEND_ACCEPT] is not None:
                end.session.accept(stream)
            if reader.unread:
                end.session.consumed(stream, reader.unread)
                reader.unread = 0
            if NEXT[stream.state][Event.SEND_FIN] is not None:
                end.session.fin(stream)


TwoSessions.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
test_two_sessions = TwoSessions.TestCase
