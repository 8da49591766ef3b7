"""I/O: a data worker: a process that moves bytes. Started by a supervisor, ended with it.

    python -m agents.workers.data_worker FD PAGE     its end of the socketpair to the supervisor, and the shared page

It holds the node's TLS identity, the verified snapshot and every tunnel; it decides by itself, so that a supervisor
that is busy stalls nothing that is known. Reads top to bottom: messages in, the loop, what the parts call back.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

from agents.guards import must_pass
from agents.loop_lag import watch_lag
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from agents.workers.client_tls import ClientTls
from agents.workers.inbound import Inbound, why_silenced
from agents.workers.last_hop import place_in
from agents.workers.live import LiveFlow
from agents.workers.notices import Notices
from agents.workers.offered import Offered
from agents.workers.outbound import Outbound
from agents.workers.placement import changed, placed
from agents.workers.pool import Path as GatewayPath
from agents.workers.pool import TunnelPool, tune, tune_outer
from agents.workers.published import Published
from agents.workers.shares import Kind, Shares
from agents.workers.slots import Slots
from agents.workers.streams import Streams
from agents.workers.targets import Targets
from agents.workers.tasks import Tasks
from bridge import limits
from bridge.counters import Tally
from bridge.errors import ends_the_process
from bridge.lines import plain
from bridge.memory import Returner
from bridge.relay.host_loop import run_with_guest
from bridge.relay.listener import Listener
from bridge.relay.local import LocalSocket
from bridge.relay.loop import Loop
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Open, Reason, encode_open
from bridge.tunnels.session import Stream
from inventory.authority import AuthorityState
from inventory.errors import AnswerIsNo, MeshError, Unavailable
from inventory.imports import place_of
from inventory.model import Instance
from inventory.names import ServiceName, SpiffeId
from inventory.snapshot import Snapshot

_GC_THRESHOLD = 20_000
"""Objects made and not freed again between two looks for cycles: a few milliseconds of new connections."""
_REPORT_INTERVAL = 0.25
_TICK = 1.0
_FLOWS_PER_REPORT = 1000


class DataWorker:
    """Everything one worker owns; the callbacks of pool, inbound and outbound end here."""

    def __init__(
        self, loop: Loop, channel: Channel[m.FromWorker, m.ToWorker], nursery: trio.Nursery, begin: m.Begin,
        shares: Shares,
    ) -> None:  # fmt: skip
        self.name = begin.name
        self.role = begin.role
        self.site = begin.site
        self.place = place_of(begin.name) if begin.role == "gateway" else begin.name
        """The `host` of our own instances. A host may have the name of a gateway, and is somebody else (C07)."""
        self.trust_domain = begin.trust_domain
        self._shutting_down: str | None = None
        self._retired = False
        self._controls: dict[Tunnel, str] = {}
        """Tunnels that carry a control stream of ours, and to which gateway."""
        self.snapshot = Snapshot(authority=AuthorityState())
        self._channel = channel
        self._shares = shares
        self._nursery = nursery
        self._tally = Tally()
        self.offered = Offered(self.place, begin.name if begin.role == "gateway" else "")
        self.ssh_channels = place_in(Path(begin.home))
        self._paths: dict[str, list[trio.MemorySendChannel[m.PathFound | m.PathFailed]]] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._stepped_back: list[Listener] = []
        """Listeners that let other workers go first."""
        self._dial_backs = 0
        self._notices = Notices(nursery, channel)
        self._memory = Returner()
        self._reported: object = None
        self._reported_at = -math.inf
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._sockets_max = min(limits.STREAMS_PER_PROCESS, max(16, soft - limits.RESERVED_FDS))
        self.loop = loop
        loop.on_crash = self._crashed
        self._tasks = Tasks(nursery, self._crashed)
        self.targets = Targets()
        self.slots = Slots(channel)
        self.streams = Streams(self.loop, self, self._tally, self.snapshot, slots=self.slots)
        me = SpiffeId(begin.trust_domain, "gateway" if begin.role == "gateway" else "host", begin.name)
        identity = Path(begin.home) / "identity.pem"
        self.pool = TunnelPool(
            self.loop, nursery, self, identity=identity, root=begin.root_certificate, me=me, count=self._tally.handshake
        )
        self.inbound = Inbound(self.loop, self._tasks, self.pool, self.streams, self)
        self.outbound = Outbound(self.loop, self._tasks, self.pool, self.streams, self)
        self._client_tls = ClientTls(identity)
        self.published = Published(
            self.loop, self._tasks, self.streams, self.outbound, self._tally, self._client_tls, self
        )

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        while True:
            await trio.sleep(_TICK)
            self.loop.now = time.monotonic()
            steps = (self.pool.tick, self.streams.tick, self._resume_listeners, self._publish, self.loop.settle)
            for step in (self._retire_tunnels, *steps) if self._retired else steps:
                self._guarded(step)
            self._memory.look(self.loop.buffered)

    def _resume_listeners(self) -> None:
        for listener in self._listeners.values():
            self.loop.guarded(listener, listener.resume)

    def _guarded(self, step: Callable[[], object]) -> None:
        """What is done now and then fails for itself, and is tried again."""
        try:
            step()
        except BaseException as exc:
            if ends_the_process(exc):
                raise
            self._crashed(exc)

    async def report(self) -> None:
        """Flow records soon after they end, counters when they changed."""
        quiet = 0
        while True:
            await trio.sleep(_REPORT_INTERVAL)
            self._publish()
            quiet += 1
            if self.streams.has_records or quiet >= _TICK / _REPORT_INTERVAL:
                quiet = 0
                try:
                    await self._send_report()
                except ChannelClosed:
                    raise
                except BaseException as exc:
                    if must_pass(exc):
                        raise
                    self._crashed(exc)

    async def _send_report(self) -> None:
        flows = self.streams.take_records(_FLOWS_PER_REPORT)
        tunnels = tuple(
            m.TunnelState(
                peer=t.peer.spiffe.name,
                role=t.peer.spiffe.role,
                via=t.via,
                streams=len(t.session.streams),
                age=round(self.loop.now - t.opened_at),
                remote_certificate_ends=t.peer.not_after,
            )
            for t in self.pool.all()
        )
        streams = self.streams.count
        behind = self.streams.count_by_host() if self.offered.is_any_behind else {}
        shape = (tuple((t.peer, t.role, t.via, t.streams) for t in tunnels), streams, behind)
        now = trio.current_time()
        # What is taken from the tally has to be sent, or it would be counted nowhere.
        if flows or shape != self._reported or self._tally.has_news or now - self._reported_at > limits.REPORT_QUIET:
            self._reported, self._reported_at = shape, now
            gateway = sum(1 for t in tunnels if t.via)
            counters = self._tally.take(
                direct_tunnels=len(tunnels) - gateway,
                gateway_tunnels=gateway,
                preauth=self.inbound.waiting,
                turns=self.loop.turns,
            )
            report = m.WorkerReport(tunnels=tunnels, streams=streams, counters=counters, flows=flows, behind=behind)
            await self._channel.send(report)

    async def obey(self) -> None:
        """Messages from the supervisor, in order, until it is gone."""
        while True:
            try:
                message, fds = await self._channel.receive()
            except ChannelClosed:
                await self._left_alone()
                raise
            if len(fds) < message.fds:
                await self._without_descriptors(message)
                continue
            try:
                await self._obey(message, fds)
            except ChannelClosed:
                raise
            except BaseException as exc:
                if must_pass(exc):
                    raise
                if isinstance(message, m.Authority | m.Placement | m.PlacementChanged):
                    raise  # better no worker than one that works from what is no longer so
                self._crashed(exc)
            self.loop.settle()

    async def _without_descriptors(self, message: m.ToWorker) -> None:
        """This process had none left when the message came (F29)."""
        reason = "the data worker is out of descriptors"
        match message:
            case m.OpenControl():
                await self._channel.send(m.ControlEnded(gateway=message.gateway, reason=reason))
            case m.Adopt():
                await self._channel.send(m.Adopted(id=message.id, error=reason))
            case m.Join():
                await self._channel.send(m.Unjoined(id=message.id, moved=0, reason=reason))
            case _:
                self.notice("out-of-descriptors", f"a socket for {type(message).__name__.lower()} was lost")

    async def _obey(self, message: m.ToWorker, fds: list[socket.socket]) -> None:
        match message:
            case m.Authority():
                self._authority(message)
            case m.Placement():
                self._know(placed(self.snapshot, message))
            case m.PlacementChanged():
                self._know(changed(self.snapshot, message))
            case m.IdentityChanged():
                self.pool.reload_identity()
                self._client_tls.reload()
            case m.Listen():
                self._listen(message, fds[0])
            case m.ListenPublished():
                tune_outer(fds[0])
                self._serve((message.address, message.port), fds[0], self.published.taker(message), "streams")
            case m.Unlisten():
                listener = self._listeners.pop((message.address, message.port), None)
                if listener is not None:
                    listener.close()
            case m.ListenTunnels():
                self._serve(("@tunnels", 0), fds[0], self.inbound.connection, "tunnels")
            case m.OpenControl():
                self._tasks.start_soon(self._open_control, message, fds[0])
            case m.AdoptForwarded():
                self.published.forwarded(message, fds[0], fds[1])
            case m.Adopt():
                self._tasks.start_soon(self._adopt, message, fds[0])
            case m.PathFound() | m.PathFailed():
                for waiting in list(self._paths.get(message.peer, ())):
                    with contextlib.suppress(trio.BrokenResourceError, trio.WouldBlock):
                        waiting.send_nowait(message)
            case m.DialBack():
                self._tasks.start_soon(self._dial_back, message)
            case m.Join():
                self.streams.join_path(message.id, *fds)
            case m.Unjoin():
                self.streams.end_path(message.id, message.reason)
            case m.Drain():
                self._shutting_down = message.reason
                for tunnel in self.pool.all():
                    self.pool.retire(tunnel, f"draining: {message.reason}")
            case m.LeaveGateway():
                for tunnel in self.pool.all():
                    if tunnel.via == message.gateway:
                        self.pool.retire(tunnel, f"gateway {message.gateway} {message.reason}")
            case m.Retire():
                self._retire()
            case m.CutAll():
                records = tuple(self.streams.cut_all(message.reason, message.host))
                self.loop.settle()
                await self._send_records()
                await self._channel.send(m.StreamList(id=message.id, streams=records, cut=len(records)))
            case m.SlotGiven():
                self.slots.given(message.id)
            case m.SlotRefused():
                self.slots.refused(message.id, message.reason)
            case m.ListStreams():
                await self._send_records()
                streams = (*self.streams.records(), *self.published.last_words())
                await self._channel.send(m.StreamList(id=message.id, streams=streams))
            case _:
                pass

    async def _send_records(self) -> None:
        """Who is told which streams are open, or cut, has their records before: it may end with the answer."""
        while self.streams.has_records:
            await self._send_report()

    # --- what is known --------------------------------------------------------------------------------------------

    def _authority(self, message: m.Authority) -> None:
        snapshot = self.snapshot.evolved(authority=message.state, allows=message.allows)
        gone = self.offered.gone(snapshot)
        self._know(snapshot)
        # In this order the records say most: why a peer is revoked, then which rule let go of a stream, then the rest.
        self.pool.drop_revoked()
        self.streams.cut_hosts(gone)
        self.streams.cut_where(lambda flow: why_silenced(snapshot, flow))
        self.streams.recheck()
        self.published.know(snapshot)
        self.pool.drop_strangers()

    def _know(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.streams.know(snapshot)
        if self.offered.know(snapshot):
            self.targets.know(self.offered.targets)
        host = snapshot.host(self.place)
        if host is not None:
            self.site = host.site

    @property
    def draining(self) -> str | None:
        """Why no new streams begin here: this process ends, or the operator drains the host."""
        host = self.snapshot.host(self.place)
        return self._shutting_down or (host.why_silent if host is not None else None)

    def why_draining(self, instance: Instance) -> str | None:
        host = self.snapshot.host(instance.host)
        return self.draining or instance.draining or (host.draining if host is not None else None)

    def is_revoked(self, spiffe_id: str, key: str) -> str | None:
        return self.snapshot.is_revoked(spiffe_id, key)

    def is_stranger(self, peer: SpiffeId) -> bool:
        if peer.role == "gateway":
            return not self.snapshot.speaks(peer.name)
        return not self.snapshot.has_agent(peer.name)

    def advertised(self, host: str) -> str | None:
        presence = self.snapshot.presence.get(host)
        return presence.advertise if presence is not None else None

    # --- listening ------------------------------------------------------------------------------------------------

    def may_accept(self) -> bool:
        waiting = self.inbound.waiting + self.outbound.waiting + self.published.sockets
        return self.streams.descriptors + waiting < self._sockets_max

    def _listen(self, message: m.Listen, sock: socket.socket) -> None:
        name = ServiceName(message.service, message.site)

        def accepted(connection: socket.socket, address: object) -> None:
            self.outbound.connection(name, connection, address)

        tune(sock)  # what is accepted inherits it (tcp(7)), so that no connection pays for it
        self._serve((message.address, message.port), sock, accepted, "streams")

    def _serve(
        self, place: tuple[str, int], sock: socket.socket, take: Callable[[socket.socket, object], None], kind: Kind
    ) -> None:
        before = self._listeners.pop(place, None)
        if before is not None:
            before.close()

        def accepted(connection: socket.socket, address: object) -> None:
            take(connection, address)
            self._publish()

        self._listeners[place] = Listener(
            self.loop, sock, accepted, self.may_accept, lambda: self._is_ahead(kind), self._step_back
        )
        self._publish()

    def _publish(self) -> None:
        streams = self.streams.descriptors + self.outbound.waiting
        tunnels = self.pool.count + self.inbound.waiting
        self._shares.publish(accepts=bool(self._listeners), streams=streams, tunnels=tunnels)

    def _is_ahead(self, kind: Kind) -> bool:
        self._publish()
        return self._shares.is_ahead(kind)

    def _step_back(self, listener: Listener) -> None:
        self._stepped_back.append(listener)
        if len(self._stepped_back) == 1:
            self._tasks.start_soon(self._take_late)

    async def _take_late(self) -> None:
        await trio.sleep(limits.ACCEPT_GRACE)
        listeners, self._stepped_back = self._stepped_back, []
        for listener in listeners:
            listener.take_late()
        self.loop.settle()

    async def _left_alone(self) -> None:
        """The supervisor says nothing more. If it still listens, it is another version now and has workers of its own:
        end with the last stream. Returns when it is gone."""
        while not self._channel.is_gone:
            self._retire()
            await trio.sleep(limits.RETIRE_LOOK)

    # --- ending while others take over --------------------------------------------------------------------------

    def _retire(self) -> None:
        """The listening sockets live on in the others, and with them every connection that waits."""
        if self._retired:
            return
        self._retired = True
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._publish()
        self._retire_tunnels()
        self._tasks.start_soon(self._end_when_empty)

    def _retire_tunnels(self) -> None:
        """Those, too, that were still being made when the others took over."""
        for tunnel in self.pool.all():
            self.pool.retire(tunnel, "another worker takes over")

    async def _end_when_empty(self) -> None:
        looks = 0
        while looks < 2:  # what is on its way from one list to another is in one of them at the second look
            await trio.sleep(limits.RETIRE_LOOK)
            looks = looks + 1 if self._is_empty else 0
        await self._send_records()
        self._reported = None  # the last one in any case, with all that was counted
        await self._send_report()
        self._nursery.cancel_scope.cancel()

    @property
    def _is_empty(self) -> bool:
        waiting = self.inbound.waiting + self.outbound.waiting + self.published.sockets + self._dial_backs
        return not (self.streams.descriptors or waiting or self.pool.is_busy)

    # --- paths and control ----------------------------------------------------------------------------------------

    async def find_path(self, host: str, avoid: tuple[str, ...]) -> GatewayPath:
        """Ask for a way through a gateway. Raises Unavailable."""
        send, receive = trio.open_memory_channel[m.PathFound | m.PathFailed](1)
        waiting = self._paths.setdefault(host, [])
        waiting.append(send)
        try:
            await self._channel.send(m.PathNeeded(peer=host, avoid=avoid))
            with trio.move_on_after(limits.PATH_TIMEOUT):
                answer = await receive.receive()
                if isinstance(answer, m.PathFound):
                    return GatewayPath(answer.gateway, answer.address, answer.ticket, answer.is_only)
                raise Unavailable(answer.reason)
            raise Unavailable(f"no path was offered within {limits.PATH_TIMEOUT:.0f} s")
        finally:
            waiting.remove(send)
            if not waiting and self._paths.get(host) is waiting:
                del self._paths[host]

    async def _dial_back(self, message: m.DialBack) -> None:
        path = GatewayPath(message.gateway, message.address, message.ticket)
        about = f"{plain(message.peer)} through {message.gateway}"
        if self._dial_backs >= limits.PATHS_ASKED_MAX:
            self.notice("dial-back-failed", f"{about}: {self._dial_backs} others are under way")
            return
        self._dial_backs += 1
        try:
            await self.pool.dial_back(message.peer, path, message.role)
        except MeshError as exc:
            self.notice("dial-back-failed", f"{about}: {exc.what}")
        finally:
            self._dial_backs -= 1

    async def _open_control(self, message: m.OpenControl, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            tunnel = await self.pool.gateway(message.gateway, message.address)
            if not tunnel.is_usable:
                raise Unavailable("the tunnel ended at once")
            flow = self.outbound.flow_for_control()
            local = LocalSocket(self.loop, sock, self.streams, flow)
            self.streams.live(local)
            local.open(tunnel, encode_open(Open(service="@control")))
            self._controls[tunnel] = message.gateway
            self.loop.settle()
        except MeshError as exc:
            sock.close()
            await self._channel.send(m.ControlEnded(gateway=message.gateway, reason=exc.what))
        except BaseException:
            sock.close()
            raise

    async def _adopt(self, message: m.Adopt, sock: socket.socket) -> None:
        sock.setblocking(False)
        error: MeshError | None = None
        try:
            await self.outbound.adopt(ServiceName(message.service, message.site), sock, message.user)
        except MeshError as exc:
            error = exc
        except BaseException as exc:
            if must_pass(exc):
                raise
            sock.close()
            error = Unavailable(f"internal error: {type(exc).__name__}")
            self._crashed(exc)
        await self._channel.send(
            m.Adopted(
                id=message.id,
                error=error.what if error else "",
                hint=error.hint if error else "",
                denied=isinstance(error, AnswerIsNo),
            )
        )

    async def guest(self, sock: socket.socket, remote: str, waited: float) -> None:
        await self._channel.send(m.Guest(remote=remote, waited=waited), [sock.fileno()])
        sock.close()

    async def control(self, sock: socket.socket, tunnel: Tunnel, remote: str) -> None:
        peer = tunnel.peer
        message = m.ControlStream(spiffe_id=str(peer.spiffe), key=peer.key, remote=remote, not_after=peer.not_after)
        await self._channel.send(message, [sock.fileno()])
        sock.close()

    # --- what tunnels and streams tell us -------------------------------------------------------------------------

    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None:
        self.inbound.open(tunnel, stream, wish)

    def tunnel_gone(self, tunnel: Tunnel, reason: str) -> None:
        self.inbound.tunnel_gone(tunnel)
        self._controls.pop(tunnel, None)
        if reason not in ("closed", "idle"):
            self.notice("tunnel-ended", f"{tunnel.peer.spiffe}: {reason}")

    def tunnel_leaving(self, tunnel: Tunnel) -> None:
        gateway = self._controls.get(tunnel)
        if gateway is not None:
            self._tasks.start_soon(self._channel.send, m.GatewayLeaves(gateway=gateway))

    def stream_accepted(self, flow: LiveFlow) -> None:
        self.outbound.accepted(flow)

    def stream_refused(self, local: LocalSocket, flow: LiveFlow, reason: Reason) -> None:
        self.outbound.refused(local, flow, reason)

    def path_ended(self, path_id: int, moved: int, reason: str) -> None:
        self._tasks.start_soon(self._channel.send, m.Unjoined(id=path_id, moved=moved, reason=reason))

    # --- the rest -------------------------------------------------------------------------------------------------

    def notice(self, event: str, text: str) -> None:
        self._notices.say(event, text)

    async def watch(self) -> None:
        await watch_lag(self._tally.lag)

    def _crashed(self, error: BaseException) -> None:
        self._tally.errors += 1
        self._notices.crashed(error)


async def run(loop: Loop, fd: int, page: int) -> None:
    """Serve the supervisor at the other end of `fd` until it is gone, as a guest of `loop`; `page` is the shared one's
    descriptor."""
    channel: Channel[m.FromWorker, m.ToWorker] = Channel(socket.socket(fileno=fd), m.ToWorker)
    begin, _ = await channel.receive()
    assert isinstance(begin, m.Begin)
    try:
        async with trio.open_nursery() as nursery:
            try:
                worker = DataWorker(loop, channel, nursery, begin, Shares(page, begin.row))
            except MeshError as exc:
                await channel.send(m.Notice(event="worker-cannot-start", text=str(exc)))
                return
            await channel.send(m.Started(pid=os.getpid()))
            nursery.start_soon(worker.targets.run)
            nursery.start_soon(worker.tick)
            nursery.start_soon(worker.slots.run)
            nursery.start_soon(worker.report)
            nursery.start_soon(worker.watch)
            await worker.obey()
    except* ChannelClosed:
        pass  # the supervisor is gone: so is our reason to be


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # What is loaded by now stays, and streams leave no cycles behind: looking for some at every 700th new object cost
    # up to a tenth of all the time spent.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    loop = Loop()
    run_with_guest(loop, run, loop, int(sys.argv[1]), int(sys.argv[2]))


if __name__ == "__main__":
    main()
