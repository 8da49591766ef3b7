"""I/O: ports on a host's own loopback, listened on by its sshd for us: what programs on that host use the mesh by.

Each connection becomes a socketpair whose other end goes to the supervisor. Only ports that an operator published are
asked for, and only connections to those are taken: a host cannot make us take others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence

import asyncssh

from agents.ssh.connection import Connection
from agents.ssh.stream import Stream
from agents.workers.ssh_messages import Forward, Forwarded
from bridge import limits
from bridge.lines import plain

LOOPBACK = "127.0.0.1"
_SHORTAGE = 4


class RemotePorts:
    """Of one host."""

    def __init__(self, host: str, forwarded: Callable[[Forwarded, Sequence[socket.socket]], None]) -> None:
        self._host = host
        self._forwarded = forwarded
        self.failed: dict[str, str] = {}
        """Services whose port could not be had, and why."""
        self._wanted: tuple[Forward, ...] = ()
        self._news = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()

    def want(self, forwards: Sequence[Forward]) -> None:
        """Exactly these, from now on."""
        self._wanted = tuple(forwards)
        self._news.set()

    async def freed(self) -> None:
        """Wait until none is listened on: the host has said so, or cannot be asked."""
        await self._free.wait()

    async def keep(self, connection: Connection, changed: Callable[[], None]) -> None:
        """Have what is wanted listened on; ports that somebody holds are tried again, until cancelled."""
        try:
            await self._keep(connection, changed)
        finally:
            self._free.set()

    async def _keep(self, connection: Connection, changed: Callable[[], None]) -> None:
        listening: dict[Forward, asyncssh.SSHListener] = {}
        self.failed = {}
        while True:
            self._news.clear()
            wanted, before = self._wanted, dict(self.failed)
            if wanted:
                self._free.clear()
            for forward in [forward for forward in listening if forward not in wanted]:
                await self._close(listening.pop(forward))
            names = {forward.service for forward in wanted}
            self.failed = {service: why for service, why in self.failed.items() if service in names}
            for forward in wanted:
                if forward not in listening:
                    listener = await self._open(connection, forward)
                    if listener is not None:
                        listening[forward] = listener
            if self.failed != before:
                changed()
            if not listening:
                self._free.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), limits.BIND_RETRY_MAX if self.failed else None)

    async def _close(self, listener: asyncssh.SSHListener) -> None:
        """The port is free again when this returns, if the host answers."""
        listener.close()
        with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
            await asyncio.wait_for(listener.wait_closed(), limits.CONNECT_TIMEOUT)

    async def _open(self, connection: Connection, forward: Forward) -> asyncssh.SSHListener | None:
        def accept(host: str, port: int) -> Stream:
            return self._accept(connection, forward, f"{plain(host, 64)}:{port}")

        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT):
                listener = await connection.create_server(
                    accept, LOOPBACK, forward.port, window=limits.SSH_WINDOW, max_pktsize=limits.SSH_PACKET
                )
        except asyncssh.ChannelListenError:
            self.failed[forward.service] = (
                f"sshd on {self._host} does not listen on {LOOPBACK}:{forward.port}: "
                "a program holds the port, or PermitListen/AllowTcpForwarding does not let it"
            )
            return None
        except TimeoutError:
            self.failed[forward.service] = f"sshd on {self._host} did not answer within {limits.CONNECT_TIMEOUT:g} s"
            return None
        self.failed.pop(forward.service, None)
        return listener

    def _accept(self, connection: Connection, forward: Forward, remote: str) -> Stream:
        if len(connection.streams) >= limits.SSH_CHANNELS_MAX:
            raise asyncssh.ChannelOpenError(_SHORTAGE, "too many streams")
        try:
            ours, theirs = socket.socketpair()
            fate, told = socket.socketpair()
        except OSError:
            raise asyncssh.ChannelOpenError(_SHORTAGE, "out of descriptors") from None
        for sock in (ours, theirs, fate, told):
            sock.setblocking(False)
        self._forwarded(Forwarded(host=self._host, service=forward.service, remote=remote), (theirs, told))
        return Stream(connection, ours, fate)
