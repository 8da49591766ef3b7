"""I/O: a node's data workers: as many as it was told to have, each replaced when it dies, all told the same.

Workers come in generations. SIGHUP starts a new one beside the one that serves, and when all of it is ready the old one
is told to end with its last stream, however long that takes.

What a worker must know is kept here as the latest of each kind, so that a new one is told what the old ones were: a
worker that dies costs its own streams and nothing else. All wait on the same listening sockets; what is for one of them
goes to the one that carries the least.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import trio

from agents.backoff import Backoff
from agents.handover import LeftWorker
from agents.supervisor import DataWorkerProcess, Start, is_held, start_worker
from agents.workers import messages as m
from agents.workers.shares import SharesBoard
from bridge import limits
from bridge.logs import get_logger
from inventory.errors import MeshError, Unavailable
from inventory.model import Host

log = get_logger()

_TUNNELS = ("@tunnels", 0)
_HELD = "a signal or a debugger has stopped it. Let it go on with `kill -CONT {0}`, or end it with `kill -9 {0}`"
_HANGS = "it hangs, and is replaced soon. If it is not, end it with `kill -9 {0}`"


def default_count() -> int:
    """One worker for each core that this process may use, up to the limit."""
    return min(len(os.sched_getaffinity(0)), limits.WORKERS_MAX)


class WorkersOwner(Protocol):
    """The node, as far as its workers need it."""

    def worker_started(self, worker: DataWorkerProcess) -> None:
        """A (new) worker has been told everything."""

    def worker_ended(self, worker: DataWorkerProcess) -> None:
        """One has gone: whoever waits for its answer waits in vain."""

    async def reachable(self) -> None:
        """Wait until others find the way to this node, if they can be expected to soon. Raises MeshError: they do not,
        and it is to end."""

    async def worker_said(self, worker: DataWorkerProcess, message: m.FromWorker, socks: list[socket.socket]) -> None:
        """Must not wait long. Owns the sockets."""


AnyListen = m.Listen | m.ListenPublished | m.ListenTunnels


@dataclass(eq=False, slots=True)
class Slot:
    """The place of one worker and its replacements."""

    restarts: int = 0
    worker: DataWorkerProcess | None = None
    row: int = 0
    """Of the shared page, while there is a worker."""
    given: int = 0
    """What the worker was given since it last reported: the page does not show that yet."""


@dataclass(eq=False, slots=True)
class Generation:
    """Workers that were started together."""

    slots: tuple[Slot, ...]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    serves: bool = True
    """Its workers are replaced when they die; False once another generation has taken over."""
    missing: int = 0
    """Workers that have not started yet, while it is being started."""
    started: trio.Event = field(default_factory=trio.Event)
    """All have, or one could not."""
    failure: str = ""


class DataWorkers:
    """All workers of a node.

    Args:
        begin: who the node is.
        start: starts a process.
        is_held: whether something has stopped the process of this number.
        inherited: workers of the version before us. They go on accepting until ours are ready.
        told: what they were told is allowed, as that version's `told`.
    """

    def __init__(
        self, begin: m.Begin, count: int, owner: WorkersOwner, *, start: Start = start_worker,
        inherited: Sequence[LeftWorker] = (), told: bytes = b"", is_held: Callable[[int], bool] = is_held,
    ) -> None:  # fmt: skip
        self._begin = begin
        self._owner = owner
        self._start = start
        self._is_held = is_held
        self._board = SharesBoard()
        self._authority: m.Authority | None = None
        self._placement: Callable[[], m.Placement] | None = None
        self._draining: m.Drain | None = None
        self._listening: dict[tuple[str, int], tuple[AnyListen, socket.socket]] = {}
        self._inherited = [DataWorkerProcess.inherited(left, self._heard) for left in inherited]
        self._told_before = told
        self._taken_over = trio.Event()
        self._leaving = False
        self._left: list[DataWorkerProcess] = []
        self._serving = Generation(tuple(Slot() for _ in range(count)), missing=count)
        self._generations = [self._serving]
        self._nursery: trio.Nursery

    def __iter__(self) -> Iterator[DataWorkerProcess]:
        """Those that are there and have been told everything, old ones included."""
        return iter([slot.worker for slot in self._slots() if slot.worker is not None and slot.worker.ready])

    def _slots(self) -> list[Slot]:
        return [slot for generation in self._generations for slot in generation.slots]

    @property
    def streams(self) -> int:
        return sum(worker.streams for worker in (*self, *self._inherited))

    @property
    def streams_behind(self) -> dict[str, int]:
        """Agentless host -> streams to it, as the workers reported last."""
        found: dict[str, int] = {}
        for worker in self:
            for host, streams in worker.streams_behind.items():
                found[host] = found.get(host, 0) + streams
        return found

    @property
    def inherited_streams(self) -> int:
        """Streams of workers of another version, as they reported last: nobody can ask or tell them anything."""
        return sum(worker.streams for worker in self._inherited)

    @property
    def inherited(self) -> tuple[DataWorkerProcess, ...]:
        """Workers of another version that have not ended yet."""
        return tuple(self._inherited)

    @property
    def tunnels(self) -> tuple[m.TunnelState, ...]:
        return tuple(tunnel for worker in self for tunnel in worker.tunnels)

    def status(self) -> list[dict[str, int | str | None]]:
        """Every place for a worker: who serves in it, and how often another one had to take it; then those that end."""
        return (
            [_row(slot, "serving") for slot in self._serving.slots]
            + [
                _row(slot, "ending")
                for generation in self._generations
                if not generation.serves
                for slot in generation.slots
                if slot.worker is not None
            ]
            + [_row(Slot(worker=worker), "ending") for worker in self._inherited]
        )

    # --- watching -------------------------------------------------------------------------------------------------

    def look(self, passed: float) -> None:
        """Call it every `passed` seconds, to notice those that say nothing."""
        for worker in self:
            worker.look(passed, self._is_held)

    def silent(self) -> list[str]:
        """What is to be said of each that says nothing."""
        return [
            f"data worker {worker.pid} has said nothing for {worker.silent_for:.0f} s, what it carries stands still: "
            + (_HELD if self._is_held(worker.pid) else _HANGS).format(worker.pid)
            for worker in self
            if worker.silent_for > limits.WORKER_SILENT
        ]

    # --- telling --------------------------------------------------------------------------------------------------

    def know(self, message: m.Authority | m.Drain) -> None:
        """Something every worker must know, now and after a restart."""
        if isinstance(message, m.Authority):
            before, self._authority = self._authority, message
            takes_away = self._was_taken_away(message) if before is None else _takes_away(before, message)
            if takes_away:
                self._end_inherited()
        else:
            self._draining = message
        self.tell_all(message)

    def know_placement(self, change: m.PlacementChanged, whole: Callable[[], m.Placement]) -> None:
        """What is where is otherwise now: those that are there are told what differs, and those to come the whole,
        which is asked for then."""
        self._placement = whole
        self.tell_all(change)

    @property
    def told(self) -> bytes:
        """What all of them were told is allowed, for the next program."""
        return msgspec.msgpack.encode(self._authority) if self._authority is not None else b""

    def _was_taken_away(self, now: m.Authority) -> bool:
        """Whether less is allowed than inherited workers were told: it may have changed while nobody could tell them.
        A node that starts with older knowledge than it had takes nothing away by that."""
        if not self._told_before:
            return False
        try:
            before = msgspec.msgpack.decode(self._told_before, type=m.Authority)
        except (msgspec.MsgspecError, MeshError, ValueError):
            return True  # of another version, and not to be compared
        self._told_before = b""
        return before.state.number <= now.state.number and _takes_away(before, now)

    def _end_inherited(self) -> None:
        """They are of another version and cannot be told that less is allowed now: what they carry is cut."""
        for worker in self._inherited:
            log.warning("an old data worker is ended: less is allowed now", pid=worker.pid, streams=worker.streams)
            worker.end()

    def listen(self, message: AnyListen, sock: socket.socket) -> None:
        """Serve a listening socket; it stays open here, for the workers to come."""
        key = _TUNNELS if isinstance(message, m.ListenTunnels) else (message.address, message.port)
        self._listening[key] = (message, sock)
        for worker in self:
            if worker.serves:
                worker.tell(message, [sock], lent=True)

    def unlisten(self, address: str, port: int) -> None:
        """Stop serving it. The port is free when this returns, also while workers have not closed their copies yet."""
        kept = self._listening.pop((address, port), None)
        if kept is None:
            return
        self.tell_all(m.Unlisten(address=address, port=port))
        with contextlib.suppress(OSError):
            kept[1].shutdown(socket.SHUT_RDWR)
        kept[1].close()

    def tell_all(self, message: m.ToWorker) -> None:
        for worker in self:
            worker.tell(message)

    def tell_one(self, message: m.ToWorker, socks: Sequence[socket.socket] = ()) -> DataWorkerProcess | None:
        """Say something to the worker that carries the least; which one it was, None when there is none. Owns the
        sockets."""
        for slot in sorted(self._serving.slots, key=self._load):
            if slot.worker is not None and slot.worker.ready:
                slot.given += 1
                slot.worker.tell(message, socks)
                return slot.worker
        for sock in socks:
            sock.close()
        return None

    def hand_on(self, message: m.AdoptForwarded, socks: Sequence[socket.socket]) -> None:
        """A connection of a program on an agentless host, to the worker that carries the least; closed when workers are
        behind. Owns the sockets."""
        if any(worker.is_behind for worker in self):
            for sock in socks:
                sock.close()
        else:
            self.tell_one(message, socks)

    def _load(self, slot: Slot) -> int:
        return slot.given + (self._board.load(slot.row) if slot.worker is not None else 0)

    # --- keeping --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the workers running until cancelled; then end them."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for worker in list(self._inherited):
                    nursery.start_soon(self._hear_inherited, worker)
                nursery.start_soon(self._take_over)
                await self._keep_all(self._serving)
                await trio.sleep_forever()  # those that serve are kept by `renew` then
        finally:
            if not self._leaving:
                for _message, sock in self._listening.values():
                    sock.close()
                self._listening.clear()
            self._board.close()  # the workers that stay have it open themselves

    async def all_said(self) -> None:
        """Wait until every worker has taken what it was told."""
        for worker in (*self, *self._inherited):
            await worker.all_said()

    def leave(self) -> None:
        """Another program takes our place: when `run` ends, workers and listening sockets stay as they are."""
        self._leaving = True
        for worker in (*(slot.worker for slot in self._slots()), *self._inherited):
            if worker is not None and (worker.ready or not worker.serves):
                worker.leave()
                self._left.append(worker)

    def left(self) -> tuple[tuple[int, ...], tuple[LeftWorker, ...]]:
        """After the end of `run`: listening sockets and workers, for the next program, which owns them."""
        listening = tuple(sock.detach() for _, sock in self._listening.values())
        self._listening.clear()
        return listening, tuple(worker.detach() for worker in self._left)

    async def _hear_inherited(self, worker: DataWorkerProcess) -> None:
        try:
            await worker.run_inherited()
        finally:
            self._inherited.remove(worker)
            self._owner.worker_ended(worker)

    async def _take_over(self) -> None:
        """From the workers of the version before us, once ours are ready and peers find the way to them: who loses a
        tunnel to an old one looks for a new one in that moment."""
        await self._serving.started.wait()
        if self._inherited:
            await self._owner.reachable()
        for worker in self._inherited:
            worker.retire_inherited()
        self._taken_over.set()

    async def started(self) -> None:
        """Wait until all of those that serve have started, or one could not."""
        await self._serving.started.wait()

    async def taken_over(self) -> None:
        """Wait until ours carry what comes, and those of the version before are told to end."""
        await self._taken_over.wait()

    async def renew(self) -> None:
        """Have a new generation take over, once all of it is ready; the one that serves then ends with its streams.

        Raises:
            Unavailable: too many generations are ending, or the new workers do not start. Nothing has changed.
        """
        ending = len(self._generations) - 1
        if ending >= limits.OLD_GENERATIONS_MAX:
            raise Unavailable(
                f"{ending} generations of workers were still ending",
                hint="SIGHUP again when `status` shows fewer as ending",
            )
        before = self._serving
        after = Generation(tuple(Slot(slot.restarts) for slot in before.slots), missing=len(before.slots))
        self._generations.append(after)
        self._nursery.start_soon(self._keep_all, after)
        with trio.move_on_after(limits.WORKER_START_TIMEOUT):
            await after.started.wait()
        if after.missing:
            after.scope.cancel()
            raise Unavailable(f"the new workers do not start: {after.failure or 'they take too long'}")
        self._serving, before.serves = after, False
        for slot in before.slots:
            if slot.worker is not None:
                slot.worker.retire()

    async def _keep_all(self, generation: Generation) -> None:
        try:
            with generation.scope:
                async with trio.open_nursery() as nursery:
                    for slot in generation.slots:
                        nursery.start_soon(self._keep, slot, generation)
        finally:
            self._generations.remove(generation)

    async def _keep(self, slot: Slot, generation: Generation) -> None:
        backoff = Backoff(rng=random.Random())
        while generation.serves:
            began = trio.current_time()
            reason = await self._serve_one(slot, generation)
            if not generation.serves:
                log.info("an old data worker ended", reason=reason)
                return
            if generation is not self._serving:  # `renew` waits for it
                generation.failure = reason
                generation.started.set()
            slot.restarts += 1
            delay = 0.0
            if trio.current_time() - began > limits.WORKER_SETTLED:
                backoff.reset()
            else:
                delay = backoff.next()
            log.error("data worker ended; starting another", reason=reason, delay=round(delay, 2))
            await trio.sleep(delay)

    async def _serve_one(self, slot: Slot, generation: Generation) -> str:
        """One worker from its start to its end; why it ended."""
        try:
            worker = DataWorkerProcess(self._start, self._board.fd, self._heard)
        except OSError as exc:
            return f"it cannot be started: {exc.strerror}"
        slot.worker, slot.row, slot.given = worker, self._board.take(), 0
        begin = msgspec.structs.replace(self._begin, row=slot.row)
        try:
            return await worker.run(begin, lambda: self._introduce(worker, generation))
        finally:
            slot.worker = None
            self._board.free(slot.row)
            self._owner.worker_ended(worker)

    def _introduce(self, worker: DataWorkerProcess, generation: Generation) -> None:
        if self._authority is not None:
            worker.tell(self._authority)
        if self._placement is not None:
            worker.tell(self._placement())
        if not generation.serves:  # the others have taken over while it started
            worker.retire()
            return
        for listen, sock in self._listening.values():
            worker.tell(listen, [sock], lent=True)
        if self._draining is not None:
            worker.tell(self._draining)
        self._owner.worker_started(worker)
        if generation.missing:
            generation.missing -= 1
            if not generation.missing:
                generation.started.set()

    async def _heard(self, worker: DataWorkerProcess, message: m.FromWorker, socks: list[socket.socket]) -> None:
        if isinstance(message, m.WorkerReport):
            worker.tunnels, worker.streams = message.tunnels, message.streams
            worker.streams_behind = message.behind
            for slot in self._slots():
                if slot.worker is worker:
                    slot.given = 0
        await self._owner.worker_said(worker, message, socks)


def _takes_away(before: m.Authority, after: m.Authority) -> bool:
    """Whether a stream that was allowed may not be any more: policy, revocations, or what is said of a host, a client
    or a port where clients come in."""
    was, now = before.state, after.state
    return (
        before.allows != after.allows
        or was.policy != now.policy
        or was.revocations != now.revocations
        or any(_may_less(host, now.hosts.get(name)) for name, host in was.hosts.items())
        or any(now.reaches.get(name) != reach for name, reach in was.reaches.items())
        or any(now.clients.get(name) != client for name, client in was.clients.items())
        or any(now.publications.get(i) != one for i, one in was.publications.items())
        or was.admissions != now.admissions
    )


def _may_less(before: Host, after: Host | None) -> bool:
    """A drain whose deadline cuts counts: inherited workers can neither be asked what they carry nor told to cut it.
    One of what the host serves alone cuts nothing, and they begin no streams; its end takes nothing away."""
    if after is None or (after.why_silent is not None and before.why_silent is None):
        return True
    return before != after and _in_service(before) != _in_service(after)


def _in_service(host: Host) -> Host:
    return msgspec.structs.replace(host, draining=None, serving_only=False)


def _row(slot: Slot, state: str) -> dict[str, int | str | None]:
    worker = slot.worker if slot.worker is not None and (slot.worker.ready or not slot.worker.serves) else None
    return {
        "pid": worker.pid if worker is not None else None,
        "state": state if worker is not None else "starting",
        "streams": worker.streams if worker is not None else 0,
        "tunnels": len(worker.tunnels) if worker is not None else 0,
        "restarts": slot.restarts,
    }
