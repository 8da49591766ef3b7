"""I/O: the supervisor's hold on its data worker: start it, tell it everything again when it was replaced, stop it.

What a worker must know is kept here as the latest of each kind, so that a new one is told the same as the old one was:
a worker that dies costs its own streams and nothing else.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from agents.backoff import Backoff
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from bridge import limits

log = structlog.get_logger()

OnMessage = Callable[[m.FromWorker, list[socket.socket]], Awaitable[None]]


class DataWorkerProcess:
    """One data worker and its replacements.

    Args:
        begin: who the node is.
        on_message: called for every message; must not wait long.
        on_start: called when a (new) worker has been told everything.
        on_end: called when one has gone, with its pid.
    """

    def __init__(
        self, begin: m.Begin, *, on_message: OnMessage, on_start: Callable[[], None], on_end: Callable[[int], None]
    ) -> None:
        self._begin = begin
        self._on_message = on_message
        self._on_start = on_start
        self._on_end = on_end
        self._channel: Channel[m.ToWorker, m.FromWorker] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._authority: m.Authority | None = None
        self._placement: m.Placement | None = None
        self._listening: dict[tuple[str, int], tuple[m.Listen | m.ListenTunnels, socket.socket]] = {}
        self._draining: m.Drain | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    # --- telling --------------------------------------------------------------------------------------------------

    async def know(self, message: m.Authority | m.Placement | m.Drain) -> None:
        """Something every worker must know, now and after a restart."""
        if isinstance(message, m.Authority):
            self._authority = message
        elif isinstance(message, m.Placement):
            self._placement = message
        else:
            self._draining = message
        await self.tell(message)

    async def listen(self, message: m.Listen | m.ListenTunnels, sock: socket.socket) -> None:
        """Serve a listening socket; it stays open here, for the next worker."""
        key = (message.address, message.port) if isinstance(message, m.Listen) else ("@tunnels", 0)
        self._listening[key] = (message, sock)
        await self.tell(message, [sock.fileno()])

    async def unlisten(self, address: str, port: int) -> None:
        kept = self._listening.pop((address, port), None)
        if kept is not None:
            await self.tell(m.Unlisten(address=address, port=port))
            kept[1].close()

    async def tell(self, message: m.ToWorker, fds: Sequence[int] = ()) -> bool:
        """Say something to the worker that is there now; False when there is none."""
        if self._channel is None:
            return False
        try:
            await self._channel.send(message, fds)
        except ChannelClosed:
            return False
        return True

    # --- keeping --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a worker running until cancelled; then end it."""
        backoff = Backoff(rng=random.Random())
        try:
            while True:
                started = trio.current_time()
                await self._serve_one()
                self.restarts += 1
                if trio.current_time() - started > limits.BACKOFF_MAX:
                    backoff.reset()
                delay = backoff.next()
                log.error("data worker ended; starting another", delay=round(delay, 2))
                await trio.sleep(delay)
        finally:
            self._end()

    async def _serve_one(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "agents.workers.data_worker", str(theirs.fileno())]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork and exec; it lives as long as its socketpair
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        channel: Channel[m.ToWorker, m.FromWorker] = Channel(ours, m.FromWorker)
        pid = self._process.pid
        try:
            await self._introduce(channel)
            while True:
                message, fds = await channel.receive()
                await self._on_message(message, fds)
        except ChannelClosed:
            pass
        finally:
            self._channel = None
            channel.close()
            self._reap()
            self._on_end(pid)

    async def _introduce(self, channel: Channel[m.ToWorker, m.FromWorker]) -> None:
        with trio.move_on_after(limits.WORKER_START_TIMEOUT):
            await channel.send(self._begin)
            await channel.receive()  # Started
            if self._authority is not None:
                await channel.send(self._authority)
            if self._placement is not None:
                await channel.send(self._placement)
            for message, sock in list(self._listening.values()):
                await channel.send(message, [sock.fileno()])
            if self._draining is not None:
                await channel.send(self._draining)
            self._channel = channel
            self._on_start()
            return
        raise ChannelClosed(f"the data worker was not ready within {limits.WORKER_START_TIMEOUT:.0f} s")

    def _reap(self) -> None:
        """The worker ends by itself once its socketpair is closed; make sure of it."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()  # at once: it has just been killed
        self._process = None

    def _end(self) -> None:
        for _message, sock in self._listening.values():
            sock.close()
        self._listening.clear()


class Latest:
    """A wish to act soon that any number of callers may repeat: the action runs once for all of them."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ask(self) -> None:
        self._event.set()

    async def asked(self, *, within: float = math.inf) -> bool:
        """Wait for a wish, at most `within` seconds; whether there was one."""
        with trio.move_on_after(within):
            await self._event.wait()
            self._event = trio.Event()
            return True
        return False
