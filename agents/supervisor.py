"""I/O: the supervisor's hold on its data worker: start it, tell it everything again when it was replaced, stop it.

What a worker must know is kept here as the latest of each kind, so that a new one is told the same as the old one was:
a worker that dies costs its own streams and nothing else. Nothing that a worker says or does ends the supervisor.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import trio

from agents.backoff import Backoff
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from bridge import limits
from bridge.bugs import tell_bug
from bridge.logs import get_logger

log = get_logger()

_WORKER = "agents.workers.data_worker"
_ROOT = Path(__file__).parents[1]
_TUNNELS = ("@tunnels", 0)

OnMessage = Callable[[m.FromWorker, list[socket.socket]], Awaitable[None]]


class Process(Protocol):
    """A child process, as far as it is needed here (subprocess.Popen is one)."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


Start = Callable[[socket.socket], Process]
"""Starts a worker that serves this end of a socketpair, which the caller closes. Raises OSError."""


def start_worker(sock: socket.socket) -> Process:
    """A data worker process of this program. Raises OSError."""
    # Never from the current directory: whoever can write there could name his own package `agents`.
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _WORKER, str(sock.fileno())],
        pass_fds=[sock.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


class DataWorkerProcess:
    """One data worker and its replacements.

    Args:
        begin: who the node is.
        on_message: called for every message; must not wait long. What it raises is logged. It owns the sockets; there
            are none when they were lost because this process ran out of descriptors.
        on_start: called when a (new) worker has been told everything.
        on_end: called when one has gone, with its pid.
        start: starts a process.
    """

    def __init__(
        self,
        begin: m.Begin,
        *,
        on_message: OnMessage,
        on_start: Callable[[], None],
        on_end: Callable[[int], None],
        start: Start = start_worker,
    ) -> None:
        self._begin = begin
        self._on_message = on_message
        self._on_start = on_start
        self._on_end = on_end
        self._start = start
        self._channel: Channel[m.ToWorker, m.FromWorker] | None = None
        self._process: Process | None = None
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
        key = (message.address, message.port) if isinstance(message, m.Listen) else _TUNNELS
        self._listening[key] = (message, sock)
        await self.tell(message, [sock.fileno()])

    async def unlisten(self, address: str, port: int) -> None:
        """Stop serving it. The port is free when this returns, also while the worker has not closed its copy yet."""
        kept = self._listening.pop((address, port), None)
        if kept is None:
            return
        try:
            await self.tell(m.Unlisten(address=address, port=port))
        finally:
            with contextlib.suppress(OSError):
                kept[1].shutdown(socket.SHUT_RDWR)
            kept[1].close()

    async def tell(self, message: m.ToWorker, fds: Sequence[int] = ()) -> bool:
        """Say something to the worker that is there now; False when there is none."""
        channel = self._channel
        if channel is None:
            return False
        with trio.move_on_after(limits.WORKER_SEND_TIMEOUT):
            try:
                await channel.send(message, fds)
            except ChannelClosed:
                return False
            return True
        log.error("the data worker does not read what it is told; another one takes its place", pid=self.pid)
        channel.close()
        return False

    # --- keeping --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a worker running until cancelled; then end it."""
        backoff = Backoff(rng=random.Random())
        try:
            while True:
                started = trio.current_time()
                reason = await self._serve_one()
                self.restarts += 1
                if trio.current_time() - started > limits.BACKOFF_MAX:
                    backoff.reset()
                delay = backoff.next()
                log.error("data worker ended; starting another", reason=reason, delay=round(delay, 2))
                await trio.sleep(delay)
        finally:
            self._end()

    async def _serve_one(self) -> str:
        """One worker from its start to its end; why it ended."""
        try:
            channel, process = self._begin_one()
        except OSError as exc:
            return f"it cannot be started: {exc.strerror}"
        self._process = process
        try:
            await self._introduce(channel)
            while True:
                await self._hear(*await channel.receive())
        except ChannelClosed as exc:
            return exc.what
        finally:
            self._channel = None
            self._process = None
            channel.close()
            # It ends by itself once its socketpair is closed; make sure of it. The wait is for a killed process.
            process.kill()
            process.wait()
            self._on_end(process.pid)

    def _begin_one(self) -> tuple[Channel[m.ToWorker, m.FromWorker], Process]:
        ours, theirs = socket.socketpair()
        try:
            process = self._start(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Channel(ours, m.FromWorker), process

    async def _hear(self, message: m.FromWorker, socks: list[socket.socket]) -> None:
        try:
            await self._on_message(message, socks)
        except Exception as exc:  # what one message leads to must not end the node
            tell_bug("a worker's message was lost to a bug", exc, message=type(message).__name__)
            for sock in socks:
                sock.close()

    async def _introduce(self, channel: Channel[m.ToWorker, m.FromWorker]) -> None:
        await self._wait_started(channel)
        # From here on everything goes out in the order in which it is said: what is told meanwhile cannot be overtaken
        # by what was known before, because each is looked up when it is its turn.
        self._channel = channel
        if self._authority is not None:
            await self.tell(self._authority)
        if self._placement is not None:
            await self.tell(self._placement)
        for key in list(self._listening):
            kept = self._listening.get(key)
            if kept is not None:
                await self.tell(kept[0], [kept[1].fileno()])
        if self._draining is not None:
            await self.tell(self._draining)
        self._on_start()

    async def _wait_started(self, channel: Channel[m.ToWorker, m.FromWorker]) -> None:
        with trio.move_on_after(limits.WORKER_START_TIMEOUT):
            await channel.send(self._begin)
            message, socks = await channel.receive()
            if isinstance(message, m.Started):
                return
            await self._hear(message, socks)
            raise ChannelClosed("it could not start")
        raise ChannelClosed(f"it was not ready within {limits.WORKER_START_TIMEOUT:.0f} s")

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
