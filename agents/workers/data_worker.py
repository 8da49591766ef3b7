"""I/O: a data worker: the process that moves bytes. Started by a supervisor, ended with it.

    python -m agents.workers.data_worker FD      FD is its end of the socketpair to the supervisor

It holds the node's TLS identity, the verified snapshot and every tunnel; it decides by itself, so that a supervisor
that is busy stalls nothing that is known. Reads top to bottom: messages in, the loop, what the parts call back.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
import time
from pathlib import Path

import trio

from agents import clock
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed
from agents.workers.inbound import Inbound
from agents.workers.live import LiveFlow
from agents.workers.outbound import Outbound
from agents.workers.pool import Path as GatewayPath
from agents.workers.pool import TunnelPool
from bridge import limits
from bridge.counters import Tally
from bridge.flows import Flow, Result
from bridge.policy.decide import Permit, Refusal
from bridge.policy.permits import PermitCache
from bridge.relay.listener import Listener
from bridge.relay.local import LocalSocket
from bridge.relay.loop import Loop
from bridge.relay.splice import Splice
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Code, Open, Reason, encode_open
from bridge.tunnels.session import Stream
from inventory.authority import AuthorityState
from inventory.errors import AnswerIsNo, MeshError, Unavailable
from inventory.model import Instance
from inventory.names import ServiceName, SpiffeId
from inventory.snapshot import Snapshot

_TURNS_PER_WAKE = 16
"""Turns of the loop before trio's other tasks get a look in, as long as there is something to do."""
_REPORT_INTERVAL = 0.25
_TICK = 1.0
_FLOWS_PER_REPORT = 1000


