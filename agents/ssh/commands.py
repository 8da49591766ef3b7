"""I/O: a command of ours on a host, with bounds on its time and on what it prints. It must change nothing there."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from typing import Any

import asyncssh

from bridge import limits


class _Outputs(asyncssh.SSHClientSession[bytes]):
    def __init__(self) -> None:
        self.outputs: dict[Any, bytearray] = {None: bytearray(), asyncssh.EXTENDED_DATA_STDERR: bytearray()}
        self.truncated = False
        self.ended = asyncio.Event()
        self.code: int | None = None

    def data_received(self, data: bytes, datatype: Any) -> None:
        output = self.outputs[datatype]
        room = limits.SSH_OUTPUT_MAX - len(output)
        output += data[:room]
        if len(data) > room:
            self.truncated = True
            self.ended.set()

    def exit_status_received(self, status: int) -> None:
        self.code = status

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def run_command(
    connection: asyncssh.SSHClientConnection, argv: Sequence[str], timeout: float
) -> tuple[int | None, bytes, bytes, bool]:
    """Exit code, both outputs, and whether they were cut. Each word is quoted for the POSIX shell that sshd starts.

    Raises:
        TimeoutError: it took longer than `timeout`.
        asyncssh.Error, OSError: the host does not let us, or is gone.
    """
    async with asyncio.timeout(timeout):
        session = _Outputs()
        channel, _session = await connection.create_session(
            lambda: session, command=shlex.join(argv), encoding=None, window=limits.SSH_WINDOW
        )
        try:
            await session.ended.wait()
        finally:
            channel.abort()
    out, err = session.outputs[None], session.outputs[asyncssh.EXTENDED_DATA_STDERR]
    return session.code, bytes(out), bytes(err), session.truncated
