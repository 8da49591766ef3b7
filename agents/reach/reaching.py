"""I/O: how a gateway reaches its agentless hosts: keeps the ssh worker, certifies its key, hears how it is with each
host, and says who is there.

Of a host that is reached by tcp nothing is known between two streams: it counts as there. All retries have full jitter.
"""

from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
import trio

from agents import clock
from agents.admin.wire import socket_address
from agents.backoff import Backoff
from agents.handover import LeftSsh, LeftSshWorker
from agents.knowledge.gateway_keys import ssh_ca_of
from agents.reach.hops import Reached, last_hops, reached
from agents.reach.ssh_process import SshWorkerProcess, Start, Suspensions, start_ssh_worker
from agents.reach.workers_before import WorkersBefore
from agents.supervisor import Latest
from agents.workers import ssh_messages as m
from agents.workers.last_hop import place_in
from agents.workers.ssh_page import SuspectPage
from bridge import limits
from bridge.identity.ssh_ca import SshCa
from bridge.logs import get_logger
from inventory.errors import InputError, MeshError, Unavailable
from inventory.model import Presence
from inventory.policy_rules import parse_until
from inventory.snapshot import Snapshot

log = get_logger()

_BACKLOG = 1024
_STARTING = m.HopState(host="", state="connecting")


@dataclass(frozen=True, slots=True)
class ReachOwner:
    """The gateway, as far as its agentless hosts need it."""

    snapshot: Callable[[], Snapshot]
    place: Callable[[dict[str, Presence]], None]
    """Takes who is there now, of the hosts of which that changed."""
    forwarded: Callable[[m.Forwarded, Sequence[socket.socket]], None]
    """Takes a connection of a program on a host to a port that is published there."""
    started: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    """Waits until such a connection can be taken."""


