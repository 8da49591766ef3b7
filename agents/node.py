"""I/O: what a host's agent and a gateway have in common: the workers, the records, the admin socket, metrics, the end.

A node reads its home, starts its data workers, then serves until told to drain. The subclasses add what they know
(`host_agent`, `gateway_agent`); this file never knows whether there is a registry.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import socket
from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trio

from agents import clock, handover
from agents.admin.server import AdminConnection, serve_admin
from agents.data_workers import DataWorkers
from agents.estate import Home, HomeConfig
from agents.governors import Governors
from agents.guards import must_pass
from agents.handover import Inherited, Left
from agents.instance_counts import InstanceCounts
from agents.lifecycle import Lifecycle, keep_watchdog, say_ready, say_status
from agents.loop_lag import LagStatus, watch_lag
from agents.outage_budget import OutageBudget, end_of
from agents.reloading import Reloading
from agents.stream_questions import StreamQuestions
from agents.supervisor import DataWorkerProcess, Latest
from agents.workers import messages as m
from bridge import limits
from bridge.bugs import take_bugs, tell_bug
from bridge.delays import Delays
from bridge.errors import clock as clock_words
from bridge.flow_log import FlowLog
from bridge.flows import Flow
from bridge.identity.identity_file import Identity, load_identity, renewal_at, store_identity
from bridge.identity.verify import PeerIdentity
from bridge.logs import get_logger
from bridge.metrics import Metrics, NoMetrics
from bridge.metrics_server import Pages, serve_metrics
from bridge.ports import holder_of
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.errors import MeshError, Unavailable
from inventory.home import HomeLock
from inventory.model import Health
from inventory.names import SpiffeId
from inventory.snapshot import Snapshot

log = get_logger()

VERSION = version("meshbridge")
NO_COMMAND = "this node is not one for it, or runs an older version than the command: then restart it"
_BACKLOG = 1024
_CLOCK_LOOK = 60.0
_WATCH = 1.0
_RETRY_SHARE = 0.05
"""A renewal that failed is tried again within this share of the certificate's life, if RENEWAL_RETRY is not less."""


def _live_metrics() -> Metrics:
    """Imported where it is wanted: the library behind it is 1 MB of memory."""
    from bridge.live_metrics import LiveMetrics

    return LiveMetrics(version=VERSION, now=clock.now)


