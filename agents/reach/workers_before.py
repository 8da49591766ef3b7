"""I/O: ssh workers of the versions before this one in the same process: the one that serves until ours has reached the
hosts, and those that end with their last stream.

They are heard as far as they can be understood, and never told what is signed: when less is, they are ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import socket

import trio

from agents.handover import LeftSsh, LeftSshWorker
from agents.reach.ssh_process import SshWorkerProcess
from agents.workers import ssh_messages as m
from bridge import limits
from bridge.logs import get_logger

log = get_logger()


class WorkersBefore:
    """Args:
    forwarded: takes a connection of a program on a host, and owns the sockets.
    changed: called when the one that serves reaches other hosts, or has ended.
    """

    def __init__(
        self, left: LeftSsh | None, forwarded: Callable[[m.Forwarded, Sequence[socket]], None],
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._forwarded = forwarded
        self._changed = changed
        self._serving: SshWorkerProcess | None = None
        self._ending: list[SshWorkerProcess] = []
        self._leaving: list[tuple[SshWorkerProcess, bool, tuple[str, ...]]] = []
        self.hosts: set[str] = set()
        """Those that the one that serves has a connection to."""
        self.holds_ports = False
        """Whether ports on hosts may still be listened on for it."""
        self._ports_free = trio.Event()
        for one in left.workers if left is not None else ():
            if one.serves and self._serving is None:
                self._serving = SshWorkerProcess.inherited(one, self._heard)
                self.hosts = set(one.hosts)
                self.holds_ports = True
            else:
                self._ending.append(SshWorkerProcess.inherited(one, self._heard_ending))

    @property
    def serves(self) -> bool:
        return self._serving is not None

    def _all(self) -> list[SshWorkerProcess]:
        return [*self._ending, *([self._serving] if self._serving is not None else [])]

    async def run(self) -> None:
        """Hear them until the last one has ended, and end them when cancelled, unless they are left."""
        async with trio.open_nursery() as nursery:
            for worker in self._all():
                nursery.start_soon(self._hear, worker)

    async def _hear(self, worker: SshWorkerProcess) -> None:
        try:
            await worker.run_inherited()
        finally:
            if any(worker is left for left, _, _ in self._leaving):
                pass
            elif worker is self._serving:
                self._serving = None
                self._serves_no_more()
            else:
                with suppress(ValueError):
                    self._ending.remove(worker)
            self._ports_free.set()

    def _serves_no_more(self) -> None:
        self.hosts.clear()
        self._changed()

    async def retire(self, retired: Callable[[], None]) -> None:
        """The one that serves takes no more requests, and ends with its last stream. Returns when hosts listen on no
        port for it any more.

        Args:
            retired: called once it takes none, if there was one.
        """
        if self._serving is not None:
            worker, self._serving = self._serving, None
            self._ending.append(worker)
            worker.retire()
            self._serves_no_more()
            retired()
            with trio.move_on_after(limits.CONNECT_TIMEOUT):
                await self._ports_free.wait()
        self.holds_ports = False

    def end(self, why: str) -> None:
        """Now, with all that they carry."""
        for worker in self._all():
            log.warning("an old ssh worker is ended", pid=worker.pid, reason=why)
            worker.end()

    def leave(self) -> None:
        """Another program takes our place, and they go on; but for the oldest, if there are too many."""
        for worker in self._all()[-limits.SSH_WORKERS_BEFORE_MAX :]:
            worker.leave()
            serves = worker is self._serving
            self._leaving.append((worker, serves, tuple(sorted(self.hosts)) if serves else ()))

    def left(self) -> tuple[LeftSshWorker, ...]:
        """After the end of `run`."""
        return tuple(worker.detach(serves=serves, hosts=hosts) for worker, serves, hosts in self._leaving)

    def _heard(self, message: m.FromSshWorker, socks: Sequence[socket]) -> None:
        match message:
            case m.HopStates():
                self._heard_states(message.hosts)
            case m.Forwarded():
                self._forwarded(message, socks)
            case m.Notice():
                log.info(message.event, text=message.text)
            case m.PortsFree():
                self._ports_free.set()
            case _:
                pass

    def _heard_states(self, states: Sequence[m.HopState]) -> None:
        if self.serves:
            up = {state.host for state in states if state.state == "up"}
            self.hosts = (self.hosts - {state.host for state in states}) | up
            self._changed()

    def _heard_ending(self, message: m.FromSshWorker, socks: Sequence[socket]) -> None:
        """It has nothing to say but that it lives."""
        for sock in socks:
            sock.close()
