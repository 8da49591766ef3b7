"""I/O: `dial`: stdin and stdout joined to one stream to a service, through the agent of a home.

Blocking and without trio: stdin may be a file, a pipe or a terminal, and nobody's descriptors may be left non-blocking.
Each direction ends by itself (half-close): the end of stdin is told to the service, whose answer still arrives.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from pathlib import Path

from agents.admin.client import take_over
from bridge import limits

_STDIN, _STDOUT = 0, 1


async def connect(home: Path, name: str) -> socket.socket:
    """A blocking socket to the service, accepted by its far end.

    Raises:
        AnswerIsNo: policy says no, or there is no such service.
        Unavailable: no agent runs on this home, or no instance can be reached.
    """
    stream = await take_over(home, "dial", answer_within=limits.OPEN_WAIT_TIMEOUT + 2, name=name)
    async with stream:
        sock = socket.socket(fileno=os.dup(stream.socket.fileno()))
    sock.setblocking(True)
    return sock


def join_stdio(sock: socket.socket) -> None:
    """Copies both ways until both have ended, or the other end is gone. Closes the socket.

    Raises:
        BrokenPipeError: whoever reads our stdout is gone.
    """
    done_read, done_write = os.pipe()
    sender = threading.Thread(target=_send, args=(sock, done_write), daemon=True)
    sender.start()
    with sock:
        _receive(sock)
        # The service has said all it had to say; it may still be listening.
        waiting = select.poll()
        waiting.register(done_read, select.POLLIN)
        waiting.register(sock, 0)  # only whether it is gone altogether
        waiting.poll()


def _send(sock: socket.socket, done: int) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(_STDIN, limits.SPLICE_CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    os.close(done)


def _receive(sock: socket.socket) -> None:
    view = memoryview(bytearray(limits.SPLICE_CHUNK))
    ready = select.poll()
    ready.register(sock, select.POLLIN)
    ready.register(_STDOUT, 0)  # only whether its reader is gone, which a service that says nothing would hide
    while True:
        if any(fd == _STDOUT for fd, _ in ready.poll()):
            raise BrokenPipeError
        try:
            size = sock.recv_into(view)
        except ConnectionError:
            return
        if size == 0:
            break
        written = 0
        while written < size:
            written += os.write(_STDOUT, view[written:size])
    # The reader of our output learns of the end now, not when stdin ends as well.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STDOUT)
    os.close(null)
