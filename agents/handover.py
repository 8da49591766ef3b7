"""I/O: a supervisor replaces itself in place by the version on disk: what it leaves behind, and who finds it.

The process id stays, so a service manager sees one service. Listening sockets, the home's lock and the channels to the
workers go over as open descriptors, named in a memory file whose own descriptor is in the environment. The workers of
the version before go on accepting until those of the new one are ready.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import MetadataPathFinder, PackageNotFoundError, version
from pathlib import Path

import msgspec

from bridge import limits
from bridge.lines import plain
from inventory.errors import Unavailable

_VARIABLE = "MESHBRIDGE_HANDOVER"
_ROOT = Path(__file__).parents[1]
_PROBE = "import cli.main, agents.gateway_agent, agents.host_agent, agents.workers.data_worker"
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


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What goes over. Numbers are descriptors."""

    lock: int
    listening: tuple[int, ...]
    dns: tuple[int, ...] = ()
    """The DNS server's, if there is one: the listening one and the one for datagrams."""
    workers: tuple[LeftWorker, ...]
    ssh: LeftSsh | None = None

    @property
    def descriptors(self) -> list[int]:
        ssh = [self.ssh.listener, *(worker.channel for worker in self.ssh.workers)] if self.ssh is not None else []
        return [self.lock, *self.listening, *self.dns, *(worker.channel for worker in self.workers), *ssh]


class Inherited:
    """What the supervisor before this one left; nothing in a process that began by itself."""

    def __init__(self, left: Left | None = None) -> None:
        self.lock = left.lock if left is not None else None
        self.workers = left.workers if left is not None else ()
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

    def close_rest(self) -> None:
        """What nobody asked for is not served any more."""
        for sock in self._dns or ():
            sock.close()
        self._dns = None
        for sock in self._listening.values():
            sock.close()
        self._listening.clear()


def take() -> Inherited:
    """What was left to this process, once; workers and whatever else it starts see nothing of it."""
    named = os.environ.pop(_VARIABLE, "")
    if not named:
        return Inherited()
    with os.fdopen(int(named), "rb") as file:
        file.seek(0)
        left = msgspec.json.decode(file.read(), type=Left)
    for fd in left.descriptors:
        os.set_inheritable(fd, False)
    return Inherited(left)


def installed_version() -> str:
    """The version on disk; empty when there is none."""
    # Below a link that leads to another tree now: both may have the same times, by which a change is noticed otherwise.
    MetadataPathFinder().invalidate_caches()
    try:
        return version("meshbridge")
    except PackageNotFoundError:
        return ""


def probe() -> None:
    """Whether what is on disk can be started at all: everything that a node needs is imported, in a process of its own.

    Raises:
        Unavailable: it cannot; with the last line of what Python said.
    """
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    argv = [sys.executable, "-P", "-c", _PROBE]
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=limits.PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Unavailable(f"the version on disk cannot be tried: {type(exc).__name__}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Unavailable(f"the version on disk cannot be started: {plain(said[-1])}")


def replace(left: Left) -> None:
    """Become the program on disk, started as this one was. Does not return. Raises OSError."""
    file = os.memfd_create("meshbridge-handover", 0)
    os.write(file, msgspec.json.encode(left))
    for fd in left.descriptors:
        os.set_inheritable(fd, True)
    # The command line is our own.
    os.execve(sys.executable, sys.orig_argv, {**os.environ, _VARIABLE: str(file)})  # noqa: S606


def hold_signals() -> None:
    """From here until the next program listens for them, signals wait: they would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def outlive_signals() -> None:
    """Once nobody listens for them any more they are to do nothing: a thread may take what the main one holds back."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)


def listen_to_signals() -> None:
    """Handlers are in place: what came meanwhile may come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