class DataWorker:
    """Everything one worker owns; the callbacks of pool, inbound and outbound end here."""

    def __init__(self, channel: Channel[m.FromWorker, m.ToWorker], nursery: trio.Nursery, begin: m.Begin) -> None:
        self.name = begin.name
        self.role = begin.role
        self.site = begin.site
        self.trust_domain = begin.trust_domain
        self._shutting_down: str | None = None
        self.snapshot = Snapshot(authority=AuthorityState())
        self._channel = channel
        self._nursery = nursery
        self._permits = PermitCache(self.snapshot)
        self._tally = Tally()
        self._live: set[LocalSocket] = set()
        self._splices: dict[Splice, LiveFlow | int] = {}
        self._loads: dict[str, int] = {}
        self._own: dict[tuple[str, str], Instance] = {}
        self._flows: list[Flow] = []
        self._paths: dict[str, list[trio.MemorySendChannel[m.PathFound | m.PathFailed]]] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._reported: object = None
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._sockets_max = min(limits.STREAMS_PER_PROCESS, max(16, soft - limits.RESERVED_FDS))
        self.loop = Loop(self._crashed)
        me = SpiffeId(begin.trust_domain, "gateway" if begin.role == "gateway" else "host", begin.name)
        identity = Path(begin.home) / "identity.pem"
        self.pool = TunnelPool(self.loop, nursery, self, identity=identity, root=begin.root_certificate, me=me)
        self.inbound = Inbound(self.loop, nursery, self.pool, self)
        self.outbound = Outbound(self.loop, nursery, self.pool, self)

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Sleep on the loop's descriptor, then turn it until it has nothing to do."""
        fd = self.loop.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            for _ in range(_TURNS_PER_WAKE):
                if not self.loop.turn():
                    break

    async def tick(self) -> None:
        while True:
            due = trio.current_time() + _TICK
            await trio.sleep_until(due)
            self._tally.lag(trio.current_time() - due)
            self.loop.now = time.monotonic()
            self.pool.tick()
            self._recheck(clock.now())
            for listener in self._listeners.values():
                listener.resume()
            self.loop.settle()

    async def report(self) -> None:
        """Flow records soon after they end, counters when they changed."""
        quiet = 0
        while True:
            await trio.sleep(_REPORT_INTERVAL)
            quiet += 1
            if self._flows or quiet >= _TICK / _REPORT_INTERVAL:
                quiet = 0
                await self._send_report()

    async def _send_report(self) -> None:
        flows, self._flows = self._flows[:_FLOWS_PER_REPORT], self._flows[_FLOWS_PER_REPORT:]
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
        gateway = sum(1 for t in tunnels if t.via)
        counters = self._tally.take(
            direct_tunnels=len(tunnels) - gateway, gateway_tunnels=gateway, preauth=self.inbound.waiting
        )
        streams = sum(1 for local in self._live if _flow(local).side != "control") + len(self._local_splices())
        shape = (tuple((t.peer, t.role, t.via, t.streams) for t in tunnels), streams)
        if flows or shape != self._reported or counters.services or counters.handshakes or counters.decisions:
            self._reported = shape
            await self._channel.send(
                m.WorkerReport(tunnels=tunnels, streams=streams, counters=counters, flows=tuple(flows))
            )

    async def obey(self) -> None:
        """Messages from the supervisor, in order, until it is gone."""
        while True:
            message, fds = await self._channel.receive()
            await self._obey(message, fds)
            self.loop.settle()

    async def _obey(self, message: m.ToWorker, fds: list[socket.socket]) -> None:
        match message:
            case m.Authority():
                self._authority(message)
            case m.Placement():
                self._placement(message)
            case m.IdentityChanged():
                self.pool.reload_identity()
            case m.Listen():
                self._listen(message, fds[0])
            case m.Unlisten():
                listener = self._listeners.pop((message.address, message.port), None)
                if listener is not None:
                    listener.close()
            case m.ListenTunnels():
                listener = Listener(self.loop, fds[0], self.inbound.connection, self._may_accept)
                self._listeners["@tunnels", 0] = listener
            case m.OpenControl():
                self._nursery.start_soon(self._open_control, message, fds[0])
            case m.Adopt():
                self._nursery.start_soon(self._adopt, message, fds[0])
            case m.PathFound() | m.PathFailed():
                for waiting in self._paths.pop(message.peer, ()):
                    with contextlib.suppress(trio.BrokenResourceError, trio.WouldBlock):
                        waiting.send_nowait(message)
            case m.DialBack():
                self._nursery.start_soon(self._dial_back, message)
            case m.Join():
                self._join(message, fds)
            case m.Unjoin():
                for splice in [s for s, owner in self._splices.items() if owner == message.id]:
                    splice.close(message.reason)
            case m.Drain():
                self._shutting_down = message.reason
                for tunnel in self.pool.all():
                    self.pool.retire(tunnel, f"draining: {message.reason}")
            case m.LeaveGateway():
                for tunnel in self.pool.all():
                    if tunnel.via == message.gateway:
                        self.pool.retire(tunnel, f"gateway {message.gateway} is draining")
            case m.CutAll():
                await self._cut_all(message)
            case m.ListStreams():
                await self._channel.send(m.StreamList(id=message.id, streams=tuple(self._stream_records())))
            case _:
                pass

    # --- what is known --------------------------------------------------------------------------------------------

    def _authority(self, message: m.Authority) -> None:
        self._know(self.snapshot.evolved(authority=message.state, allows=message.allows))
        self.pool.drop_revoked()
        self._recheck(None)

    def _placement(self, message: m.Placement) -> None:
        self._know(
            self.snapshot.evolved(
                presence=message.presence,
                reported=message.reported,
                health=message.health,
                revision=message.revision,
            )
        )

    def _know(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._permits.update(snapshot)
        self._own = {(i.service, i.target): i for i in snapshot.offers(self.name)}
        host = snapshot.host(self.name)
        if host is not None:
            self.site = host.site

    def _recheck(self, due: float | None) -> None:
        """Decide every live permit again (those whose time has come, when `due` is given); cut the streams that lost
        theirs. Streams refused here are ended here, whatever the other end thinks."""
        for local in list(self._live):
            flow = _flow(local)
            if flow.permit is None or (due is not None and (flow.permit.expires_at or due + 1) > due):
                continue
            lost = self._lost(flow)
            if lost is not None:
                local.abort(Code.CUT, "cut", lost)
        for splice, owner in list(self._splices.items()):
            if isinstance(owner, LiveFlow) and owner.permit is not None and (lost := self._lost(owner)) is not None:
                splice.close(f"cut: {lost}")

    def _lost(self, flow: LiveFlow) -> str | None:
        decision = self._permits.get(flow.subject, flow.service, flow.user, clock.now())
        if isinstance(decision, Permit):
            flow.permit = decision
            return None
        return decision.reason

    @property
    def draining(self) -> str | None:
        """Why there are no new streams: this process ends, or the operator drains the host."""
        host = self.snapshot.host(self.name)
        return self._shutting_down or (host.draining if host is not None else None)

    def judge(self, flow: LiveFlow) -> Refusal | None:
        decision = self._permits.get(flow.subject, flow.service, flow.user, clock.now())
        flow.observed = decision.observed
        if decision.observed:
            self._tally.decision("observe")
        if isinstance(decision, Permit):
            if self.draining is not None and flow.side == "source":
                reason = f"{self.name} is draining: {self.draining}"
                return Refusal(rule=None, reason=reason, subject=flow.subject, service=flow.service)
            flow.permit = decision
            self._tally.decision("allow")
            return None
        self._tally.decision("deny")
        return decision

    def needs_user(self, flow: LiveFlow) -> bool:
        return self._permits.get(flow.subject, flow.service, None, clock.now()).needs_user

    def own_instance(self, service: str, target: str) -> Instance | None:
        return self._own.get((service, target))

    def is_revoked(self, spiffe_id: str, key: str) -> str | None:
        """Why this peer is not welcome: revoked, or a host that we were not told of (removed, or no rule joins us)."""
        revoked = self.snapshot.is_revoked(spiffe_id, key)
        if revoked is not None:
            return revoked
        _, _, host = spiffe_id.partition(f"spiffe://{self.trust_domain}/host/")
        return f"host {host} is not known here" if host and self.snapshot.host(host) is None else None

    def advertised(self, host: str) -> str | None:
        presence = self.snapshot.presence.get(host)
        return presence.advertise if presence is not None else None

    def load_of(self, instance_id: str) -> int:
        return self._loads.get(instance_id, 0)

    # --- listening ------------------------------------------------------------------------------------------------

    def _may_accept(self) -> bool:
        return len(self._live) + self.inbound.waiting < self._sockets_max

    def _listen(self, message: m.Listen, sock: socket.socket) -> None:
        name = ServiceName(message.service, message.site)

        def accepted(connection: socket.socket, address: object) -> None:
            self.outbound.connection(name, connection, address)

        self._listeners[message.address, message.port] = Listener(self.loop, sock, accepted, self._may_accept)

    # --- paths and control ----------------------------------------------------------------------------------------

    async def find_path(self, host: str) -> GatewayPath:
        """Ask for a way through a gateway. Raises Unavailable."""
        send, receive = trio.open_memory_channel[m.PathFound | m.PathFailed](1)
        self._paths.setdefault(host, []).append(send)
        await self._channel.send(m.PathNeeded(peer=host))
        with trio.move_on_after(limits.PATH_TIMEOUT):
            answer = await receive.receive()
            if isinstance(answer, m.PathFound):
                return GatewayPath(answer.gateway, answer.address, answer.ticket)
            raise Unavailable(answer.reason)
        raise Unavailable(f"no path was offered within {limits.PATH_TIMEOUT:.0f} s")

    async def _dial_back(self, message: m.DialBack) -> None:
        path = GatewayPath(message.gateway, message.address, message.ticket)
        try:
            await self.pool.dial_back(message.peer, path)
        except MeshError as exc:
            self.notice("dial-back-failed", f"{message.peer} through {message.gateway}: {exc.what}")

    async def _open_control(self, message: m.OpenControl, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            tunnel = await self.pool.gateway(message.gateway, message.address)
            if not tunnel.is_usable:
                raise Unavailable("the tunnel ended at once")
            flow = self.outbound.flow_for_control()
            local = LocalSocket(self.loop, sock, self, flow)
            self._live.add(local)
            local.open(tunnel, encode_open(Open(service="@control")))
            self.loop.settle()
        except MeshError as exc:
            sock.close()
            await self._channel.send(m.ControlEnded(gateway=message.gateway, reason=exc.what))

    async def _adopt(self, message: m.Adopt, sock: socket.socket) -> None:
        sock.setblocking(False)
        error: MeshError | None = None
        try:
            await self.outbound.adopt(ServiceName(message.service, message.site), sock, message.user)
        except MeshError as exc:
            error = exc
        await self._channel.send(
            m.Adopted(
                id=message.id,
                error=error.what if error else "",
                hint=error.hint if error else "",
                denied=isinstance(error, AnswerIsNo),
            )
        )

    async def guest(self, sock: socket.socket, remote: str) -> None:
        await self._channel.send(m.Guest(remote=remote), [sock.fileno()])
        sock.close()

    async def control(self, sock: socket.socket, tunnel: Tunnel, remote: str) -> None:
        peer = tunnel.peer
        message = m.ControlStream(spiffe_id=str(peer.spiffe), key=peer.key, remote=remote, not_after=peer.not_after)
        await self._channel.send(message, [sock.fileno()])
        sock.close()

    def _join(self, message: m.Join, fds: list[socket.socket]) -> None:
        try:
            splice = Splice(self.loop, fds[0], fds[1], self.splice_ended)
        except OSError as exc:
            for sock in fds:
                sock.close()
            self._nursery.start_soon(self._channel.send, m.Unjoined(id=message.id, moved=0, reason=str(exc)))
            return
        self._splices[splice] = message.id

    # --- what becomes of streams ----------------------------------------------------------------------------------

    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None:
        self.inbound.open(tunnel, stream, wish)

    def tunnel_gone(self, tunnel: Tunnel, reason: str) -> None:
        self.inbound.tunnel_gone(tunnel)
        if reason not in ("closed", "idle"):
            self.notice("tunnel-ended", f"{tunnel.peer.spiffe}: {reason}")

    def live(self, local: LocalSocket) -> None:
        if local not in self._live:
            self._live.add(local)
            flow = _flow(local)
            if flow.instance:
                self._loads[flow.instance] = self._loads.get(flow.instance, 0) + 1

    def not_live(self, flow: LiveFlow, result: str, reason: str, rule: str | None) -> None:
        self._tally.stream_not_opened(flow.service, _result(result))
        self._record(flow.record(now=self.loop.now, result=_result(result), reason=reason, rule=rule))

    def local_connected(self, local: LocalSocket) -> None:
        self._accepted(_flow(local))

    def local_accepted(self, local: LocalSocket) -> None:
        flow = _flow(local)
        if flow.side == "source":
            self.outbound.accepted(flow)
        self._accepted(flow)

    def _accepted(self, flow: LiveFlow) -> None:
        flow.accepted = self.loop.now
        if flow.settled is not None:
            flow.settled.set()
        if flow.side != "control":
            self._tally.stream_opened(flow.service, flow.accepted - flow.began)

    def local_connect_failed(self, local: LocalSocket, error: int) -> None:
        flow = _flow(local)
        target = flow.instance.rpartition("/")[2]
        local.refuse(Code.CONNECT_FAILED, f"connect to {target} failed: {os.strerror(error)}")

    def local_refused(self, local: LocalSocket, reason: Reason) -> None:
        flow = _flow(local)
        if flow.side == "control":
            local.abort(Code.NO_ERROR, "refused", reason.reason)
        else:
            self.outbound.refused(local, flow, reason)

    def local_ended(self, local: LocalSocket, result: str, reason: str) -> None:
        self._live.discard(local)
        flow = _flow(local)
        if flow.settled is not None:
            if flow.accepted is None and flow.failure is None:
                flow.failure = Unavailable(reason or "it ended before it was accepted")
            flow.settled.set()
        if flow.side == "control":
            return
        to_service, from_service = local.bytes_out, local.bytes_in
        if flow.side == "destination":
            to_service, from_service = from_service, to_service
        self._ended(flow, _result(result), reason, to_service, from_service)

    def splice_live(self, splice: Splice, flow: LiveFlow) -> None:
        self._splices[splice] = flow
        self._live_splice_counted(flow)

    def _live_splice_counted(self, flow: LiveFlow) -> None:
        self._tally.stream_opened(flow.service, (flow.accepted or flow.began) - flow.began)

    def splice_ended(self, splice: Splice, reason: str) -> None:
        owner = self._splices.pop(splice, None)
        if isinstance(owner, LiveFlow):
            result = "cut" if reason.startswith("cut: ") else "failed" if reason else "ok"
            self._ended(owner, _result(result), reason, *splice.moved_each_way)
        elif owner is not None:
            self._nursery.start_soon(self._channel.send, m.Unjoined(id=owner, moved=splice.moved, reason=reason))

    def _ended(self, flow: LiveFlow, result: Result, reason: str, to_service: int, from_service: int) -> None:
        if flow.instance in self._loads:
            self._loads[flow.instance] -= 1
            if self._loads[flow.instance] <= 0:
                del self._loads[flow.instance]
        if flow.accepted is None:
            self._tally.stream_not_opened(flow.service, result)
        else:
            self._tally.moved(flow.service, bytes_in=to_service, bytes_out=from_service)
            self._tally.stream_closed(flow.service, result)
        self._record(
            flow.record(now=self.loop.now, result=result, reason=reason, bytes_in=to_service, bytes_out=from_service)
        )

    def _record(self, flow: Flow) -> None:
        if len(self._flows) < limits.FLOWS_KEPT:
            self._flows.append(flow)

    def _local_splices(self) -> list[LiveFlow]:
        return [owner for owner in self._splices.values() if isinstance(owner, LiveFlow)]

    def _stream_records(self) -> list[Flow]:
        """Live streams as flow records so far; their result says "ok" because nothing has gone wrong yet."""
        records = []
        for local in self._live:
            flow = _flow(local)
            if flow.side != "control":
                ways = (local.bytes_out, local.bytes_in)
                to_service, from_service = ways if flow.side == "source" else ways[::-1]
                records.append(
                    flow.record(now=self.loop.now, result="ok", reason="", bytes_in=to_service, bytes_out=from_service)
                )
        records += [flow.record(now=self.loop.now, result="ok", reason="") for flow in self._local_splices()]
        return sorted(records, key=lambda record: record.ts)

    async def _cut_all(self, message: m.CutAll) -> None:
        records = self._stream_records()
        for local in list(self._live):
            if _flow(local).side != "control":
                local.abort(Code.DRAINING, "cut", message.reason)
        for splice, owner in list(self._splices.items()):
            if isinstance(owner, LiveFlow):
                splice.close(f"cut: {message.reason}")
        self.loop.settle()
        await self._channel.send(m.StreamList(id=message.id, streams=tuple(records), cut=len(records)))

    # --- the rest -------------------------------------------------------------------------------------------------

    def notice(self, event: str, text: str) -> None:
        self._nursery.start_soon(self._notice, event, text)

    async def _notice(self, event: str, text: str) -> None:
        with contextlib.suppress(ChannelClosed):
            await self._channel.send(m.Notice(event=event, text=text[: limits.LOG_LINE_MAX]))

    def _crashed(self, error: BaseException) -> None:
        where = ""
        if error.__traceback__ is not None:
            frame = error.__traceback__
            while frame.tb_next is not None:
                frame = frame.tb_next
            where = f" at {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
        self.notice("internal-error", f"one connection was ended by {type(error).__name__}: {error}{where}")


def _flow(local: LocalSocket) -> LiveFlow:
    assert isinstance(local.context, LiveFlow)
    return local.context


def _result(word: str) -> Result:
    return word  # type: ignore[return-value]


async def run(fd: int) -> None:
    """Serve the supervisor at the other end of `fd` until it is gone."""
    channel: Channel[m.FromWorker, m.ToWorker] = Channel(socket.socket(fileno=fd), m.ToWorker)
    begin, _ = await channel.receive()
    assert isinstance(begin, m.Begin)
    try:
        async with trio.open_nursery() as nursery:
            worker = DataWorker(channel, nursery, begin)
            await channel.send(m.Started(pid=os.getpid()))
            nursery.start_soon(worker.drive)
            nursery.start_soon(worker.tick)
            nursery.start_soon(worker.report)
            await worker.obey()
    except* ChannelClosed:
        pass  # the supervisor is gone: so is our reason to be


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    trio.run(run, int(sys.argv[1]))


if __name__ == "__main__":
    main()
