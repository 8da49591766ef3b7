"""I/O: the supervisor's hold on one data worker process, from its start to its end.

What it is told goes out in the order in which it was said and never makes the caller wait: a worker that hangs holds up
nobody, and is ended. Nothing that a worker says or does ends the supervisor. `data_workers` keeps a node's workers.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import trio

from agents.guards import must_pass
from agents.handover import HeldSlot, LeftWorker
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from bridge import limits
from bridge.bugs import tell_bug
from bridge.logs import get_logger

log = get_logger()

_WORKER = "agents.workers.data_worker"
_ROOT = Path(__file__).parents[1]
_UNDERSTOOD = (
    m.WorkerReport, m.Notice, m.Guest, m.ControlStream, m.PathNeeded, m.SlotAsked, m.SlotUsed, m.SlotLeft,
)  # fmt: skip
"""What an inherited worker may say; the rest answers what the program before us asked."""
_TOLD = (m.Retire, m.PathFound, m.PathFailed, m.SlotGiven, m.SlotRefused)
"""What an inherited worker may be told. One whose version cannot read any of it takes it as the word to retire."""


class Process(Protocol):
    """A child process, as far as it is needed here (subprocess.Popen is one)."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


Start = Callable[[socket.socket, int], Process]
"""Starts a worker that serves this end of a socketpair, which the caller closes, and uses the page of shares behind
this descriptor. Raises OSError."""


def start_worker(sock: socket.socket, page: int) -> Process:
    """A data worker process of this program. Raises OSError."""
    # Never from the current directory: whoever can write there could name his own package `agents`.
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _WORKER, str(sock.fileno()), str(page)],
        pass_fds=[sock.fileno(), page],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


class InheritedProcess:
    """A child that the program before us in this process started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def kill(self) -> None:
        """Only while it is a child of ours: the number may be somebody else's by now."""
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(self.pid, 0)[1]
        return 0


def is_held(pid: int) -> bool:
    """Whether a signal or a debugger has stopped the process."""
    with contextlib.suppress(OSError):
        # The name before the last `)` may hold anything; the letter after it is the state.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    return False


