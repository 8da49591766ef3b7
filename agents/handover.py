"""I/O: what a supervisor leaves to the one that takes its place, and who finds it.

Listening sockets, the home's lock and the channels to the workers go over as open descriptors, named in a memory file
whose own descriptor is in the environment. The workers of the one before go on accepting until those of the next one
are ready. `node_process` and `trial` say when that happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence

import msgspec
import trio

from agents import program
from bridge import limits
from bridge.lines import plain

_VARIABLE = "MESHBRIDGE_HANDOVER"
_TRIAL = "MESHBRIDGE_TRIAL"
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class HeldSlot(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has, or waits for, at an instance with a limit (see `governors`)."""

    instance: str
    service: str
    caller: str
    max_streams: int | None
    max_rate: int | None
    given: bool = False


class LeftWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that goes on: its channel, and what had been read of it but not understood yet."""

    pid: int
    channel: int
    unread: bytes
    streams: int
    unsent: bytes = b""
    """The rest of a message that it was being told."""
    paths: dict[str, tuple[str, ...]] = {}
    """Hosts that it wants a path to and was not answered about yet; through which gateways not."""
    slots: dict[int, HeldSlot] = {}
    """Its slots and wishes for some, by its own numbers."""


class LeftSshWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway's ssh worker that goes on: its channel, and what had been read of it but not understood yet."""

    pid: int
    channel: int
    unread: bytes
    serves: bool
    """It takes new streams until it is told otherwise; else it ends with its last one."""
    hosts: tuple[str, ...] = ()
    """Those that it has a connection to."""


class LeftSsh(msgspec.Struct, frozen=True, kw_only=True):
    """What goes over of how a gateway reaches agentless hosts."""

    listener: int
    """On which data workers ask for streams."""
    number: int
    """Of the entry of the authority log up to which the workers were told everything."""
    workers: tuple[LeftSshWorker, ...]

    def renumbered(self, numbers: Iterator[int]) -> LeftSsh:
        listener = next(numbers)
        workers = tuple(msgspec.structs.replace(worker, channel=next(numbers)) for worker in self.workers)
        return msgspec.structs.replace(self, listener=listener, workers=workers)


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What goes over. Numbers are descriptors."""

    lock: int
    listening: tuple[int, ...]
    dns: tuple[int, ...] = ()
    """The DNS server's, if there is one: the listening one and the one for datagrams."""
    workers: tuple[LeftWorker, ...]
    told: bytes = b""
    """What they were told is allowed: the next one ends them if it is less by then."""
    ssh: LeftSsh | None = None
    linked: bool = False
    """Others found their way to the node: then the next one is to be found as well."""
    reload: bool = False
    """There was a wish to reload that nobody has followed."""
    children: tuple[int, ...] = ()
    """Processes that end by themselves and are to be waited for."""

    @property
    def descriptors(self) -> list[int]:
        ssh = [self.ssh.listener, *(worker.channel for worker in self.ssh.workers)] if self.ssh is not None else []
        return [self.lock, *self.listening, *self.dns, *(worker.channel for worker in self.workers), *ssh]

    @property
    def pids(self) -> set[int]:
        """Of all workers."""
        ssh = {worker.pid for worker in self.ssh.workers} if self.ssh is not None else set()
        return {worker.pid for worker in self.workers} | ssh

    def renumbered(self, descriptors: Sequence[int]) -> Left:
        """The same with other numbers, in the order of `descriptors`: as another process received them."""
        numbers = iter(descriptors)
        return msgspec.structs.replace(
            self,
            lock=next(numbers),
            listening=tuple(next(numbers) for _ in self.listening),
            dns=tuple(next(numbers) for _ in self.dns),
            workers=tuple(msgspec.structs.replace(worker, channel=next(numbers)) for worker in self.workers),
            ssh=self.ssh and self.ssh.renumbered(numbers),
        )

    def written(self) -> int:
        """In a memory file; its descriptor."""
        file = os.memfd_create("meshbridge-handover", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(file), "wb") as writing:
            writing.write(msgspec.json.encode(self))
        return file


def read_left(file: int) -> Left:
    """What `written` wrote. Closes the file. Raises msgspec.DecodeError: it is something else."""
    with os.fdopen(file, "rb") as reading:
        reading.seek(0)
        return msgspec.json.decode(reading.read(), type=Left)


ALIVE, READY, BECAUSE, LEFT, MORE, WHOLE = b".", b"r", b"!", b"[", b"+", b"]"
"""What a process on trial says, each the first byte of a packet. BECAUSE has words; LEFT and MORE have descriptors."""
_AT_ONCE = 200
"""Descriptors in one packet; Linux takes 253."""


