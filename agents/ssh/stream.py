"""I/O: one stream: a unix socket here, a channel of an ssh connection there.

Each direction has its own end: an end of stream on the socket becomes one on the channel, and the other way round. A
stream that did not end but was cut (the connection is lost, the host closed the channel in the middle) must not look
complete to whoever reads it, and a unix socket has no reset: `fate` tells the difference (see `ssh_messages`). What
waits here for a reader that does not read is at most the channel's window and one read.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Any, Protocol

import asyncssh
from asyncssh.packet import SSHPacket

from agents.ssh.asking import pass_on
from agents.workers.ssh_messages import CLEAN_END
from bridge import limits

_EOF = 96
_WINDOW_ADJUST = 93
_buffer = memoryview(bytearray(limits.SSH_READ_MAX))
"""Where all streams of the process read to: what was read is sealed before anybody else reads."""
unread: set[Stream] = set()
"""Of the process: those whose channel has ended, and the rest of what came is still to be read by whoever asked."""


class Carrier(Protocol):
    """The ssh connection, as a stream needs it."""

    streams: dict[int, Stream]

    @property
    def can_send(self) -> bool: ...
    def block(self, stream: Stream) -> None: ...
    def send_data(self, channel: int, data: memoryview, most: int) -> bool: ...


class Channel(asyncssh.SSHTCPChannel[bytes]):
    """asyncssh's, but that it remembers an end of stream that a close overtakes."""

    end_heard = False

    def _hear_end(self, kind: int, number: int, packet: SSHPacket) -> None:
        self.end_heard = True
        self._process_eof(kind, number, packet)

    _packet_handlers = {**asyncssh.SSHTCPChannel._packet_handlers, _EOF: _hear_end}  # noqa: RUF012


class Stream(asyncssh.SSHTCPSession[bytes]):
    """The session of one channel.

    Args:
        sock: connected, non-blocking; owned.
        fate: tells the socket's other end that the end it sees is one; owned. None: whoever asked for the stream is
            answered when the channel is open, and gets the other end of it then.
    """

    def __init__(self, connection: Carrier, sock: socket.socket, fate: socket.socket | None = None) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fate = fate
        self._chan: Any = None
        self._channel = -1
        self._pending = bytearray()
        """For the socket, which took less than there was."""
        self._ended_there = False
        """The host will send nothing more."""
        self._ended_here = False
        """We will send nothing more to the host."""
        self._shut = False
        self._closed = False

    # --- the channel ----------------------------------------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._chan = chan
        self._chan.set_write_buffer_limits(0)
        self._channel = self._chan._recv_chan

    def session_started(self) -> None:
        if self._closed:  # whoever asked is gone by now
            self._chan.abort()
            return
        if self._fate is None:
            self._fate = pass_on(self._sock)
            if self._fate is None:
                self._abort()
                return
        self._connection.streams[self._channel] = self
        self._loop.add_reader(self._sock, self._readable)

    def takes(self, size: int) -> bool:
        """Whether `deliver` may have so many bytes: else asyncssh keeps them, or says what is wrong with them."""
        chan = self._chan
        if chan._recv_state != "open" or chan._recv_paused or chan._send_state in ("close_pending", "closed"):
            return False
        if size > chan._recv_window:
            return False
        chan._recv_window -= size
        return True

    def deliver(self, parts: list[memoryview]) -> None:
        """What came for the socket, without the long way; its window was taken by `takes`."""
        if not self._closed:
            self._write(parts)
        chan = self._chan
        if not chan._recv_paused and chan._recv_window < chan._init_recv_window // 2:
            self._open_window()

    def _open_window(self) -> None:
        chan = self._chan
        room = chan._init_recv_window - chan._recv_window
        chan._recv_window = chan._init_recv_window
        chan.send_packet(_WINDOW_ADJUST, room.to_bytes(4, "big"))

    def data_received(self, data: bytes, datatype: Any) -> None:
        if not self._closed:
            self._write([memoryview(data)])

    def eof_received(self) -> bool:
        self._ended_there = True
        if not self._pending:
            self._end_socket()
        return True

    def pause_writing(self) -> None:
        if not self._closed:
            self._loop.remove_reader(self._sock)

    def resume_writing(self) -> None:
        if not self._closed and not self._ended_here:
            self._loop.add_reader(self._sock, self._readable)

    def unblocked(self) -> None:
        """The connection takes data again."""
        if not self._closed and not self._ended_here and not self._chan._send_paused:
            self._loop.add_reader(self._sock, self._readable)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.streams.pop(self._channel, None)
        if self._chan.end_heard and not self._chan._recv_buf and not self._ended_there and not self._closed:
            self.eof_received()
        if self._ended_there and self._pending and not self._closed:
            self._loop.remove_reader(self._sock)
            self._ended_here = True  # the rest still goes to the socket, and then it is closed
            unread.add(self)
        else:
            self._close()

    # --- the socket -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        chan = self._chan
        if chan._send_state != "open":  # the host takes nothing more
            self._loop.remove_reader(self._sock)
            return
        if not self._connection.can_send:
            self._loop.remove_reader(self._sock)
            self._connection.block(self)
            return
        room = min(chan._send_window, limits.SSH_READ_MAX)
        if not room:
            self._loop.remove_reader(self._sock)
            chan._send_paused = True  # asyncssh calls `resume_writing` when the window opens
            return
        try:
            count = self._sock.recv_into(_buffer[:room])
        except BlockingIOError:
            return
        except OSError:
            self._abort()
            return
        if not count:
            self._socket_ended()
        elif self._connection.send_data(chan._send_chan, _buffer[:count], chan._send_pktsize):
            chan._send_window -= count
        else:
            chan.write(bytes(_buffer[:count]))

    def _socket_ended(self) -> None:
        """End of stream; or the socket was closed altogether, and nobody is there for what the host still sends."""
        self._loop.remove_reader(self._sock)
        self._ended_here = True
        poll = select.poll()
        poll.register(self._sock, 0)
        if not self._shut and poll.poll(0):
            self._abort()
            return
        self._chan.write_eof()
        if self._ended_there:
            self._chan.close()

    def _write(self, parts: list[memoryview]) -> None:
        sent = 0
        if not self._pending:
            try:
                sent = self._sock.sendmsg(parts)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._abort()
                return
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            else:
                self._pending += part[sent:]
                sent = 0
        if self._pending:
            self._chan.pause_reading()
            self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._pending)
        except BlockingIOError:
            return
        except OSError:
            self._abort()
            return
        del self._pending[:sent]
        if self._pending:
            return
        self._loop.remove_writer(self._sock)
        if self._ended_there:
            self._end_socket()
        else:
            self._chan.resume_reading()
            if self._chan._recv_window < self._chan._init_recv_window // 2 and not self._chan._recv_paused:
                self._open_window()

    def _end_socket(self) -> None:
        """The host has sent all it will, and the socket has it."""
        self._shut = True
        if self._fate is not None:
            with contextlib.suppress(OSError):
                self._fate.send(CLEAN_END)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        if self._ended_here:
            if self._chan._conn is not None:
                self._chan.close()
            else:
                self._close()

    def _abort(self) -> None:
        """Whoever had the socket is gone, or it failed: the host hears of it."""
        self._close()
        if self._chan is not None:
            self._chan.abort()

    def give_back(self) -> None:
        """The channel was not opened: the socket is the caller's again. Should it open after all, it is closed."""
        self._closed = True

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            unread.discard(self)
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            if self._fate is not None:
                self._fate.close()
            self._pending.clear()
