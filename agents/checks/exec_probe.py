"""I/O: runs a program as a check, in a session of its own; none of its children outlive the probe."""

from __future__ import annotations

import os
import signal
import subprocess

import trio

from agents.checks.answers import Failed, sample, why
from agents.checks.kinds import ExecProbe
from inventory.endpoints import Endpoint
from inventory.names import shown

_WAIT_AFTER_KILL = 1.0


async def run_program(probe: ExecProbe, target: Endpoint) -> None:
    """Runs it in a session of its own, with nothing of our environment; none of its children outlive the probe."""
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MESHBRIDGE_TARGET": str(target),
        "MESHBRIDGE_TARGET_HOST": target.host,
        "MESHBRIDGE_TARGET_PORT": str(target.port),
    }
    try:
        process = await trio.lowlevel.open_process(
            probe.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        raise Failed(f"{shown(probe.argv[0])} cannot be started: {why(exc)}") from None
    output = _Output()
    try:
        async with trio.open_nursery() as nursery:
            assert process.stdout is not None
            nursery.start_soon(output.read, process.stdout)
            code = await process.wait()
            _kill_session(process)  # what it left behind would hold its output open
            nursery.cancel_scope.deadline = trio.current_time() + _WAIT_AFTER_KILL
    finally:
        await _end_session(process)
    if code != 0:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise Failed(f"{how}: {output.sample()}" if output.first else how)


class _Output:
    """The beginning of what a program says; the rest is read and dropped, so that it never blocks on us."""

    def __init__(self) -> None:
        self.first = b""

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        while more := await stream.receive_some(4096):
            self.first += more[: 200 - len(self.first)]

    def sample(self) -> str:
        return sample(self.first.strip())


def _kill_session(process: trio.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it ended by itself


async def _end_session(process: trio.Process) -> None:
    _kill_session(process)
    with trio.move_on_after(_WAIT_AFTER_KILL, shield=True):
        await process.wait()
    if process.stdout is not None:
        await trio.aclose_forcefully(process.stdout)
