"""I/O: a gateway's ssh worker: the process that holds its ssh connections to agentless hosts.

    python -m agents.workers.ssh_worker FD     its end of the socketpair to the supervisor

It runs asyncio, for asyncssh, and nothing else of the node: what a hostile sshd does to it, it does to nobody else. It
holds no secret but the seal key and what that opens. Reads top to bottom: start, messages in, signs of life out, and
the end with its last stream, when another one has taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import random
import socket
import sys
import warnings
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
from cryptography.utils import CryptographyDeprecationWarning

from agents.ssh.asking import Asking, Refused
from agents.ssh.credentials import Credentials
from agents.ssh.hop import Around, SshHop
from agents.ssh.link import Link, LinkClosed, StoppedTalking
from agents.ssh.stream import unread
from agents.ssh.tls_hop import TlsHop
from agents.workers import ssh_messages as m
from agents.workers.ssh_page import SuspectNote
from bridge import limits
from bridge.errors import ends_the_process
from bridge.lines import plain
from bridge.tunnels.frames import Code

_PR_SET_DUMPABLE = 4
_GC_THRESHOLD = 20_000
_STATES_PAUSE = 0.05
"""Changes of states are told together."""

Hop = SshHop | TlsHop


def _but_for_ports(hop: m.LastHop) -> m.LastHop:
    return msgspec.structs.replace(hop, forwards=())


class SshWorker:
    """Everything the process owns."""

    def __init__(self, link: Link, begin: m.Begin, fds: list[int]) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        listener, page = fds
        self.asking = Asking(socket.socket(fileno=listener), self._open, self.crashed)
        self.credentials = Credentials(Path(begin.home), link.send)
        self._around = Around(
            credentials=self.credentials,
            note=SuspectNote(page),
            dials=asyncio.Semaphore(limits.SSH_DIALS_AT_ONCE),
            changed=self._state_changed,
            forwarded=self._forwarded,
            crashed=self.crashed,
            rng=random.Random(),
        )
        self._hops: dict[str, tuple[Hop, asyncio.Task[None]]] = {}
        self._told: dict[str, m.HopState] = {}
        self._telling = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ports_are_free = False

    # --- messages in ----------------------------------------------------------------------------------------------

    async def hear(self) -> None:
        """Until the supervisor is gone, or has another worker take the requests: LinkClosed, StoppedTalking."""
        while True:
            message, _fds = await self._link.receive()
            match message:
                case m.LastHops():
                    self._know(message.hosts)
                    if message.serves:
                        self.asking.start()  # not before hosts are known: who waits in the queue would be refused
                case m.Certificate():
                    self.credentials.heard(message)
                case m.Run():
                    self._start(self._run(message))
                case m.Begin():
                    raise LinkClosed

    def _know(self, hosts: tuple[m.LastHop, ...]) -> None:
        """What did not change keeps its connection; of what did, everything that ran over it ends."""
        wanted = {host.host: host for host in hosts}
        for name, (hop, task) in list(self._hops.items()):
            new = wanted.get(name)
            if isinstance(hop, SshHop) and new is not None and _but_for_ports(new) == _but_for_ports(hop.hop):
                hop.listen_on(new)
            elif new != hop.hop:
                task.cancel()
                del self._hops[name]
                self._told.pop(name, None)
        for name, host in wanted.items():
            if name not in self._hops:
                hop = SshHop(host, self._around) if host.scheme == "ssh" else TlsHop(host, self._state_changed)
                self._hops[name] = (hop, self._start(hop.run()))
        self._state_changed()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except LinkClosed:
            pass  # `hear` ends the process
        except Exception as exc:
            self.crashed(exc)

    async def _open(self, sock: socket.socket, asked: m.ChannelAsked) -> None:
        known = self._hops.get(asked.host)
        if known is None:
            raise Refused(Code.CONNECT_FAILED, f"{asked.host} is not a host of this gateway's ssh worker")
        await known[0].open(sock, asked.target)

    async def _run(self, message: m.Run) -> None:
        known = self._hops.get(message.host)
        try:
            if known is None or not isinstance(known[0], SshHop):
                raise Refused(Code.CONNECT_FAILED, f"{message.host} is not reached by ssh")
            code, out, err, cut = await known[0].execute(message.argv, message.timeout)
            done = m.Ran(id=message.id, code=code, out=out, err=err, truncated=cut)
        except Refused as exc:
            done = m.Ran(id=message.id, reason=exc.reason)
        except TimeoutError:
            done = m.Ran(id=message.id, reason=f"it did not end within {message.timeout:g} s")
        except (asyncssh.Error, OSError) as exc:
            done = m.Ran(id=message.id, reason=f"{message.host} does not run it: {plain(str(exc))}")
        await self._link.send(done)

    # --- messages out ---------------------------------------------------------------------------------------------

    def _state_changed(self) -> None:
        if not self._telling:
            self._telling = True
            self._loop.call_later(_STATES_PAUSE, self._tell_states)

    def _tell_states(self) -> None:
        self._telling = False
        news = []
        for name, (hop, _task) in self._hops.items():
            state = hop.current()
            if self._told.get(name) != state:
                self._told[name] = state
                news.append(state)
        if news:
            self._start(self._link.send(m.HopStates(hosts=tuple(news))))

    def _forwarded(self, message: m.Forwarded, socks: Sequence[socket.socket]) -> None:
        self._start(self._link.send(message, socks))

    async def beat(self) -> None:
        """Signs of life, and what changes all the time."""
        while True:
            self._tell_states()
            await self._link.send(
                m.Beat(
                    channels=sum(state.channels for state in self._told.values()),
                    opened=self.asking.opened,
                    refused=self.asking.refused,
                )
            )
            await asyncio.sleep(limits.SSH_BEAT)

    def crashed(self, error: BaseException) -> None:
        """A bug of ours, or what nobody thought that a host could do: it ends one host's or one stream's business."""
        if ends_the_process(error):
            raise error
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place is not None else "?"
        text = f"{type(error).__name__} at {where}: {plain(str(error))}"
        self._start(self._link.send(m.Notice(event="ssh worker: an error that should not happen", text=text)))

    # --- the end ---------------------------------------------------------------------------------------------------

    async def retire(self, beating: asyncio.Task[None]) -> None:
        """Another worker takes the requests: nothing begins here any more, what is open goes on to its end. The
        supervisor still hears us, and ends us when it ends or less is allowed: `beating` ends when it is gone."""
        self.asking.close()
        self.credentials.forget()
        self._start(self._free_ports())
        while not beating.done() and (self._hops or unread):
            if not self.asking.is_busy:
                self._leave_idle_hosts()
            await asyncio.sleep(limits.DRAIN_POLL)

    async def _free_ports(self) -> None:
        await asyncio.gather(*(hop.free_ports() for hop, _task in self._hops.values()))
        self._ports_are_free = True
        await self._link.send(m.PortsFree())

    def _leave_idle_hosts(self) -> None:
        """So that a host has one connection of ours more for no longer than it must."""
        for name, (hop, task) in list(self._hops.items()):
            if self._ports_are_free and not hop.streams:
                task.cancel()
                del self._hops[name]


async def serve(sock: socket.socket) -> None:
    """Until the supervisor is gone, or has no use for us any more."""
    link = Link(sock)
    begin, fds = await link.receive()
    if not isinstance(begin, m.Begin):
        return
    worker = SshWorker(link, begin, fds)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: _unhandled(worker, found))
    await link.send(m.Started(pid=os.getpid(), public_key=worker.credentials.public_key))
    beating = asyncio.create_task(worker.beat())
    try:
        await worker.hear()
    except StoppedTalking:
        await worker.retire(beating)
    finally:
        beating.cancel()


def _unhandled(worker: SshWorker, found: dict[str, Any]) -> None:
    error = found.get("exception")
    if isinstance(error, Exception) and not isinstance(error, asyncssh.Error | OSError):
        worker.crashed(error)


def _drop_what_we_can() -> None:
    """No other process of the same user reads our memory, which holds keys; nor does it end in a core file."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    _drop_what_we_can()
    for name in ("asyncio", "asyncssh"):  # what they would say of hosts is said in states, escaped
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # old algorithms are an operator's to allow
    gc.set_threshold(_GC_THRESHOLD)
    sock = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.suppress(LinkClosed, StoppedTalking, KeyboardInterrupt):
        asyncio.run(serve(sock))


if __name__ == "__main__":
    main()
