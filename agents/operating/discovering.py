"""I/O: looks at what a box talks to, for a while, and makes a proposal of it. Nothing is changed, here or there.

This machine is read from /proc. A host without an agent is asked by the gateway that reaches it, which runs one of a
few fixed commands there (`agents/discovery/remote.py`) when told so over its admin socket.
"""

from __future__ import annotations

import ipaddress
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from agents import clock
from agents.admin.client import call
from agents.discovery.local import TABLES, LocalSockets
from agents.discovery.remote import COMMANDS, Printed, command_line, read_printed, why_not
from agents.discovery.seen import Seen
from agents.discovery.sockets import End, Look
from agents.discovery.whose import Box, Whose, host_name_of
from agents.estate import Home, HomeConfig, load_config
from agents.operating.home_snapshot import load_snapshot
from bridge import limits
from bridge.dns import addresses
from inventory.errors import AnswerIsNo, InputError, MeshError, Unavailable
from inventory.home import read_file
from inventory.reach import parse_reach
from inventory.snapshot import Snapshot

Say = Callable[[str], None]
"""Tells a person something on the way."""
TakeLook = Callable[[], Awaitable[Look]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at, and what is known about it."""

    box: Box
    whose: Whose
    is_bridge: Callable[[End], bool]
    is_remote: bool

    @property
    def interval(self) -> float:
        return limits.DISCOVER_INTERVAL_REMOTE if self.is_remote else limits.DISCOVER_INTERVAL

    def explain(self) -> list[str]:
        """What would be read or run, and where."""
        if not self.is_remote:
            files = [f"read /proc/{name}" for name in TABLES]
            return [*files, "read /proc/PID/fd/* and /proc/PID/comm of the processes that this user may look into"]
        box = self.box
        lines = [f"run on {box.name}, over ssh by gateway {box.gateway}: {command_line(name)}" for name in COMMANDS]
        return [*lines, "they are tried in this order; the first that says something is the one that is repeated"]


async def find_subject(home: Path, host: str | None) -> Subject:
    """What is to be looked at.

    Args:
        host: canonical name of a host without an agent; None: this machine.

    Raises:
        AnswerIsNo: there is no such host, or it cannot be asked from here.
        MeshError: what the home knows cannot be read. No home at all is no error for this machine.
    """
    if host is None and not Home(home).config.exists():
        return _local(home, None, None)
    config, snapshot = load_config(home), await load_snapshot(home)
    if host is None or (config.role, config.name) == ("host", host):
        return _local(home, config, snapshot)
    return _remote(snapshot, host)


def _local(home: Path, config: HomeConfig | None, snapshot: Snapshot | None) -> Subject:
    name = config.name if config is not None and config.role == "host" else host_name_of(os.uname().nodename)
    box = Box(name, is_host=snapshot is not None and snapshot.host(name) is not None)
    bridge: dict[str | End, str] = {}
    block = ipaddress.ip_network(config.addresses) if config is not None else None
    path = Home(home).addresses
    if path.exists():
        book = addresses.decode(read_file(path), where=str(path))
        bridge.update({address: service for service, address in book.assigned.items()})

    def is_bridge(end: End) -> bool:
        return block is not None and end.address.startswith("127.") and ipaddress.ip_address(end.address) in block

    gateway = config.name if config is not None and config.role == "gateway" else ""
    return Subject(box, Whose(snapshot, bridge, clock.now(), gateway), is_bridge, is_remote=False)


def _remote(snapshot: Snapshot, host: str) -> Subject:
    record = snapshot.host(host)
    if record is None:
        raise AnswerIsNo(f"there is no host {host}", hint="see `meshbridge host list`")
    if record.via is None:
        raise AnswerIsNo(f"host {host} has an agent", hint=f"run `meshbridge discover` there, on {host}")
    reach = snapshot.authority.reaches.get(host)
    if reach is None:
        what = f"this home does not know how gateway {record.via} reaches {host}"
        raise AnswerIsNo(what, hint=f"run the command in the home of gateway {record.via}")
    url = parse_reach(reach.url)
    if url.scheme != "ssh":
        what = f"host {host} is reached by {url.scheme}, over which nothing can be asked of it"
        raise AnswerIsNo(what, hint="run `netstat` there, or record it with --reach ssh://USER@ADDR")
    published = {p.port: p.service for p in snapshot.authority.publications.values() if p.host == host and p.port}
    bridge: dict[str | End, str] = {
        End(address, port): service for port, service in published.items() for address in ("127.0.0.1", "::1")
    }
    box = Box(host, is_host=True, gateway=reach.gateway, ssh_port=url.port)
    return Subject(box, Whose(snapshot, bridge, clock.now()), lambda end: end in bridge, is_remote=True)


async def watch(home: Path, subject: Subject, *, seconds: float, say: Say) -> Seen:
    """Looks for so long; what was seen. An interrupt ends it early, once there has been a look.

    Raises:
        KeyboardInterrupt: before the first look.
        MeshError: the first look failed, or the host cannot be asked at all.
    """
    look: TakeLook = _RemoteLook(home, subject.box).take if subject.is_remote else _local_look()
    seen = Seen(subject.is_bridge)
    problem: MeshError | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, signals, nursery.cancel_scope)
            problem = await _look_on(look, seen, seconds=seconds, interval=subject.interval, say=say)
            nursery.cancel_scope.cancel()
    if not seen.looks:
        raise problem or KeyboardInterrupt
    return seen


async def _until_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _look_on(look: TakeLook, seen: Seen, *, seconds: float, interval: float, say: Say) -> MeshError | None:
    """Why there was no look at all; None when there was one."""
    end = told = trio.current_time()
    end += seconds
    failures = 0
    while True:
        try:
            seen.add(await look(), clock.now())
            if seconds and seen.looks == 1:
                say(f"looking for {seconds:.0f} s; Ctrl-C ends it early, and reports")
            failures = 0
        except MeshError as exc:
            failures += 1
            if not seen.looks:
                return exc
            say(f"this look failed: {exc}")
        left = end - trio.current_time()
        if left <= 0 or failures >= limits.DISCOVER_FAILURES:
            return None
        if trio.current_time() - told >= limits.DISCOVER_PROGRESS:
            told = trio.current_time()
            say(f"{seen.looks} looks, {len(seen.uses)} services used, {len(seen.used)} callers; {left:.0f} s to go")
        await trio.sleep(min(interval, left))


def _local_look() -> TakeLook:
    sockets = LocalSockets()

    async def take() -> Look:
        return await trio.to_thread.run_sync(sockets.look)

    return take


class _RemoteLook:
    """Asks the gateway of this home; finds out once what the host has."""

    def __init__(self, home: Path, box: Box) -> None:
        self._home = home
        self._box = box
        self._programs = list(COMMANDS)

    async def take(self) -> Look:
        """Raises Unavailable: the host is away or refuses, or none of the commands says anything."""
        reasons = []
        for program in self._programs:
            answer = await self._ask(program)
            if answer.reason:
                what = f"host {self._box.name} cannot be asked: {answer.reason}"
                raise Unavailable(what, hint="its sshd has to let the gateway run commands")
            look = read_printed(program, answer)
            if look is not None:
                self._programs = [program]
                return look
            reasons.append(why_not(program, answer))
        raise Unavailable(f"host {self._box.name} does not say what its sockets are: {'; '.join(reasons)}")

    async def _ask(self, program: str) -> Printed:
        patience = limits.DISCOVER_COMMAND_TIMEOUT + limits.ADMIN_ANSWER_TIMEOUT
        try:
            answer = await call(self._home, "sockets", answer_within=patience, host=self._box.name, program=program)
            return msgspec.convert(answer, Printed)
        except msgspec.ValidationError:
            raise InputError("the gateway's answer is not one", hint="is it of another version?") from None
