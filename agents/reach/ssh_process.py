"""I/O: a gateway's hold on an ssh worker process, from its start to its end, or to the next program in our place.

What it is told goes out in order and never makes the caller wait. One that says nothing for SSH_SILENT hangs, on
something that a host sent it, and is killed; nothing that it says or does ends the gateway.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from agents.guards import must_pass
from agents.handover import LeftSshWorker
from agents.supervisor import InheritedProcess, Process
from agents.workers import ssh_messages as m
from agents.workers.channel import Channel, ChannelClosed
from agents.workers.ssh_page import SuspectPage
from bridge import limits
from bridge.bugs import tell_bug

_WORKER = "agents.workers.ssh_worker"
_ROOT = Path(__file__).parents[2]

Start = Callable[[socket.socket], Process]
"""Starts a worker that serves this end of a socketpair, which the caller closes. Raises OSError."""
Heard = Callable[[m.FromSshWorker, Sequence[socket.socket]], None]
"""Called for every message; must not wait. Owns the sockets; there are none where they were lost (F29)."""


def start_ssh_worker(sock: socket.socket) -> Process:
    """An ssh worker process of this program. Raises OSError."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _WORKER, str(sock.fileno())],
        pass_fds=[sock.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


class SshWorkerProcess:
    """One worker process. Raises OSError: it cannot be started."""

    def __init__(self, start: Start, heard: Heard) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._process: Process = start(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._prepare(ours, heard)

    @classmethod
    def inherited(cls, left: LeftSshWorker, heard: Heard) -> SshWorkerProcess:
        """One that the program before us started. It may be of another version: it is told nothing, but to retire."""
        worker = cls.__new__(cls)
        worker._process = InheritedProcess(left.pid)
        worker._prepare(socket.socket(fileno=left.channel), heard)
        worker._channel.put_back(left.unread, b"")
        return worker

    def _prepare(self, ours: socket.socket, heard: Heard) -> None:
        self._heard = heard
        self._channel: Channel[m.ToSshWorker, m.FromSshWorker] = Channel(ours, m.FromSshWorker)
        self._say, self._said = trio.open_memory_channel[m.ToSshWorker](limits.WORKER_OUTBOX_MAX)
        self.public_key = ""
        """Of its own key; empty until it has started."""
        self.hung = False
        """Whether it was killed because it said nothing."""
        self._left = False
        self._unsaid = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: m.ToSshWorker) -> None:
        try:
            self._say.send_nowait(message)
            self._unsaid += 1
        except trio.WouldBlock:
            self._hangs()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended

    async def run(self, begin: m.Begin, listener: socket.socket, page: SuspectPage, ready: Callable[[], None]) -> str:
        """Serve it until it has ended, or end it when cancelled; why it ended. `ready` is called once it has started,
        to tell it everything."""
        reason = "ended"
        try:
            with trio.fail_after(limits.WORKER_START_TIMEOUT):
                await self._channel.send(begin, [listener.fileno(), page.fd])
                started, _ = await self._channel.receive()
            if not isinstance(started, m.Started):
                raise ChannelClosed("could not start")
            self.public_key = started.public_key
            ready()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                await self._receive()
        except* trio.TooSlowError:
            reason = f"was not ready within {limits.WORKER_START_TIMEOUT:.0f} s"
        except* ChannelClosed:
            reason = "said nothing any more and was killed" if self.hung else "ended"
        finally:
            self._end()
        return reason

    async def run_inherited(self) -> None:
        """Hear it as far as it can be understood, until it has ended."""
        try:
            try:
                await self._receive()
            except ChannelClosed:
                while not self.hung:  # it raises once nobody is there any more
                    await self._look_away()
        except ChannelClosed:
            pass
        finally:
            self._end()

    async def _look_away(self) -> None:
        with trio.move_on_after(limits.SSH_SILENT) as scope:
            await self._channel.discard_some()
        if scope.cancelled_caught:
            self._hangs()

    def retire(self) -> None:
        """Another one takes the requests from here on: it ends with its last stream."""
        self._channel.stop_talking()

    def end(self) -> None:
        """Now, with all that it carries."""
        self._channel.hang_up()

    @property
    def knows_all(self) -> bool:
        """Whether it has taken all that it was told."""
        return not self._unsaid

    def leave(self) -> None:
        """It goes on when we end here."""
        self._left = True

    def detach(self, *, serves: bool, hosts: tuple[str, ...] = ()) -> LeftSshWorker:
        """After the end of `run`."""
        channel, unread, _ = self._channel.detach()
        return LeftSshWorker(pid=self.pid, channel=channel, unread=unread, serves=serves, hosts=hosts)

    async def _send(self) -> None:
        async for message in self._said:
            await self._channel.send(message)
            self._unsaid -= 1

    async def _receive(self) -> None:
        while True:
            with trio.move_on_after(limits.SSH_SILENT) as scope:
                message, socks = await self._channel.receive()
            if scope.cancelled_caught:
                self._hangs()
                raise ChannelClosed("the ssh worker hangs")
            try:
                self._heard(message, socks)
            except BaseException as exc:  # what one message leads to must not end the gateway
                if must_pass(exc):
                    raise
                tell_bug("an ssh worker's message was lost to a bug", exc, message=type(message).__name__)
                for sock in socks:
                    sock.close()

    def _hangs(self) -> None:
        self.hung = True
        self._channel.hang_up()

    def _end(self) -> None:
        self._say.close()
        self._said.close()
        if not self._left:
            self._channel.close()
            self._process.kill()
            self._process.wait()


class Suspensions:
    """Hosts that hung a worker, and until when they are left alone: twice as long each time.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        self._times: dict[str, int] = {}

    def add(self, host: str) -> float:
        """For how long it is left alone now, seconds."""
        times = self._times[host] = self._times.get(host, 0) + 1
        span = min(limits.SSH_SUSPENSION * 2.0 ** (times - 1), limits.SSH_SUSPENSION_MAX)
        self._until[host] = self._now() + span
        return span

    def current(self) -> dict[str, str]:
        """Those that are left alone now, and why."""
        now = self._now()
        self._until = {host: until for host, until in self._until.items() if until > now}
        return dict.fromkeys(self._until, "what it sent made an ssh worker hang; it is left alone for a while")

    @property
    def next_end(self) -> float:
        """When the first of them ends; infinity when there is none."""
        return min(self._until.values(), default=math.inf)