class Node:
    """One running node. `home` is locked by the caller for as long as it runs."""

    def __init__(
        self, home: Path, config: HomeConfig, root_certificate: str, *, workers: int, metrics: str | None,
        inherited: Inherited,
    ) -> None:  # fmt: skip
        self.home = home
        self.config = config
        self.name = config.name
        self.role = config.role
        self.snapshot: Snapshot
        self.identity: Identity = load_identity(home / "identity.pem")
        self.lifecycle = Lifecycle()
        self.flow_log = FlowLog(home, monotonic=trio.current_time, now=clock.now)
        self.metrics_endpoint = parse_endpoint(metrics, zero_ok=True) if metrics else None
        self.metrics: Metrics = _live_metrics() if metrics else NoMetrics()
        self.loop_lag = LagStatus()
        self.started = clock.now()
        self.ready = False
        self.renewal_possible = Latest()
        """Asked when a gateway has been reached: a renewal that failed for want of one need not wait any longer."""
        self._root = root_certificate
        self._nursery: trio.Nursery
        self._count = Latest()
        self._counted: Snapshot
        self._instances = InstanceCounts()
        begin = m.Begin(
            home=str(home),
            trust_domain=config.trust_domain,
            role=config.role,
            name=config.name,
            site=None,
            root_certificate=root_certificate,
        )
        self.workers = DataWorkers(begin, workers, self, inherited=inherited.workers, told=inherited.told)
        self.inherited = inherited
        self.reloading = Reloading(self, VERSION, self.lifecycle, self.workers, inherited)
        self._questions = StreamQuestions(self.workers)
        self._governors = Governors(self.health_of, lambda: self.reloading.leaves)

    @property
    def spiffe(self) -> SpiffeId:
        return SpiffeId(self.config.trust_domain, "gateway" if self.role == "gateway" else "host", self.name)

    @property
    def streams(self) -> int:
        """Open streams of all workers, as they reported last."""
        return self.workers.streams

    # --- what subclasses add --------------------------------------------------------------------------------------

    async def start(self, nursery: trio.Nursery) -> None:
        """Start what is specific to this kind of node; return when it serves."""
        raise NotImplementedError

    async def before_drain(self) -> None:
        """Tell others that no new streams should come."""

    async def before_replacement(self) -> None:
        """Tell others that this node is away for a moment."""

    def why_unlinked(self) -> str:
        """Why others do not find the way to this node; empty when they do, or need none."""
        return ""

    async def reachable(self) -> None:
        """Wait until others find the way to this node, if they can be expected to soon. Raises MeshError: they do not,
        and it is to end."""

    async def busy(self) -> int:
        """How much is still under way, while draining."""
        return await _counted(self.live_streams()) + self.workers.inherited_streams

    async def cut_remaining(self, reason: str) -> int:
        """End what is still under way; how much it was."""
        return await _counted(self.cut_streams(reason)) + self.workers.inherited_streams

    def worker_started(self, worker: DataWorkerProcess) -> None:
        """A (new) data worker has been told everything."""

    def workers_renewed(self) -> None:
        """New workers have taken over from those before, which end when their last stream has ended."""

    def worker_gone(self, worker: DataWorkerProcess) -> None:
        """A data worker ended: whoever waits for its answer waits in vain."""

    async def worker_message(
        self, worker: DataWorkerProcess, message: m.FromWorker, socks: list[socket.socket]
    ) -> None:
        raise NotImplementedError

    def flowed(self, records: tuple[Flow, ...]) -> None:
        """Flow records of our own streams."""

    async def admin(self, connection: AdminConnection, command: str, arguments: dict[str, Any]) -> Any:
        """A command that only this kind of node knows."""
        raise MeshError(f"unknown command {command}")

    def leave(self) -> None:
        """What serves goes on when `run` ends here, for the program that takes this one's place."""
        self.workers.leave()

    def left_ssh(self) -> handover.LeftSsh | None:
        """The way to agentless hosts, for that program."""
        return None

    def dns_descriptors(self) -> tuple[int, ...]:
        """Of the DNS server, for the program that takes this one's place and owns them."""
        return ()

    def status(self) -> dict[str, Any]:
        return {}

    def warnings(self) -> list[dict[str, str]]:
        return []

    def health_of(self, instance: str) -> Health:
        """What the checks say of an instance that this node connects to."""
        return self.snapshot.health.get(instance, Health())

    def nodes_end(self) -> dict[str, float]:
        """Ends of the certificates of other nodes that count for the outage budget, by `host NAME`."""
        return {}

    @property
    def renews(self) -> bool:
        """Whether somebody who issues certificates is here, or can be reached."""
        return True

    async def reload(self) -> None:
        """SIGHUP."""

    async def renew_identity(self) -> None:
        """Get a new certificate. Raises MeshError."""
        raise NotImplementedError

    def identity_renewed(self) -> None:
        """The workers know the new certificate."""

    async def keep_identity(self, chain: str) -> None:
        """Put a new certificate chain (PEM) for our key in the place of the old one. Raises MeshError."""
        self.identity = await trio.to_thread.run_sync(
            partial(
                store_identity,
                self.home / "identity.pem",
                self.identity.key,
                chain,
                spiffe=self.spiffe,
                root_pem=self._root,
                now=clock.now(),
            )
        )

    # --- running --------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until told to end; the exit code: 0, or 1 when the drain deadline cut streams."""
        raise_descriptor_limit()
        handover.outlive_signals()
        code = 0
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.lifecycle.watch_signals)
            handover.listen_to_signals()
            if self.inherited.trial is not None:
                await nursery.start(self.inherited.trial.show, self.lifecycle.stop)
            nursery.start_soon(keep_watchdog)
            self._governors.inherited(self.workers.inherited)
            nursery.start_soon(self._governors.run)
            nursery.start_soon(self.workers.run)
            nursery.start_soon(self.flow_log.run)
            nursery.start_soon(self._watch_itself)
            await self.start(nursery)
            self.inherited.close_rest()
            await nursery.start(partial(serve_admin, self.home, self._admin))
            if self.metrics_endpoint is not None:
                await self._serve_metrics(nursery, self.metrics_endpoint)
                nursery.start_soon(self._count_changes)
            nursery.start_soon(self._renewals)
            self.ready = True
            say_ready(f"meshbridge: {self.role} {self.name} of {self.config.trust_domain} is ready")
            nursery.start_soon(self.reloading.run)
            if self.inherited.trial is not None:
                self.inherited.trial.is_ready()
                nursery.start_soon(self.reloading.pass_trial)
            await self.lifecycle.draining.wait()
            code = await self._drain()
            nursery.cancel_scope.cancel()
        return code

    async def tunnel_listener(self, place: str) -> socket.socket:
        """The listening socket for tunnels: the one before us had it, or it is made now. Raises MeshError."""
        endpoint = parse_endpoint(place, zero_ok=True)
        mend = f"change `listen` in {Home(self.home).config}"
        return self.inherited.listener(endpoint.host, endpoint.port) or await listen_on(place, mend)

    def left(self, lock: HomeLock) -> Left | None:
        """After `run`: what another program is to take over; None when this node has ended for good."""
        if not self.reloading.replaced_by:
            return None
        listening, workers = self.workers.left()
        return Left(
            lock=lock.fd,
            listening=listening,
            dns=self.dns_descriptors(),
            workers=workers,
            told=self.workers.told,
            ssh=self.left_ssh(),
            linked=self.reloading.was_linked,
            children=tuple(self.inherited.children),
        )

    async def _drain(self) -> int:
        """No new streams; live ones may end until the deadline; what is left is cut."""
        log.info("draining", streams=self.streams)
        say_status(f"draining: {self.streams} streams")
        with trio.move_on_after(limits.DRAIN_DEADLINE):
            await self.before_drain()
            self.workers.know(m.Drain(reason="shutting down"))
            while not self.lifecycle.stopping.is_set():
                if not await self.busy():
                    return 0
                with trio.move_on_after(limits.DRAIN_POLL):
                    await self.lifecycle.stopping.wait()
        cut = await self.cut_remaining("the drain deadline has passed")
        if cut:
            log.warning("cut at shutdown", count=cut)
        return 1 if cut else 0

    async def _serve_metrics(self, nursery: trio.Nursery, endpoint: Endpoint) -> None:
        def metrics() -> bytes:
            budget = self.outage_budget()
            ends = {"node": budget.first_node.at, "issuer": budget.issuer, "root": budget.root}
            self.metrics.outage_budget({kind: at for kind, at in ends.items() if at is not None})
            return self.metrics.render()

        pages = Pages(metrics=metrics, ready=lambda: None if self.ready else "starting")

        def failed(error: BaseException) -> None:
            tell_bug("metrics page failed", error)

        bound = await nursery.start(partial(serve_metrics, endpoint, pages, report_error=failed))
        log.info("metrics are served", endpoint=str(bound))

    def outage_budget(self) -> OutageBudget:
        own = {f"{self.role} {self.name}": self.identity.leaf.not_after}
        return OutageBudget(
            {**own, **self.nodes_end()}, issuer=end_of(self.identity.chain_pem, 1), root=end_of(self._root, 0)
        )

    async def _watch_itself(self) -> None:
        """What a worker reports of itself, the supervisor counts of itself."""
        lag = Delays()
        self._nursery.start_soon(watch_lag, lag)
        while True:
            await trio.sleep(_WATCH)
            self.inherited.reap()
            counted = lag.take()
            self.workers.look(_WATCH)
            self.loop_lag.heard("supervisor", counted)
            self.metrics.supervisor(counted, take_bugs())
            self.metrics.flows_dropped(self.flow_log.dropped)
            self.metrics.limited(self._governors.states(), self._governors.take_refused())

    def end_for_replacement(self) -> None:
        self._nursery.cancel_scope.cancel()

    async def _renewals(self) -> None:
        """A new certificate at half of the old one's life, asked for until it comes."""
        while True:
            leaf = self.identity.leaf
            self.metrics.certificate_expires(leaf.not_after)
            wait = renewal_wait(leaf, clock.now())
            if wait > 0:
                # A wall clock may jump: look again at least every minute.
                await trio.sleep(min(wait, _CLOCK_LOOK))
                continue
            try:
                await self.renew_identity()
                self.workers.tell_all(m.IdentityChanged())
                self.identity_renewed()
                log.info("certificate renewed", ends=clock_words(self.identity.leaf.not_after))
                await trio.sleep(limits.RENEWAL_INTERVAL)  # what came may be no newer
            except BaseException as exc:  # a foreign chain may be anything; there is time for another
                if must_pass(exc):
                    raise
                known = isinstance(exc, MeshError)
                ends = clock_words(self.identity.leaf.not_after)
                log.warning("certificate not renewed yet", reason=str(exc), ends=ends, exc_info=not known)
                await self.renewal_possible.asked(within=random.uniform(0.0, longest_retry(leaf, clock.now())))

    # --- the workers ----------------------------------------------------------------------------------------------

    async def worker_said(self, worker: DataWorkerProcess, message: m.FromWorker, socks: list[socket.socket]) -> None:
        if len(socks) < message.fds:
            log.error("a connection was lost: out of descriptors", message=type(message).__name__)
            return
        match message:
            case m.WorkerReport():
                self.metrics.absorb(message.counters, source=str(worker.pid))
                self.loop_lag.heard("worker", message.counters.lag)
                self.loop_lag.heard("turns", message.counters.turns)
                for flow in message.flows:
                    self.flow_log.append(flow)
                self.flowed(message.flows)
            case m.SlotAsked() | m.SlotUsed() | m.SlotLeft():
                self._governors.heard(worker, message)
            case m.StreamList():
                self._questions.answered(worker, message)
            case m.Notice():
                log.info(message.event, text=message.text)
            case _:
                await self.worker_message(worker, message, socks)

    def worker_ended(self, worker: DataWorkerProcess) -> None:
        self.metrics.forget(str(worker.pid))
        self._questions.worker_gone(worker)
        self._governors.worker_gone(worker)
        self.worker_gone(worker)

    async def live_streams(self) -> tuple[Flow, ...]:
        """Records, so far, of the streams that are open. Raises Unavailable."""
        return await self._questions.live()

    async def cut_streams(self, reason: str, host: str | None = None) -> tuple[Flow, ...]:
        """End every open stream, or those to one agentless host; their records. Raises Unavailable."""
        return await self._questions.cut(reason, host)

    def count_instances(self, snapshot: Snapshot, touched: Iterable[str] | None = None) -> None:
        """Instances by service and state, for metrics; `touched` are the hosts that changed, None for all."""
        if self.metrics_endpoint is not None:
            self._instances.touched(touched)
            self._counted = snapshot
            self._count.ask()

    async def _count_changes(self) -> None:
        """Nobody reads the page more often than once a second, and a count may be of many services."""
        while True:
            await self._count.asked()
            self.metrics.instances(self._instances.count(self._counted))
            await trio.sleep(limits.COUNT_INTERVAL)

    # --- the admin socket -----------------------------------------------------------------------------------------

    async def _admin(self, connection: AdminConnection, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "status":
                return self._status()
            case "streams" if "host" not in arguments:
                return {"online": True, "streams": [_flow_dict(f) for f in await self.live_streams()]}
            case _:
                return await self.admin(connection, command, arguments)

    def _status(self) -> dict[str, Any]:
        authority = self.snapshot.authority
        budget = self.outage_budget()
        return {
            "node": self.name,
            "role": self.role,
            "trust_domain": self.config.trust_domain,
            "version": VERSION,
            "pid": os.getpid(),
            "started": clock_words(self.started),
            "certificate_ends": clock_words(self.identity.leaf.not_after),
            **budget.status(clock.now()),
            "authority_number": authority.number,
            "policy_number": authority.policy_number,
            "workers": self.workers.status(),
            "last_reload": self.reloading.last,
            "on_trial": self.inherited.trial is not None,
            "streams": self.streams,
            "loop_lag": self.loop_lag.status(),
            "limited": self._governors.status(),
            "tunnels": [
                {
                    "peer": f"{t.role}:{t.peer}",
                    "path": f"through {t.via}" if t.via else "direct",
                    "streams": t.streams,
                    "age_seconds": t.age,
                    "peer_certificate_ends": clock_words(t.remote_certificate_ends),
                }
                for t in sorted(self.workers.tunnels, key=lambda t: (t.role, t.peer))
            ],
            **self.status(),
            "warnings": self._common_warnings(budget) + self.warnings(),
        }

    def _common_warnings(self, budget: OutageBudget) -> list[dict[str, str]]:
        found = []
        left = self.identity.leaf.not_after - clock.now()
        life = self.identity.leaf.not_after - self.identity.leaf.not_before
        if left < limits.RENEWAL_OVERDUE * life:
            text = f"the certificate ends at {clock_words(self.identity.leaf.not_after)} and could not be renewed"
            found.append(warning("certificate-ends", text, severity="error" if left < 0 else "warning"))
        worries = budget.worries(now=clock.now(), life=life, renews=self.renews)
        found += [warning("outage-budget", text) for text in worries]
        if self.flow_log.dropped:
            reason = f": {self.flow_log.last_error}" if self.flow_log.last_error else ""
            found.append(warning("flows-dropped", f"{self.flow_log.dropped} flow records were dropped{reason}"))
        found += [warning("worker-silent", text) for text in self.workers.silent()]
        found += [warning("busy", text) for text in self._governors.warnings()]
        found += [warning("loop-lag", text) for text in self.loop_lag.warnings()]
        if self.lifecycle.draining.is_set():
            found.append(warning("draining", "this node is draining"))
        return found


def renewal_wait(leaf: PeerIdentity, now: float) -> float:
    """Seconds until a new certificate should be asked for, 0 when it is time.

    One that is not good yet was made while a clock was wrong, and may not be good for a long time: it is replaced at
    once (F32).
    """
    if now < leaf.not_before - limits.CLOCK_TOLERANCE:
        return 0.0
    return max(0.0, renewal_at(leaf) - now)


def longest_retry(leaf: PeerIdentity, now: float) -> float:
    """Until a renewal that failed is tried again, at most, with full jitter: a gateway that is back after everything
    was off has all of its hosts ask at once (F35). Without a good certificate nothing else works."""
    longest = min(limits.RENEWAL_RETRY, _RETRY_SHARE * (leaf.not_after - leaf.not_before))
    return min(longest, limits.RENEWAL_RETRY_ENDED) if leaf.not_after <= now else longest


async def _counted(streams: Awaitable[Sequence[Flow]]) -> int:
    """How many; none when the workers are gone, and with them all that they carried."""
    try:
        return len(await streams)
    except Unavailable as exc:
        log.warning("the data workers could not be asked", reason=exc.what)
        return 0


def raise_descriptor_limit() -> None:
    """A listening socket for every service and a control stream for every host need more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def warning(code: str, text: str, *, severity: str = "warning") -> dict[str, str]:
    return {"code": code, "severity": severity, "text": text}


def _flow_dict(flow: Flow) -> dict[str, Any]:
    return {name: getattr(flow, name) for name in flow.__struct_fields__}


async def listen_on(text: str, mend: str) -> socket.socket:
    """A listening TCP socket on `ADDR:PORT`. The worker of an agent that was just killed may hold the port for a moment
    longer, so it is tried for BIND_PATIENCE.

    Args:
        mend: in words, how another one is chosen.

    Raises:
        Unavailable: it cannot be had; names who holds it, where that can be found out.
    """
    endpoint = parse_endpoint(text, zero_ok=True)
    deadline = trio.current_time() + limits.BIND_PATIENCE
    while True:
        sock = socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((endpoint.host, endpoint.port))
            sock.listen(_BACKLOG)
            return sock
        except OSError as exc:
            sock.close()
            if exc.errno != errno.EADDRINUSE or trio.current_time() > deadline:
                raise _not_listening(exc, text, mend) from None
        await trio.sleep(limits.BIND_RETRY_FIRST / 10)


def _not_listening(exc: OSError, text: str, mend: str) -> Unavailable:
    endpoint = parse_endpoint(text, zero_ok=True)
    what, hint = f"{text} cannot be listened on: {exc.strerror}", mend
    if exc.errno == errno.EADDRINUSE:
        holder = holder_of(endpoint.host, endpoint.port, "tcp")
        what += f" (held by {holder})" if holder else ""
        hint = f"end what holds it, or {mend}"
    elif exc.errno == errno.EADDRNOTAVAIL:
        hint = f"{mend} to an address of this machine, or to 0.0.0.0:{endpoint.port}"
    elif exc.errno == errno.EACCES:
        hint = f"ports under 1024 need root or CAP_NET_BIND_SERVICE; or {mend}"
    return Unavailable(what, hint=hint)
