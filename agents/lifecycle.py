"""I/O: how a node is told what to do by signals, and how it tells the service manager what it does.

SIGTERM            drain: no new streams, live ones end, then exit
SIGTERM again      stop now
SIGINT             stop now
SIGHUP             reload
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from typing import NoReturn

import trio

from bridge import limits
from bridge.lines import plain
from inventory.names import shown


class Lifecycle:
    """What the outside has asked for. Both events stay set; a drained or stopped node does not come back."""

    def __init__(self) -> None:
        self.draining = trio.Event()
        self.stopping = trio.Event()
        self._reload_wanted = trio.Event()

    def drain(self) -> None:
        """As SIGTERM; a second call stops."""
        if self.draining.is_set():
            self.stop()
        self.draining.set()
        sd_notify("STOPPING=1")

    def stop(self) -> None:
        self.draining.set()
        self.stopping.set()
        sd_notify("STOPPING=1")

    def reload(self) -> None:
        self._reload_wanted.set()

    async def reloads(self) -> AsyncGenerator[None, None]:
        """One turn per request to reload; requests made during a turn give one further turn."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted = trio.Event()
            yield

    async def watch_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> NoReturn:
        """Turns signals into events until cancelled; reports started once none can be missed."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self.reload()
                elif number == signal.SIGTERM:
                    self.drain()
                else:
                    self.stop()
        raise AssertionError("the signal receiver ended")


def say_ready(line: str) -> None:
    """One line on stderr for people and scripts, READY=1 for the service manager. Call it when everything serves."""
    try:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        pass  # nobody is left to read it
    sd_notify(f"READY=1\nSTATUS={_line(line)}")


def say_reloading() -> None:
    """Tells the service manager that a reload began; `say_reloaded` ends it."""
    sd_notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def say_reloaded(what: str) -> None:
    """The reload is over, and what became of it: `systemctl status` shows it."""
    sd_notify(f"READY=1\nSTATUS={_line(what)}")


def say_status(what: str) -> None:
    """What the node does at the moment, for `systemctl status`."""
    sd_notify(f"STATUS={_line(what)}")


def _line(text: str) -> str:
    """Another line would be another message: an error's text must not be able to name, say, another main process."""
    return plain(text, limits.STATUS_MAX_CHARS)


def watchdog_interval(environment: Mapping[str, str], pid: int) -> float:
    """Seconds between two signs of life to the service manager: half of what it waits (sd_watchdog_enabled(3)); 0 when
    it does not wait for any from this process."""
    for_pid, wanted = environment.get("WATCHDOG_PID", ""), environment.get("WATCHDOG_USEC", "")
    if for_pid not in ("", str(pid)) or not (wanted.isascii() and wanted.isdigit()) or int(wanted) == 0:
        return 0.0
    return max(int(wanted) / 1_000_000 * limits.WATCHDOG_SHARE, limits.WATCHDOG_FASTEST)


async def keep_watchdog() -> None:
    """Signs of life for as long as the event loop turns; the service manager ends a process that gives none. Returns at
    once when nobody waits for any."""
    interval = watchdog_interval(os.environ, os.getpid())
    while interval:
        sd_notify("WATCHDOG=1")
        await trio.sleep(interval)


def sd_notify(state: str) -> str:
    """Sends `state` to the service manager, if there is one (sd_notify(3)).

    Returns:
        Why it could not be sent; empty when it was, or when no manager asked to be told. Never raises: a manager that
        does not listen is no reason to stop serving.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return ""
    if address[0] not in "/@":
        return f"NOTIFY_SOCKET is neither a path nor an abstract address: {shown(address)}"
    name = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.connect(name)
            sock.send(state.encode())
    except OSError as exc:
        return f"cannot notify {shown(address)}: {exc.strerror or exc}"
    return ""