class Reaching:
    """Args:
    gateway: its name.
    left: by the version before this one in the same process.
    keeps_place: where data workers ask stays when this ends: the version before may go on.
    """

    def __init__(
        self, home: Path, gateway: str, owner: ReachOwner, *, start: Start = start_ssh_worker,
        left: LeftSsh | None = None, keeps_place: bool = False,
    ) -> None:  # fmt: skip
        self._home = home
        self._gateway = gateway
        self._owner = owner
        self._start_process = start
        self._hosts: dict[str, Reached] = {}
        self._states: dict[str, m.HopState] = {}
        self._told: tuple[m.LastHop, ...] = ()
        self._changed = Latest()
        self._worker: SshWorkerProcess | None = None
        self._ca: SshCa | None = None
        self._suspensions = Suspensions(trio.current_time)
        self._restarts = 0
        self._problem = ""
        """Why there is no ssh worker; empty while there is one, or none is needed."""
        self._before = WorkersBefore(left, self._forwarded, self._reached_before)
        self._news = Latest()
        """A host was reached, or lost, by our worker or the one before."""
        self._keeps_place = keeps_place
        self._listener = socket.socket(fileno=left.listener) if left is not None else None
        self._left_number = left.number if left is not None else None
        self._leaves = False
        self._leaving: tuple[SshWorkerProcess, tuple[str, ...]] | None = None
        self._ids = count(1)
        self._running: dict[int, trio.MemorySendChannel[m.Ran]] = {}

    # --- what is signed -------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """To be called whenever what is signed has changed: which hosts there are, and the ways to them."""
        snapshot = self._owner.snapshot()
        before, self._hosts = self._hosts, reached(snapshot, self._gateway)
        if any(one.has_worker and self._hosts.get(name) != one for name, one in before.items()):
            self._before.end("a host is reached otherwise, or not at all")
        if self._left_number not in (None, snapshot.authority.number):
            self._before.end("it was not told everything that is signed")
        self._left_number = None
        for name, one in self._hosts.items():
            if before.get(name) != one:
                self._states.pop(name, None)
        for name in self._states.keys() - self._hosts.keys():
            del self._states[name]
        self._tell_news()
        gone = (name for name in before if name not in self._hosts and snapshot.host(name) is not None)
        self._say_who_is_here((*self._hosts, *gone))

    def _wanted(self) -> tuple[m.LastHop, ...]:
        hops = last_hops(self._hosts, self._owner.snapshot(), self._suspensions.current(), clock.now())
        return tuple(msgspec.structs.replace(hop, forwards=()) for hop in hops) if self._before.holds_ports else hops

    def _tell_news(self) -> None:
        wanted = self._wanted()
        if wanted != self._told:
            self._told = wanted
            self._tell()
            self._changed.ask()

    def _tell(self) -> None:
        if self._worker is not None and self._worker.public_key:
            self._worker.tell(m.LastHops(hosts=self._told, serves=not self._before.serves))

    # --- the worker -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the worker as long as there is a host for it, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear_before)
                nursery.start_soon(self._take_over)
                await self._keep_one()
        finally:
            if self._listener is not None and not self._leaves:
                self._listener.close()
                if not self._keeps_place:
                    place_in(self._home).unlink(missing_ok=True)

    async def _hear_before(self) -> None:
        await self._owner.started()
        await self._before.run()

    async def _take_over(self) -> None:
        """From the worker before, once ours has reached what that one has: no request waits, and none fails."""
        with trio.move_on_after(limits.SSH_TAKEOVER):
            while any(name in self._hosts and self._state(name).state != "up" for name in self._before.hosts):
                await self._news.asked()
        await self._before.retire(self._tell)
        self._tell_news()

    async def _keep_one(self) -> None:
        backoff = Backoff(rng=random.Random(), maximum=limits.SSH_RETRY_MAX)
        page = SuspectPage()
        try:
            while True:
                while not self._told:
                    await self._changed.asked()
                began = trio.current_time()
                try:
                    if self._listener is None:
                        self._listener = await trio.to_thread.run_sync(_listen, place_in(self._home))
                    reason = await self._serve_one(self._listener, page)
                    self._problem = f"the ssh worker {reason}" if reason else ""
                except (MeshError, OSError) as exc:
                    self._problem = f"the ssh worker cannot be started: {exc}"
                if not self._problem:
                    continue
                self._restarts += 1
                if trio.current_time() - began > limits.WORKER_SETTLED:
                    backoff.reset()
                log.error("no ssh worker; starting another", reason=self._problem)
                await trio.sleep(backoff.next())
        finally:
            page.close()

    async def _serve_one(self, listener: socket.socket, page: SuspectPage) -> str:
        """One worker from its start to its end; why it ended, empty when it is needed no more."""
        page.clear()
        worker = self._worker = SshWorkerProcess(self._start_process, self._heard)
        reason = ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                begin = m.Begin(home=str(self._home), gateway=self._gateway)
                reason = await worker.run(begin, listener, page, self._started)
                nursery.cancel_scope.cancel()
        finally:
            self._worker = None
            if worker.hung and (suspect := page.suspect()) is not None:
                span = self._suspensions.add(suspect)
                log.error("a host made the ssh worker hang and is left alone", host=suspect, seconds=round(span))
            if not self._leaves:
                self._lost(reason)
        return reason

    def _started(self) -> None:
        self._problem = ""
        self._states = {name: state for name, state in self._states.items() if state.cause != "local"}
        self._told = self._wanted()
        self._tell()
        self._say_who_is_here(self._hosts)

    async def _watch(self, scope: trio.CancelScope) -> None:
        """End the worker when there is no host for it any more; let suspensions and allowances end in time."""
        while self._told:
            await self._changed.asked(within=max(0.1, self._next_change()))
            self._tell_news()
        scope.cancel()

    def _next_change(self) -> float:
        """Seconds until what the worker is told changes by time alone; at most a minute, for clocks may be set."""
        return min(limits.REACH_LOOK, self._suspensions.next_end - trio.current_time())

    def _lost(self, reason: str) -> None:
        """Whatever ran over it has ended."""
        why = f"the ssh worker {reason}" if reason else ""
        for name, one in self._hosts.items():
            if one.has_worker:
                self._states[name] = m.HopState(host=name, state="down", reason=why, cause="local")
        for waiting in self._running.values():
            waiting.close()
        self._running.clear()
        self._say_who_is_here(self._hosts)

    # --- another program in our place -----------------------------------------------------------------------------

    async def all_said(self) -> None:
        """Wait until the worker has taken all that it was told."""
        while self._worker is not None and not self._worker.knows_all:  # noqa: ASYNC110 - it takes a moment
            await trio.sleep(limits.SSH_SAID_LOOK)

    def leave(self) -> None:
        """When `run` ends, workers and the listening socket stay as they are. One that serves nobody yet ends, and so
        does one that was not told everything."""
        self._leaves = True
        self._before.leave()
        worker = self._worker
        if worker is not None and worker.public_key and worker.knows_all and not self._before.serves:
            worker.leave()
            up = (name for name, state in self._states.items() if state.state == "up")
            self._leaving = worker, tuple(sorted(up))

    def left(self) -> LeftSsh | None:
        """After the end of `run`: for the next program."""
        if self._listener is None:
            return None
        workers: tuple[LeftSshWorker, ...] = self._before.left()
        if self._leaving is not None:
            worker, hosts = self._leaving
            workers += (worker.detach(serves=True, hosts=hosts),)
        number = self._owner.snapshot().authority.number
        return LeftSsh(listener=self._listener.detach(), number=number, workers=workers)

    # --- what it says ---------------------------------------------------------------------------------------------

    def _heard(self, message: m.FromSshWorker, socks: Sequence[socket.socket]) -> None:
        match message:
            case m.HopStates():
                self._heard_states(message.hosts)
            case m.CertificateNeeded():
                self._certify(message.principal)
            case m.Forwarded():
                self._forwarded(message, socks)
            case m.Ran():
                waiting = self._running.pop(message.id, None)
                if waiting is not None:
                    waiting.send_nowait(message)
            case m.Notice():
                log.info(message.event, text=message.text)
            case _:
                pass

    def _forwarded(self, message: m.Forwarded, socks: Sequence[socket.socket]) -> None:
        if len(socks) == message.fds:
            self._owner.forwarded(message, socks)
        else:
            log.error("a connection was lost: out of descriptors", host=message.host)

    def _reached_before(self) -> None:
        self._news.ask()
        self._say_who_is_here(self._hosts)

    def _heard_states(self, states: Sequence[m.HopState]) -> None:
        known = [state for state in states if state.host in self._hosts]
        for state in known:
            before = self._states.get(state.host, _STARTING)
            self._states[state.host] = state
            if state.state != before.state:
                self._log(state)
        self._news.ask()
        self._say_who_is_here(state.host for state in known)

    def _log(self, state: m.HopState) -> None:
        if state.state == "up":
            log.info("agentless host reached", host=state.host, kex=state.kex, cipher=state.cipher, key=state.host_key)
        elif state.state == "down":
            log.warning("agentless host not reached", host=state.host, reason=state.reason, hint=state.hint)

    def _certify(self, principal: str) -> None:
        """For the user of a host that has no sealed key, and for nobody else (C14)."""
        worker = self._worker
        if worker is None:
            return
        users = {hop.user for hop in self._told if hop.scheme == "ssh" and hop.credential is None}
        try:
            if principal not in users:
                raise InputError(f"no host of this gateway is logged in to as {principal!a} with a certificate")
            self._ca = self._ca or ssh_ca_of(self._home)
            made = self._ca.certify(worker.public_key, principal, gateway=self._gateway, now=clock.now())
            worker.tell(m.Certificate(principal=principal, certificate=made.line, ends=made.ends))
        except MeshError as exc:
            worker.tell(m.Certificate(principal=principal, reason=str(exc)))

    # --- who is there ---------------------------------------------------------------------------------------------

    def is_here(self, host: str) -> bool | None:
        """Whether one of our hosts can be used now; None for one that is not ours."""
        one = self._hosts.get(host)
        if one is None:
            return None
        if one.problem:
            return False
        if not one.has_worker or host in self._before.hosts:
            return True
        return self._states.get(host, _STARTING).state == "up" or self._is_tls(one)

    def _is_tls(self, one: Reached) -> bool:
        """There is no connection between two streams: it is away only once one has failed."""
        return one.url is not None and one.url.scheme == "tls" and self._state(one.host).state != "down"

    def _say_who_is_here(self, hosts: Iterable[str]) -> None:
        news: dict[str, Presence] = {}
        presence = self._owner.snapshot().presence
        for name in hosts:
            is_ours = name in self._hosts
            here = Presence(host=name, online=bool(self.is_here(name)), gateways=(self._gateway,) if is_ours else ())
            if presence.get(name) != here:
                news[name] = here
        if news:
            self._owner.place(news)

    # --- asking ---------------------------------------------------------------------------------------------------

    async def run_on(self, host: str, argv: Sequence[str], timeout: float) -> m.Ran:
        """Run a command of ours that changes nothing on an ssh host.

        Raises:
            Unavailable: the host is not reached by ssh, or nothing came back.
        """
        one, worker = self._hosts.get(host), self._worker
        if one is None or one.url is None or one.url.scheme != "ssh":
            raise Unavailable(f"host {host} is not reached by ssh from gateway {self._gateway}")
        if worker is None:
            raise Unavailable(self._problem or "the ssh worker is not there yet")
        number = next(self._ids)
        self._running[number], receive = trio.open_memory_channel[m.Ran](1)
        try:
            with trio.fail_after(timeout + limits.SSH_CONNECT_TIMEOUT):
                worker.tell(m.Run(id=number, host=host, argv=tuple(argv), timeout=timeout))
                return await receive.receive()
        except (trio.TooSlowError, trio.EndOfChannel):
            raise Unavailable(f"host {host} did not answer within {timeout:.0f} s") from None
        finally:
            self._running.pop(number, None)

    @property
    def is_any(self) -> bool:
        return bool(self._hosts)

    def _state(self, host: str) -> m.HopState:
        return self._states.get(host, _STARTING)

    def status(self) -> list[dict[str, object]]:
        """A row for each host that this gateway reaches."""
        return [self._row(one) for _, one in sorted(self._hosts.items())]

    def why_away(self, host: str) -> str:
        """What keeps one of our hosts from being used, in words; empty for one that can be, or is not ours."""
        one = self._hosts.get(host)
        if one is None or self.is_here(host):
            return ""
        state = self._state(host)
        return one.problem or (state.reason if state.state == "down" else "")

    def _row(self, one: Reached) -> dict[str, object]:
        state = self._state(one.host)
        scheme = one.url.scheme if one.url is not None else ""
        words = "not dialled" if one.problem else state.state if scheme == "ssh" else "on demand"
        if scheme == "tls" and state.state == "down":
            words = "down"
        return {
            "host": one.host,
            "reach": one.reach.url if one.reach is not None else "",
            "state": words,
            "reason": one.problem or (state.reason if words == "down" else ""),
            "host_key": state.host_key,
            "algorithms": " ".join(filter(None, (state.kex, state.cipher))),
            "old_algorithms": " ".join(state.legacy),
            "allowance": _allowance_words(one),
            "plaintext": plaintext_words(self._gateway, scheme),
        }

    def problems(self) -> list[str]:
        """Hosts that cannot be used, in words; and the worker, if there is none."""
        found = [self._problem] if self._problem and self._told else []
        revoked = self._owner.snapshot().host_revoked
        for name, one in sorted(self._hosts.items()):
            state = self._state(name)
            why = one.problem or (state.reason if state.state == "down" else "")
            if why and not (self._problem and state.cause == "local") and revoked(name) is None:
                found.append(f"host {name} cannot be reached: {why}" + (f" ({state.hint})" if state.hint else ""))
        refused = ((name, self._state(name).not_forwarded) for name in sorted(self._hosts))
        found += [f"host {name}: {s} is not published there: {why}" for name, x in refused for s, why in x.items()]
        return found

    def allowances(self) -> list[str]:
        """What is to be said of allowances that end soon, or have ended."""
        found: list[str] = []
        now = clock.now()
        for name, one in sorted(self._hosts.items()):
            allowance = one.reach.allowance if one.reach is not None else None
            if allowance is None:
                continue
            left = parse_until(allowance.until) - now
            what = f"old cryptography for host {name} ({', '.join(allowance.profiles)}; {allowance.owner})"
            if left <= 0:
                found.append(f"{what} ended with {allowance.until} and is off")
            elif left < limits.ALLOWANCE_WARNING:
                found.append(f"{what} ends with {allowance.until}")
        return found


def _allowance_words(one: Reached) -> str:
    allowance = one.reach.allowance if one.reach is not None else None
    if allowance is None:
        return ""
    ended = " (ended)" if parse_until(allowance.until) <= clock.now() else ""
    return f"{' '.join(allowance.profiles)} until {allowance.until}{ended}, {allowance.owner}"


def plaintext_words(gateway: str, scheme: str) -> str:
    """Where the bytes of a stream to such a host are seen in clear, besides at its two ends."""
    return f"gateway {gateway}" + (", and the network from there to the host" if scheme == "tcp" else "")


def _listen(path: Path) -> socket.socket:
    """The unix socket on which data workers ask for channels: ours alone, in a directory of ours. Raises MeshError."""
    directory = path.parent
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        info = directory.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise InputError("it is not a directory of our own", where=str(directory), hint=f"remove {directory}")
        path.unlink(missing_ok=True)
        with socket_address(directory, path.name) as address:
            os.fchmod(sock.fileno(), 0o600)
            sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as exc:
        sock.close()
        raise Unavailable(f"the ssh worker's socket cannot be made: {exc.strerror}", where=str(path)) from None
    except BaseException:
        sock.close()
        raise
    return sock
