"""I/O: one ssh worker with many hosts: how soon all are up and back again, what it holds, what it costs when idle.

    python -m tests.bench.ssh.many PORT KEY     plays the hosts: one asyncssh server on PORT; the key may log in

asyncssh plays them, in a process of its own: so many sshd would measure how fast this machine forks.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh

from tests.bench.cpu import cpu_seconds, memory_bytes
from tests.support.ssh_worker import ROOT, SshWorkerUnderTest
from tests.support.sshd import keygen

_IDLE = 10.0
_ALL = 60.0


class _Anybody(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return True


async def play(port: int, key: str) -> None:
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    await asyncssh.listen("127.0.0.1", port, server_factory=_Anybody, server_host_keys=[key], backlog=1000)
    print("ready", flush=True)
    await asyncio.sleep(3600)


class _Hosts:
    """As far as `SshWorkerUnderTest.hop` looks at a server."""

    address, user = "127.0.0.1", "batch"

    def __init__(self, port: int, line: str) -> None:
        self.port, self.host_key_line = port, line


@contextmanager
def _played(port: int, key: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.ssh.many", str(port), str(key)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def measure_many(count: int) -> str:
    """One sentence with the figures."""
    with tempfile.TemporaryDirectory() as folder, SshWorkerUnderTest(Path(folder) / "w") as worker:
        assert worker.process is not None
        key, user = Path(folder) / "host", Path(folder) / "user"
        line = keygen(key)
        keygen(user)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            hosts = _Hosts(sock.getsockname()[1], line)
        hops = [worker.hop(hosts, user, name=f"h{number}") for number in range(count)]  # type: ignore[arg-type]
        empty = memory_bytes([worker.process.pid])

        def all_up() -> bool:
            return sum(state.state == "up" for state in worker.states.values()) == count

        with _played(hosts.port, key):
            began = time.monotonic()
            worker.know(*hops)
            worker.until(all_up, "not all are up", _ALL)
            up = time.monotonic() - began
            held = memory_bytes([worker.process.pid]) - empty
            time.sleep(1.0)
            cpu = cpu_seconds([worker.process.pid])
            time.sleep(_IDLE)
            idle = (cpu_seconds([worker.process.pid]) - cpu) / _IDLE
        worker.until(lambda: all(s.state == "down" for s in worker.states.values()), "not all are down", _ALL)
        with _played(hosts.port, key):
            began = time.monotonic()
            worker.until(all_up, "not all are back", _ALL)
            back = time.monotonic() - began
    return (
        f"- {count} hosts at one worker: all up after {up:.1f} s, all back {back:.1f} s after they could be reached "
        f"again (the one process that plays them is busy for most of that); {held / count / 1e3:.0f} kB for each, "
        f"{(empty + held) / 1e6:.0f} MB in all; {idle:.1%} of a core when idle."
    )


if __name__ == "__main__":
    asyncio.run(play(int(sys.argv[1]), sys.argv[2]))
