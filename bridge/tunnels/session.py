"""Pure: one end of a tunnel, without the tunnel: bytes in, calls on sinks out, frames to send in `out`.

Rules: every change of a stream's state goes through the table of `stream_state`; every byte that may arrive was
granted as credit before; a peer's mistake raises ProtocolViolation and never anything else. The caller owns I/O: it
feeds `receive`, writes `urgent` before `out`, and reports bytes that reached their reader with `consumed`. An exception
in a sink, or in the handler's `on_open`, is our bug and ends that one stream (F43).
"""

from __future__ import annotations

from collections.abc import Callable

from bridge import limits
from bridge.errors import ends_the_process
from bridge.tunnels import frames
from bridge.tunnels.frames import Code, FrameType, Hello, Open, ProtocolViolation, Reason
from bridge.tunnels.stream import Handler, Sink, Stream
from bridge.tunnels.stream_state import NEXT, Event, State
from bridge.tunnels.window_budget import WindowBudget

__all__ = ["Handler", "Session", "Sink", "Stream"]

_unpack = frames.HEADER.unpack_from
_pack = frames.HEADER.pack
_DATA = int(FrameType.DATA)
_RECV_DATA = int(Event.RECV_DATA)


class Session:
    """The protocol engine of one tunnel end.

    Args:
        opener: the side that dialled (TLS client); it numbers its streams oddly, the other side evenly.
        handler: told of HELLO, OPEN and the tunnel's end.
        max_streams: how many streams the peer may have open here at once.
        budget: of the whole process, from which windows grow.
    """

    def __init__(
        self,
        *,
        opener: bool,
        handler: Handler,
        max_streams: int = limits.STREAMS_PER_TUNNEL,
        budget: WindowBudget | None = None,
    ) -> None:
        self.handler = handler
        self._budget = budget or WindowBudget()
        self.streams: dict[int, Stream] = {}
        self.out: list[bytes] = []
        self.urgent: list[bytes] = []
        self.now = 0.0
        """Monotonic seconds, set by the owner before `receive`; paces the peer's OPENs."""
        self.last_heard = 0.0
        self.pongs = 0
        self.opens = 0
        """OPENs received so far."""
        self.we_accepted = False
        self.peer_accepted = False
        self.peer_hello: Hello | None = None
        self.goaway_received: Reason | None = None
        self._next_id = 1 if opener else 2
        self._peer_parity = 0 if opener else 1
        self._last_peer_id = 0
        self._max_streams = max_streams
        self._peer_streams = 0
        self._open_tokens = float(limits.OPENS_PER_SECOND)
        self._open_tokens_at = 0.0
        self._refused = False
        self.urgent.append(frames.json_frame(0, FrameType.HELLO, Hello(max_streams=max_streams)))

    # --- what we do ---------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Both ends have accepted each other (a TLS 1.3 handshake alone proves nothing to the client)."""
        return self.we_accepted and self.peer_accepted

    @property
    def can_open(self) -> bool:
        return (
            self.is_up
            and self.goaway_received is None
            and self._next_id <= frames.STREAM_ID_MAX
            and self.peer_hello is not None
            and len(self.streams) - self._peer_streams < self.peer_hello.max_streams
        )

    def accept_tunnel(self) -> None:
        assert not self.we_accepted
        self.we_accepted = True
        self.urgent.append(frames.frame(0, FrameType.ACCEPT))

    def refuse_tunnel(self, code: Code, reason: str) -> None:
        self.urgent.append(frames.reason_frame(0, FrameType.REFUSE, code, reason))

    def goaway(self, code: Code, reason: str) -> None:
        """No new streams from now on; those that are open go on."""
        self.urgent.append(frames.reason_frame(0, FrameType.GOAWAY, code, reason))

    def ping(self) -> None:
        self.urgent.append(frames.frame(0, FrameType.PING, b"\0\0\0\0\0\0\0\0"))

    def open(self, sink: Sink, wish: bytes) -> Stream:
        """Open a stream; `wish` is an encoded Open. The caller checked `can_open`."""
        assert self.peer_hello is not None and len(wish) <= limits.CONTROL_BODY_MAX
        stream = Stream(self._next_id, State.OPENING, send_credit=self.peer_hello.window, window=limits.WINDOW_INITIAL)
        self._next_id += 2
        stream.sink = sink
        self.streams[stream.id] = stream
        self.out.append(_pack(stream.id, FrameType.OPEN, 0, len(wish)) + wish)
        return stream

    def accept(self, stream: Stream) -> None:
        self._step(stream, Event.SEND_ACCEPT)
        self.out.append(_pack(stream.id, FrameType.ACCEPT, 0, 0))

    def refuse(self, stream: Stream, code: Code, reason: str, rule: str | None = None) -> None:
        """Answer an OPEN with no; none of the stream's bytes may have reached the service. The sink is not told."""
        stream.sink = None
        self._step(stream, Event.SEND_REFUSE)
        self.out.append(frames.reason_frame(stream.id, FrameType.REFUSE, code, reason, rule))

    def fin(self, stream: Stream) -> None:
        self._step(stream, Event.SEND_FIN)
        self.out.append(_pack(stream.id, FrameType.FIN, 0, 0))

    def reset(self, stream: Stream, code: Code) -> None:
        """End a stream in any state in which it still exists; harmless afterwards."""
        if NEXT[stream.state][Event.SEND_RESET] is not None:
            self._step(stream, Event.SEND_RESET)
            self.out.append(frames.frame(stream.id, FrameType.RESET, frames.CODE.pack(code)))

    def data(self, stream: Stream, body: bytes | memoryview) -> None:
        """Queue DATA; the caller stayed within `send_credit` and the body limit. The loop has its own copy of this
        with the header already in front of the bytes (relay/local.py)."""
        self._step(stream, Event.SEND_DATA)
        size = len(body)
        assert size <= stream.send_credit and size <= limits.FRAME_BODY_MAX
        stream.send_credit -= size
        stream.bytes_out += size
        self.out.append(_pack(stream.id, _DATA, 0, size) + body)

    def consumed(self, stream: Stream, size: int) -> None:
        """`size` bytes of the stream reached their reader: grant credit once half the window has."""
        stream.unacknowledged += size
        if stream.unacknowledged * 2 < stream.window or NEXT[stream.state][Event.SEND_WINDOW] is None:
            return
        grant = stream.unacknowledged + self._resized(stream)
        stream.unacknowledged = 0
        if grant:
            stream.recv_credit += grant
            self.out.append(frames.frame(stream.id, FrameType.WINDOW, frames.CREDIT.pack(grant)))

    def _resized(self, stream: Stream) -> int:
        """Let the window of a reader that keeps up grow, or, when the process has given away much, shrink that of one
        that does not; by how many bytes."""
        window = stream.window
        change = 0
        waits = stream.recv_credit + stream.unacknowledged < window
        if waits and (window < limits.WINDOW_USUAL or self._budget.is_short):  # more is no use to it, or to others more
            if window > limits.WINDOW_USUAL:
                change = -(window // 2)
        elif window < limits.WINDOW_USUAL:
            change = limits.WINDOW_USUAL - window
        elif window < limits.WINDOW_MAX and stream.bytes_in >= 4 * window:
            change = window
        if change > 0 and not self._budget.take(change):
            return 0
        if change < 0:
            change = max(change, -stream.unacknowledged)
            self._budget.give(-change)
        stream.window += change
        return change

    def _closed(self, stream: Stream) -> None:
        """It is over: what its window had grown may be given to others."""
        self._budget.give(stream.window - limits.WINDOW_INITIAL)

    def abandon(self, code: int) -> None:
        """The tunnel has gone: every sink is told with `on_reset(code)`, and nothing is sent for any stream."""
        streams = list(self.streams.values())
        self.streams.clear()
        self._peer_streams = 0
        for stream in streams:
            stream.state = State.CLOSED
            self._closed(stream)
            sink, stream.sink = stream.sink, None
            if sink is not None:
                self._last_word(sink, code)

    # --- what the peer does -------------------------------------------------------------------------------------

    def receive(self, buffer: memoryview, end: int) -> int:
        """Act on every whole frame in `buffer[:end]`; how many bytes they took.

        Raises:
            ProtocolViolation: the tunnel must be closed with its code.
        """
        at = 0
        streams = self.streams
        while end - at >= 8:
            stream_id, kind, flags, size = _unpack(buffer, at)
            stop = at + 8 + size
            if stop > end:
                if kind != _DATA and size > limits.CONTROL_BODY_MAX:
                    raise _bad(Code.FRAME_SIZE, f"frame type {kind} of {size} bytes")
                break
            if kind == _DATA and flags == 0 and (stream := streams.get(stream_id)) is not None and size:
                if NEXT[stream.state][_RECV_DATA] is None:
                    raise _bad(Code.STREAM_CLOSED, f"DATA on stream {stream_id} in state {stream.state.name}")
                stream.recv_credit -= size
                if stream.recv_credit < 0:
                    raise _bad(Code.FLOW_CONTROL, f"stream {stream_id} sent {-stream.recv_credit} bytes too many")
                stream.bytes_in += size
                if stream.state < State.RESETTING and (sink := stream.sink) is not None:
                    try:
                        sink.on_data(buffer[at + 8 : stop])
                    except BaseException as error:
                        if ends_the_process(error):
                            raise
                        self._crashed(stream, error)
            else:
                self._control(stream_id, kind, flags, bytes(buffer[at + 8 : stop]))
            at = stop
        return at

    def _control(self, stream_id: int, kind: int, flags: int, body: bytes) -> None:
        if flags:
            raise _bad(Code.PROTOCOL, f"unknown flags {flags:#x}")
        if self.peer_hello is None and (kind != FrameType.HELLO or stream_id != 0):
            raise _bad(Code.PROTOCOL, "the first frame is not HELLO")
        if stream_id == 0:
            self._tunnel_frame(kind, body)
        elif not self.is_up:
            raise _bad(Code.PROTOCOL, "a stream before both ends accepted the tunnel")
        elif kind == FrameType.OPEN:
            self._opened(stream_id, body)
        else:
            self._stream_frame(stream_id, kind, body)

    def _tunnel_frame(self, kind: int, body: bytes) -> None:
        if kind == FrameType.PING:
            _sized("PING", body, 8)
            if len(self.urgent) < 64:  # a peer that pings without reading gets no heap of answers
                self.urgent.append(frames.frame(0, FrameType.PONG, body))
        elif kind == FrameType.PONG:
            _sized("PONG", body, 8)
            self.pongs += 1
        elif kind == FrameType.HELLO:
            self._greeted(frames.decode_body(body, Hello, "HELLO"))
        elif kind == FrameType.ACCEPT:
            _sized("ACCEPT", body, 0)
            if self.peer_accepted or self._refused:
                raise _bad(Code.PROTOCOL, "the tunnel was accepted after it was accepted or refused")
            self.peer_accepted = True
            self.handler.on_accepted()
        elif kind == FrameType.REFUSE:
            if self.peer_accepted or self._refused:
                raise _bad(Code.PROTOCOL, "the tunnel was refused after it was accepted or refused")
            self._refused = True
            self.handler.on_refused(frames.decode_body(body, Reason, "REFUSE"))
        elif kind == FrameType.GOAWAY:
            self.goaway_received = frames.decode_body(body, Reason, "GOAWAY")
            self.handler.on_goaway(self.goaway_received)
        else:
            raise _bad(Code.PROTOCOL, f"frame type {kind} on stream 0")

    def _greeted(self, hello: Hello) -> None:
        if self.peer_hello is not None:
            raise _bad(Code.PROTOCOL, "HELLO twice")
        if hello.version != frames.VERSION:
            raise _bad(Code.VERSION, f"the peer speaks version {hello.version}, we speak {frames.VERSION}")
        if not 0 < hello.window <= frames.CREDIT_MAX or hello.max_streams < 0:
            raise _bad(Code.PROTOCOL, "HELLO with impossible limits")
        self.peer_hello = hello
        self.handler.on_hello(hello)

    def _opened(self, stream_id: int, body: bytes) -> None:
        if stream_id & 1 != self._peer_parity or stream_id <= self._last_peer_id or stream_id > frames.STREAM_ID_MAX:
            raise _bad(Code.PROTOCOL, f"OPEN with stream id {stream_id} out of turn")
        if self._peer_streams >= self._max_streams:
            # Our HELLO said so, and the peer knows of every stream that counts: it cannot have been a race.
            raise _bad(Code.LIMIT, f"more than {self._max_streams} streams at once")
        assert self.peer_hello is not None
        self._last_peer_id = stream_id
        self.opens += 1
        stream = Stream(stream_id, State.PENDING, send_credit=self.peer_hello.window, window=limits.WINDOW_INITIAL)
        self.streams[stream_id] = stream
        self._peer_streams += 1
        if not self._open_allowed():
            self.refuse(stream, Code.LIMIT, f"more than {limits.OPENS_PER_SECOND} streams opened per second")
            return
        self._tell_open(stream, frames.decode_body(body, Open, "OPEN"), self.handler.on_open)

    def opened_late(self, stream: Stream, wish: Open, say: Callable[[Stream, Open], None]) -> None:
        """The handler takes an OPEN only now that it was told of before: by `say`, under the same guard."""
        self._tell_open(stream, wish, say)

    def _tell_open(self, stream: Stream, wish: Open, say: Callable[[Stream, Open], None]) -> None:
        try:
            say(stream, wish)
        except BaseException as error:
            if ends_the_process(error):
                raise
            self._crashed(stream, error)

    def _open_allowed(self) -> bool:
        """A token bucket over the peer's OPENs (C29)."""
        gained = (self.now - self._open_tokens_at) * limits.OPENS_PER_SECOND
        self._open_tokens_at = self.now
        self._open_tokens = min(float(limits.OPENS_PER_SECOND), self._open_tokens + gained) - 1.0
        if self._open_tokens < 0.0:
            self._open_tokens = 0.0
            return False
        return True

    def _stream_frame(self, stream_id: int, kind: int, body: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._stray_frame(stream_id, kind)
        elif kind == FrameType.WINDOW:
            self._granted(stream, body)
        elif kind == FrameType.FIN:
            _sized("FIN", body, 0)
            self._heard(stream, Event.RECV_FIN)
        elif kind == FrameType.ACCEPT:
            _sized("ACCEPT", body, 0)
            self._heard(stream, Event.RECV_ACCEPT)
        elif kind == FrameType.REFUSE:
            self._refused_by_peer(stream, frames.decode_body(body, Reason, "REFUSE"))
        elif kind == FrameType.RESET:
            _sized("RESET", body, 2)
            self._reset_by_peer(stream, frames.CODE.unpack(body)[0])
        else:
            raise _bad(Code.PROTOCOL, f"frame type {kind} with {len(body)} bytes on stream {stream_id}")

    def _stray_frame(self, stream_id: int, kind: int) -> None:
        """A frame for a stream that is not open: late WINDOW and RESET are normal, all else is a violation."""
        ours = stream_id & 1 != self._peer_parity
        past = stream_id < self._next_id if ours else stream_id <= self._last_peer_id
        if not past:
            raise _bad(Code.PROTOCOL, f"frame type {kind} on stream {stream_id}, which was never opened")
        if kind not in (FrameType.WINDOW, FrameType.RESET):
            raise _bad(Code.STREAM_CLOSED, f"frame type {kind} on stream {stream_id}, which has ended")

    def _granted(self, stream: Stream, body: bytes) -> None:
        _sized("WINDOW", body, 4)
        self._step(stream, Event.RECV_WINDOW, peer=True)
        (credit,) = frames.CREDIT.unpack(body)
        if credit == 0 or stream.send_credit + credit > frames.CREDIT_MAX:
            raise _bad(Code.FLOW_CONTROL, f"WINDOW of {credit} on stream {stream.id}")
        stream.send_credit += credit
        if stream.state < State.RESETTING and stream.sink is not None:
            self._tell(stream, stream.sink.on_window)

    def _heard(self, stream: Stream, event: Event) -> None:
        live = stream.state < State.RESETTING
        self._step(stream, event, peer=True)
        if live and stream.sink is not None:
            self._tell(stream, stream.sink.on_fin if event is Event.RECV_FIN else stream.sink.on_accept)

    def _refused_by_peer(self, stream: Stream, reason: Reason) -> None:
        live = stream.state < State.RESETTING
        self._step(stream, Event.RECV_REFUSE, peer=True)
        if live:
            self._answer_end(stream)
            if stream.sink is not None:
                self._tell(stream, stream.sink.on_refuse, reason)

    def _reset_by_peer(self, stream: Stream, code: int) -> None:
        live = stream.state < State.RESETTING
        self._step(stream, Event.RECV_RESET, peer=True)
        if live:
            self._answer_end(stream)
            if stream.sink is not None:
                self._tell(stream, stream.sink.on_reset, code)

    def _answer_end(self, stream: Stream) -> None:
        self.out.append(frames.frame(stream.id, FrameType.RESET, frames.CODE.pack(Code.NO_ERROR)))

    # --- our own mistakes ---------------------------------------------------------------------------------------

    def _tell(self, stream: Stream, say: Callable[..., None], *about: object) -> None:
        try:
            say(*about)
        except BaseException as error:
            if ends_the_process(error):
                raise
            self._crashed(stream, error)

    def _crashed(self, stream: Stream, error: BaseException) -> None:
        sink, stream.sink = stream.sink, None
        self.reset(stream, Code.INTERNAL)
        self.handler.on_crash(error)
        if sink is not None:
            self._last_word(sink, Code.INTERNAL)

    def _last_word(self, sink: Sink, code: int) -> None:
        try:
            sink.on_reset(code)
        except BaseException as error:
            if ends_the_process(error):
                raise
            self.handler.on_crash(error)

    def _step(self, stream: Stream, event: Event, *, peer: bool = False) -> None:
        after = NEXT[stream.state][event]
        if after is None:
            if peer:
                raise _bad(Code.PROTOCOL, f"{event.name} on stream {stream.id} in state {stream.state.name}")
            raise AssertionError(f"{event.name} on stream {stream.id} in state {stream.state.name}")
        stream.state = after
        if after is State.CLOSED and self.streams.pop(stream.id, None) is not None:
            self._peer_streams -= stream.id & 1 == self._peer_parity
            self._closed(stream)


def _bad(code: Code, what: str) -> ProtocolViolation:
    return ProtocolViolation(code, what)


def _sized(name: str, body: bytes, size: int) -> None:
    if len(body) != size:
        raise _bad(Code.FRAME_SIZE, f"{name} of {len(body)} bytes, expected {size}")
