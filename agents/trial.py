"""I/O: another version does a node's work for a while in a process of its own, before it becomes the node's process.

The supervisor that leaves its place waits here. What is on disk takes the place with descriptors of its own and serves:
whatever goes wrong ends that process and nothing else, and the supervisor that waits goes on. One that has served for a
while hands back all that there is by then, workers included. Signals go through: a service manager knows one process,
and it is this one.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import math
import os
import signal
import socket
import subprocess
from dataclasses import dataclass

import msgspec
import trio

from agents import handover, program
from agents.handover import Left
from agents.lifecycle import keep_watchdog
from agents.workers.framing import descriptors_in
from bridge import limits

_PACKET_MAX = 4096
_FDS_MAX = 253
_LOOK = 0.05
_ROOM = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)
_PR_SET_CHILD_SUBREAPER = 36
_NOT_FOR_IT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""The service manager hears this process alone."""


@dataclass(frozen=True)
class Passed:
    """What the version on trial had, which is ours now."""

    left: Left


@dataclass(frozen=True)
class Refused:
    """It did not pass; what was left to it is as it was, but for workers that have ended."""

    why: str
    left: Left


@dataclass(frozen=True)
class Ended:
    """The node was told to end, and has ended."""

    code: int


async def try_out(left: Left) -> Passed | Refused | Ended:
    """Have the version on disk take the place for a while. Signals are held back before and after."""
    try:
        process, ours = _start(left)
    except OSError as exc:
        return Refused(f"it cannot be started: {exc.strerror}", left)
    with trio.socket.from_stdlib_socket(ours) as sock:
        return await _Waiting(sock, process, left).wait()


def _start(left: Left) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of what it says. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        file = left.written()
        try:
            environment = handover.environment(file, theirs.fileno())
            # Not in another thread, as trio does it: what is held back in this one is held back in the process.
            process = subprocess.Popen(
                program.command(),
                env={name: value for name, value in environment.items() if name not in _NOT_FOR_IT},
                pass_fds=[file, theirs.fileno(), *left.descriptors],
                start_new_session=True,
            )
        finally:
            os.close(file)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


class _Gives(Exception):
    """Why the process on trial is not waited for any longer."""


class _Waiting:
    """For the process on trial: how it goes, and what it hands back."""

    def __init__(self, sock: trio.socket.SocketType, process: subprocess.Popen[bytes], left: Left) -> None:
        self._sock = sock
        self._process = process
        self._left = left
        self._said = ""
        self._reload = left.reload
        self._told_to_end = 0
        """By which signal."""
        self._ends_by = math.inf
        """When it is to have done so."""
        self._listens = False
        """To signals: it has given a sign of life."""
        self._file = -1
        self._fds: list[int] = []

    async def wait(self) -> Passed | Refused | Ended:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._pass_signals_on)
            nursery.start_soon(keep_watchdog)
            try:
                found = await self._outcome()
            finally:
                handover.hold_signals()
            nursery.cancel_scope.cancel()
        if self._told_to_end and not isinstance(found, Ended):
            signal.raise_signal(self._told_to_end)  # that process did not follow it: the next one takes it
        return found

    async def _pass_signals_on(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            handover.listen_to_signals()
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self._reload = True
                else:
                    self._told_to_end = number
                    self._ends_by = min(self._ends_by, trio.current_time() + limits.DRAIN_DEADLINE + limits.TRIAL_END)
                    self._process.send_signal(number)

    async def _outcome(self) -> Passed | Refused | Ended:
        try:
            handed_back, why = await self._heard(), ""
        except _Gives as exc:
            handed_back, why = None, str(exc)
        if handed_back is not None:
            _adopt_orphans(True)
            with contextlib.suppress(OSError):  # it may have ended by now
                await self._sock.send(b"k")
            await self._see_it_end(limits.TRIAL_END)
            _adopt_orphans(False)
            return Passed(msgspec.structs.replace(handed_back, reload=self._reload))
        for fd in self._fds:
            os.close(fd)
        if self._file >= 0:
            os.close(self._file)
        if why:
            self._process.kill()
        await self._see_it_end(limits.DRAIN_DEADLINE if self._told_to_end else limits.TRIAL_END)
        code = self._process.returncode or 0
        if self._told_to_end and self._has_followed(why, code):
            return Ended(max(code, 0) if code != -signal.SIGKILL else 1)
        why = why or self._said or (f"signal {-code} ended it" if code < 0 else f"it ended with exit code {code}")
        return Refused(why, msgspec.structs.replace(self._left, reload=self._reload))

    def _has_followed(self, why: str, code: int) -> bool:
        """Whether it has done what a signal told it, as far as there was time: else that is for the one before, which
        has what was left."""
        is_sound = self._listens and not why and not self._said and code >= 0
        return is_sound or trio.current_time() >= self._ends_by

    async def _heard(self) -> Left | None:
        """All that it hands back; None when it has ended by itself. Raises _Gives."""
        silent, until = limits.TRIAL_START, trio.current_time() + limits.TRIAL_READY
        while True:
            deadline = self._ends_by if self._told_to_end else until
            with trio.move_on_after(silent) as standing, trio.move_on_at(deadline) as waiting:
                packet = await self._packet()
            if standing.cancelled_caught:
                raise _Gives(f"it stood still for {silent:.0f} s")
            if waiting.cancelled_caught:
                if trio.current_time() < self._ends_by < math.inf:
                    continue  # it was told to end meanwhile, and has that long for it
                raise _Gives(f"it was not done within {limits.TRIAL_READY:.0f} s")
            match packet[:1]:
                case handover.ALIVE:
                    self._listens = True
                    silent = limits.TRIAL_SILENT
                case handover.READY:
                    until = trio.current_time() + limits.TRIAL_READY
                case handover.BECAUSE:
                    self._said = packet[1:].decode("utf-8", "replace")
                case handover.WHOLE:
                    return self._handed_back()
                case b"":
                    return None

    async def _packet(self) -> bytes:
        try:
            data, ancillary, _flags, _address = await self._sock.recvmsg(_PACKET_MAX, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return b""
        came = descriptors_in(ancillary)
        if data == handover.LEFT and came:
            self._file = came[0]
        else:
            self._fds += came
        return data

    def _handed_back(self) -> Left:
        file, self._file = self._file, -1
        try:
            left = handover.read_left(file)
        except (OSError, ValueError, msgspec.DecodeError) as exc:
            raise _Gives(f"what it handed back cannot be read: {type(exc).__name__}") from None
        if len(self._fds) != len(left.descriptors):
            raise _Gives("there was no room for the descriptors that it handed back")
        # Our children, which it could hear the end of and not wait for.
        ended = {*self._left.children, *self._left.pids, *left.children} - left.pids
        return msgspec.structs.replace(left.renumbered(self._fds), children=tuple(sorted(ended)))

    async def _see_it_end(self, within: float) -> None:
        with trio.move_on_after(within):
            while self._process.poll() is None:  # noqa: ASYNC110 - it has closed its socket: it takes a moment
                await trio.sleep(_LOOK)
        self._process.kill()
        self._process.wait()


def _adopt_orphans(yes: bool) -> None:
    """Whether what the process on trial leaves behind becomes our children, PR_SET_CHILD_SUBREAPER(2const)."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)
