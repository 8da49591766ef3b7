"""I/O: ports on a host's own loopback, listened on by its sshd for us: what programs on that host use the mesh by.

Each connection becomes a socketpair whose other end goes to the supervisor. Only ports that an operator published are
asked for, and only connections to those are taken: a host cannot make us take others.
"""

from __future__ import annotations

import asyncio
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

    async def open_all(self, connection: Connection, forwards: Sequence[Forward], changed: Callable[[], None]) -> None:
        """Have all of them listened on; those that somebody holds are tried again until cancelled."""
        self.failed = {}
        wanted = list(forwards)
        while wanted:
            before = dict(self.failed)
            wanted = [forward for forward in wanted if not await self._open(connection, forward)]
            if self.failed != before:
                changed()
            await asyncio.sleep(limits.BIND_RETRY_MAX)

    async def _open(self, connection: Connection, forward: Forward) -> bool:
        def accept(host: str, port: int) -> Stream:
            return self._accept(connection, forward, f"{plain(host, 64)}:{port}")

        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT):
                await connection.create_server(
                    accept, LOOPBACK, forward.port, window=limits.SSH_WINDOW, max_pktsize=limits.SSH_PACKET
                )
        except asyncssh.ChannelListenError:
            self.failed[forward.service] = (
                f"sshd on {self._host} does not listen on {LOOPBACK}:{forward.port}: "
                "a program holds the port, or PermitListen/AllowTcpForwarding does not let it"
            )
            return False
        except TimeoutError:
            self.failed[forward.service] = f"sshd on {self._host} did not answer within {limits.CONNECT_TIMEOUT:g} s"
            return False
        self.failed.pop(forward.service, None)
        return True

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