class OnTrial:
    """This process is tried: another one waits to take its place back, or to become what this one is.

    Args:
        sock: SOCK_SEQPACKET, to the one that waits; owned.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)

    async def show(
        self, gone: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Give signs of life until cancelled. `gone` is called when nobody waits any more."""
        while True:
            self._say(ALIVE)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            with trio.move_on_after(limits.TRIAL_BEAT) as scope:
                await trio.lowlevel.wait_readable(self._sock)
            if not scope.cancelled_caught:
                gone()
                return

    def is_ready(self) -> None:
        self._say(READY)

    def fails(self, why: str) -> None:
        """Say why this process is about to end."""
        self._say(BECAUSE + plain(why, limits.STATUS_MAX_CHARS).encode())

    def hand_back(self, left: Left) -> None:
        """Leave all that there is to the one that waits; this process is to end then. Raises OSError: it is gone."""
        self._sock.settimeout(limits.TRIAL_END)
        with os.fdopen(left.written(), "rb") as file:
            socket.send_fds(self._sock, [LEFT], [file.fileno()])
        fds = left.descriptors
        for start in range(0, len(fds), _AT_ONCE):
            socket.send_fds(self._sock, [MORE], fds[start : start + _AT_ONCE])
        self._sock.send(WHOLE)
        # Until it has made itself the parent of what this process leaves behind.
        self._sock.recv(1)

    def _say(self, packet: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.send(packet)


class Inherited:
    """What the supervisor before this one left; nothing in a process that began by itself."""

    def __init__(self, left: Left | None = None, *, trial: OnTrial | None = None, refused: str = "") -> None:
        self.lock = left.lock if left is not None else None
        self.trial = trial
        self.refused = refused
        """Why this is the version that it was: another one was tried and did not pass."""
        self.is_linked = left is not None and left.linked
        self.reload = left is not None and left.reload
        self.children = list(left.children) if left is not None else []
        """Processes that end by themselves, and that `reap` has not seen to have ended."""
        self._to_have_ended: set[int] = set()
        """Those that had time for it."""
        self.workers = left.workers if left is not None else ()
        self.told = left.told if left is not None else b""
        self.ssh = left.ssh if left is not None else None
        dns = [socket.socket(fileno=fd) for fd in left.dns] if left is not None else []
        self._dns = (dns[0], dns[1]) if dns else None
        listening = [socket.socket(fileno=fd) for fd in left.listening] if left is not None else []
        self._listening = {sock.getsockname()[:2]: sock for sock in listening}

    @property
    def is_any(self) -> bool:
        return self.lock is not None

    def listener(self, address: str, port: int) -> socket.socket | None:
        """The socket that listened there."""
        return self._listening.pop((address, port), None)

    def dns(self, address: str, port: int) -> tuple[socket.socket, socket.socket] | None:
        """The DNS server's sockets, if they are bound there; port 0 is any."""
        if self._dns is not None:
            bound = self._dns[0].getsockname()
            if bound[:2] == (address, port or bound[1]):
                found, self._dns = self._dns, None
                return found
        return None

    def reap(self) -> None:
        """Processes that nobody hears any more leave nothing behind; one that still runs at the second call hangs, and
        is killed. Call it now and then."""
        self.children = [pid for pid in self.children if _runs(pid)]
        for pid in self._to_have_ended.intersection(self.children):
            os.kill(pid, signal.SIGKILL)  # not waited for until now: the number is still its own
        self._to_have_ended = set(self.children)

    def close_rest(self) -> None:
        """What nobody asked for is not served any more."""
        for sock in self._dns or ():
            sock.close()
        self._dns = None
        for sock in self._listening.values():
            sock.close()
        self._listening.clear()


def _runs(child: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(child, os.WNOHANG) == (0, 0)
    return False


def take() -> Inherited:
    """What was left to this process, once; workers and whatever else it starts see nothing of it."""
    named, trial = os.environ.pop(_VARIABLE, ""), os.environ.pop(_TRIAL, "")
    if not named:
        return Inherited()
    left = read_left(int(named))
    for fd in left.descriptors:
        os.set_inheritable(fd, False)
    if not trial:
        return Inherited(left)
    os.set_inheritable(int(trial), False)
    return Inherited(left, trial=OnTrial(socket.socket(fileno=int(trial))))


def environment(file: int, trial: int | None = None) -> dict[str, str]:
    """For the process that is to `take` what is written there."""
    on_trial = {} if trial is None else {_TRIAL: str(trial)}
    return {**os.environ, _VARIABLE: str(file), **on_trial}


def replace(left: Left) -> None:
    """Become the program on disk, started as this one was. Does not return. Raises OSError."""
    file = left.written()
    for fd in (file, *left.descriptors):
        os.set_inheritable(fd, True)
    argv = program.command()
    _raise_late()
    os.execve(argv[0], argv, environment(file))  # noqa: S606 - the command line is our own


def hold_signals() -> None:
    """From here until the next program listens for them, signals wait: they would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


_late: set[int] = set()
"""Signals that came while nobody listened: another thread took what the main one held back."""


def outlive_signals() -> None:
    """Once nobody listens for them any more they are noted, for whoever listens next: a thread may take what the main
    one holds back."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda number, _: _late.add(number))


def listen_to_signals() -> None:
    """Handlers are in place: what came meanwhile may come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    _raise_late()


def _raise_late() -> None:
    """In this thread: while it holds them back they wait in it, for the next program too."""
    while _late:
        signal.raise_signal(_late.pop())