class DataWorkerProcess:
    """One worker process. Raises OSError: it cannot be started.

    Args:
        page: descriptor of the shared page (`agents.workers.shares`).
        on_message: called for every message; must not wait long. What it raises is logged. It owns the sockets; there
            are none when they were lost because this process ran out of descriptors.
    """

    def __init__(self, start: Start, page: int, on_message: OnMessage) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._process: Process = start(theirs, page)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._prepare(ours, on_message)

    def _prepare(self, ours: socket.socket, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._channel: Channel[m.ToWorker, m.FromWorker] = Channel(ours, m.FromWorker)
        self._say, self._said = trio.open_memory_channel[tuple[m.ToWorker, Sequence[socket.socket], bool]](
            limits.WORKER_OUTBOX_MAX
        )
        self._left = False
        self.ready = False
        """It has said that it started, and is told what happens."""
        self.serves = True
        """It takes new connections; False for one that others have taken over from."""
        self.tunnels: tuple[m.TunnelState, ...] = ()
        self.streams = 0
        """As it reported last."""
        self.streams_behind: Mapping[str, int] = {}
        """Of these, those to each agentless host."""
        self.silent_for = 0.0
        """Seconds in which it could have said something and did not."""
        self.hangs_for = 0.0
        """Those of them after WORKER_SILENT, since anything held it."""
        self.paths: dict[str, tuple[str, ...]] = {}
        """Hosts that it wants a path to, and which gateways not."""
        self.slots: dict[int, HeldSlot] = {}
        """What it has, or waits for, at instances with a limit; `governors` keeps it."""
        self._inherited = False
        self._unsaid = 0
        self._all_said = trio.Event()
        self._all_said.set()

    @property
    def pid(self) -> int:
        return self._process.pid

    # --- telling --------------------------------------------------------------------------------------------------

    def tell(self, message: m.ToWorker, socks: Sequence[socket.socket] = (), *, lent: bool = False) -> bool:
        """Say something, after all that was said before; False when the worker is not there.

        Owns the sockets, whatever becomes of them; or they are lent, and one that its owner closes before its turn is
        not sent.
        """
        if self.ready or (self._inherited and isinstance(message, _TOLD)):
            try:
                self._say.send_nowait((message, socks, lent))
                self._unsaid += 1
                if self._all_said.is_set():
                    self._all_said = trio.Event()
                return True
            except trio.WouldBlock:
                self._does_not_read()
        if not lent:
            _close(socks)
        return False

    @property
    def is_behind(self) -> bool:
        """Whether so much waits for it that what can be done without is not said."""
        return self._unsaid > limits.WORKER_BEHIND

    def _does_not_read(self) -> None:
        log.error("the data worker does not read what it is told; another one takes its place", pid=self.pid)
        self._hangs()

    def _hangs(self) -> None:
        self.ready = self._inherited = False
        self._channel.hang_up()

    def look(self, passed: float, is_held: Callable[[int], bool]) -> None:
        """Call it every `passed` seconds: one that has said nothing for too long hangs, unless something holds it."""
        self.silent_for += passed
        if self.silent_for <= limits.WORKER_SILENT:
            self.hangs_for = 0.0
            return
        self.hangs_for = 0.0 if is_held(self.pid) else self.hangs_for + passed
        if self.hangs_for > limits.WORKER_HANGS:
            silent = round(self.silent_for)
            log.error("the data worker says nothing; another one takes its place", pid=self.pid, silent=silent)
            self._hangs()

    async def _send(self) -> None:
        """What is to be said, in order, until the worker is gone."""
        async for message, socks, lent in self._said:
            try:
                fds = [sock.fileno() for sock in socks]
                if -1 in fds:
                    continue
                with trio.move_on_after(limits.WORKER_SEND_TIMEOUT) as scope:
                    await self._channel.send(message, fds)
                if scope.cancelled_caught:
                    self._does_not_read()
            finally:
                self._unsaid -= 1
                if not self._unsaid:
                    self._all_said.set()
                if not lent:
                    _close(socks)

    def retire(self) -> None:
        """Others have taken over: it ends with its last stream."""
        self.serves = False
        self.tell(m.Retire())

    def retire_inherited(self) -> None:
        """The same for one that may not understand it."""
        if not self.tell(m.Retire()):
            self._channel.stop_talking()  # which it takes as that

    def answer(self, message: m.PathFound | m.PathFailed) -> None:
        """It asked for a path."""
        self.paths.pop(message.peer, None)
        self.tell(message)

    # --- what goes over to another program in our place ----------------------------------------------------------

    async def all_said(self) -> None:
        """Wait until it has taken all that it was told."""
        await self._all_said.wait()

    def leave(self) -> None:
        """It goes on when we end here."""
        self._left = True

    def detach(self) -> LeftWorker:
        """After the end of `run`."""
        channel, unread, unsent = self._channel.detach()
        return LeftWorker(
            pid=self.pid,
            channel=channel,
            unread=unread,
            streams=self.streams,
            unsent=unsent,
            paths=dict(self.paths),
            slots=dict(self.slots),
        )

    @classmethod
    def inherited(cls, left: LeftWorker, on_message: OnMessage) -> DataWorkerProcess:
        """One that the program before us started. It may be of another version: it is told next to nothing."""
        worker = cls.__new__(cls)
        worker._process = InheritedProcess(left.pid)
        worker._prepare(socket.socket(fileno=left.channel), on_message)
        worker._channel.put_back(left.unread, left.unsent)
        worker.streams, worker.serves, worker._inherited = left.streams, False, True
        worker.paths = dict(left.paths)
        worker.slots = dict(left.slots)
        return worker

    async def run_inherited(self) -> None:
        """Hear it as far as it can be understood, until it has ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                for peer, avoid in list(self.paths.items()):  # what the program before us was asked and did not answer
                    await self._hear(m.PathNeeded(peer=peer, avoid=avoid), [])
                await self._hear_inherited()
        except* ChannelClosed:
            pass
        finally:
            self._end()

    async def _hear_inherited(self) -> None:
        try:
            while True:
                message, socks = await self._channel.receive()
                if isinstance(message, _UNDERSTOOD):
                    await self._hear(message, socks)
                else:
                    _close(socks)
        except ChannelClosed as exc:
            log.info("an old data worker is heard no more", pid=self.pid, reason=exc.what)
            self._inherited = False
            await self._channel.discard()

    def end(self) -> None:
        """Now, with all that it carries."""
        self._channel.hang_up()

    # --- its life -------------------------------------------------------------------------------------------------

    async def run(self, begin: m.Begin, on_ready: Callable[[], None]) -> str:
        """Serve it until it has ended, or end it when cancelled; why it ended. `on_ready` is called when it has
        started, to tell it everything: what is said then nothing can overtake."""
        reason = ""
        try:
            await self._wait_started(begin)
            self.ready = True
            on_ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                while True:
                    await self._hear(*await self._channel.receive())
        except* ChannelClosed as group:
            reason = _words(group)
        finally:
            self._end()
        return reason

    async def _wait_started(self, begin: m.Begin) -> None:
        with trio.move_on_after(limits.WORKER_START_TIMEOUT):
            await self._channel.send(begin)
            message, socks = await self._channel.receive()
            if isinstance(message, m.Started):
                return
            await self._hear(message, socks)
            raise ChannelClosed("it could not start")
        raise ChannelClosed(f"it was not ready within {limits.WORKER_START_TIMEOUT:.0f} s")

    async def _hear(self, message: m.FromWorker, socks: list[socket.socket]) -> None:
        self.silent_for = 0.0
        try:
            await self._on_message(self, message, socks)
        except BaseException as exc:  # what one message leads to must not end the node
            if must_pass(exc):
                raise
            tell_bug("a worker's message was lost to a bug", exc, message=type(message).__name__)
            _close(socks)

    def _end(self) -> None:
        self.ready = self._inherited = False
        self._all_said.set()
        if not self._left:
            self._channel.close()
        self._say.close()
        while True:
            try:
                _message, socks, lent = self._said.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            if not lent:
                _close(socks)
        self._said.close()
        # It ends by itself once its socketpair is closed; make sure of it. The wait is for a killed process.
        if not self._left:
            self._process.kill()
            self._process.wait()


def _close(socks: Sequence[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def _words(group: BaseExceptionGroup[ChannelClosed]) -> str:
    """What the first error in a group says."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, ChannelClosed)
    return first.what


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


OnMessage = Callable[[DataWorkerProcess, m.FromWorker, list[socket.socket]], Awaitable[None]]
