"""I/O: READY, RELOADING, STOPPING, STATUS and signs of life, from the process that the service manager started."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.estate import Estate

WATCHDOG = 1.0
PATIENCE = 20.0
CREDENTIALS = struct.Struct("iII")


class Manager:
    """A service manager's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.senders: set[int] = set()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind(str(path))

    def next(self, within: float = PATIENCE) -> str:
        self._sock.settimeout(within)
        data, ancillary, _flags, _address = self._sock.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
        self.senders.add(CREDENTIALS.unpack(ancillary[0][2])[0])
        return data.decode()

    def first(self, start: str) -> str:
        """The next message that begins so; what comes before is passed over."""
        for _ in range(100):
            message = self.next()
            if message.startswith(start):
                return message
        raise AssertionError(f"no {start} among 100 messages")

    def is_silent(self, seconds: float) -> bool:
        try:
            self.next(seconds)
        except TimeoutError:
            return True
        return False

    def forget(self) -> None:
        """What has come until now."""
        while not self.is_silent(0.001):
            pass

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_a_node_says_what_it_does_and_that_it_lives(estate: Estate, manager: Manager, tmp_path: Path) -> None:
    estate.init()
    estate.variables["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    estate.variables["WATCHDOG_USEC"] = str(int(WATCHDOG * 1_000_000))
    gateway = estate.start_gateway("--workers", "1")
    assert manager.first("READY=1").endswith("is ready")
    manager.first("WATCHDOG=1")

    gateway.signal(signal.SIGHUP)
    assert "\nMONOTONIC_USEC=" in manager.first("RELOADING=1")
    ready, status = manager.first("READY=1").split("\n")
    assert ready == "READY=1" and status.startswith("STATUS=last reload at ") and status.endswith("with new workers")

    gateway.signal(signal.SIGSTOP)
    try:
        manager.forget()
        assert manager.is_silent(1.5 * WATCHDOG), "a loop that stands still gives no sign of life"
    finally:
        gateway.signal(signal.SIGCONT)
    manager.first("WATCHDOG=1")

    gateway.signal(signal.SIGTERM)
    manager.first("STOPPING=1")
    manager.first("STATUS=draining")
    assert gateway.wait(PATIENCE) == 0
    assert manager.senders == {gateway.pid}, "NotifyAccess=main is enough"
