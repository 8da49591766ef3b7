"""I/O: what comes in from peers: connections before they have proved anything, and the streams they open afterwards.

The destination decides: every OPEN is judged here by the signed policy, whatever the source decided before.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from agents import clock
from agents.guards import must_pass
from agents.workers.dialled import check_address
from agents.workers.last_hop import LastHopRefused, ask
from agents.workers.live import LiveFlow
from agents.workers.offered import Offered
from agents.workers.own_targets import preamble
from agents.workers.pool import TunnelPool, expect_reading, tune, tune_outer
from agents.workers.slots import Slots
from agents.workers.streams import Streams
from agents.workers.targets import Targets
from agents.workers.tasks import Tasks
from bridge import limits
from bridge.errors import PeerError
from bridge.policy.decide import Subject, parse_subject_name
from bridge.relay.local import LocalSocket
from bridge.relay.loop import Loop
from bridge.relay.tunnel import Tunnel
from bridge.relay.witnessed import WitnessedSocket
from bridge.tunnels.frames import Code, Open
from bridge.tunnels.handshake import receive_some
from bridge.tunnels.session import Stream
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.errors import AnswerIsNo, InputError, Unavailable
from inventory.model import Instance
from inventory.names import SpiffeId, shown
from inventory.snapshot import Snapshot

CONTROL = "@control"
_TLS = b"\x16"
_PREFACE = b"M"


class InboundOwner(Protocol):
    """The worker, as far as what comes in needs it."""

    name: str
    role: str
    targets: Targets
    snapshot: Snapshot
    offered: Offered
    ssh_channels: Path
    slots: Slots

    @property
    def draining(self) -> str | None: ...
    def why_draining(self, instance: Instance) -> str | None:
        """Why it takes no new streams; None when it does."""

    async def guest(self, sock: socket.socket, remote: str, waited: float) -> None:
        """A connection with a preface, unread, for the supervisor; it has been open for `waited` seconds."""

    async def control(self, sock: socket.socket, tunnel: Tunnel, remote: str) -> None:
        """The supervisor's end of a control stream."""

    def notice(self, event: str, text: str) -> None: ...


def subject_of(snapshot: Snapshot, peer: SpiffeId, said: str | None) -> Subject:
    """Pure: for whom a peer asks: a host for itself, a gateway for those that the signed log lets it speak for.

    Raises:
        AnswerIsNo: it may not (C07, C10).
    """
    if peer.role == "host":
        if said is not None:
            raise AnswerIsNo(f"host {peer.name} may speak for itself only, not for {shown(said)}")
        return Subject("host", peer.name)
    if said is None or peer.role != "gateway":
        # The policy's subjects are hosts and clients: a gateway of the same name is somebody else (C07).
        raise AnswerIsNo(f"role {peer.role} may not open a stream to a service")
    try:
        subject = parse_subject_name(said)
    except InputError as exc:
        raise AnswerIsNo(exc.what) from None
    speaks = snapshot.speaks_for_client if subject.kind == "client" else snapshot.speaks_for_host
    if str(subject) != said or not speaks(peer.name, subject.name):
        raise AnswerIsNo(f"gateway {peer.name} may not speak for {shown(said)}")
    return subject


def why_silenced(snapshot: Snapshot, flow: LiveFlow) -> str | None:
    """Pure: why the gateway on whose word a stream was opened may not give it any more; None when it may."""
    if flow.speaker is None:
        return None
    speaks = snapshot.speaks_for_client if flow.subject.kind == "client" else snapshot.speaks_for_host
    if speaks(flow.speaker, flow.subject.name):
        return None
    return f"gateway {flow.speaker} may not speak for {flow.subject} any more"


def user_said(wish: Open) -> str | None:
    """Pure: the local user that the opener's agent attests. A gateway that speaks for others attests none: it cannot
    know who called there, and a rule with `user` must not fit by its word."""
    return wish.user[:64] if wish.user and wish.subject is None else None


def _source_said(wish: Open) -> str | None:
    """Where the subject calls from, as its gateway says."""
    if wish.subject is None or wish.source is None:
        return None
    try:
        return str(parse_endpoint(wish.source, zero_ok=True))
    except InputError:
        return None


def _source_seen(tunnel: Tunnel) -> str | None:
    """Where the host at the other end is, if we see it; its program is somewhere on it."""
    if tunnel.via is not None:
        return None
    host, _, port = tunnel.remote.rpartition(":")
    return str(Endpoint(host, int(port))) if port.isdigit() else None


class Inbound:
    """Owner of the connections that have not proved anything yet; each costs one bounded slot (C23)."""

    def __init__(self, loop: Loop, tasks: Tasks, pool: TunnelPool, streams: Streams, owner: InboundOwner) -> None:
        self._loop = loop
        self._tasks = tasks
        self._pool = pool
        self._streams = streams
        self._owner = owner
        self._waiting: OrderedDict[int, trio.CancelScope] = OrderedDict()
        self._controls: dict[Tunnel, list[LocalSocket]] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # --- before authentication ------------------------------------------------------------------------------------

    def connection(self, sock: socket.socket, address: object) -> None:
        """A connection to the tunnel port. When every slot is taken, the one that has waited longest loses its own."""
        if len(self._waiting) >= limits.PREAUTH_MAX:
            _, oldest = self._waiting.popitem(last=False)
            oldest.cancel()
        remote = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"
        self._tasks.start_soon(self._admit, sock, remote)

    async def _admit(self, sock: socket.socket, remote: str) -> None:
        number = sock.fileno()
        handed_on = False
        with trio.move_on_after(limits.PREAUTH_TIMEOUT) as scope:
            self._waiting[number] = scope
            try:
                handed_on = await self._tell_apart(sock, remote)
            except PeerError as exc:
                self._owner.notice("handshake-failed", f"{remote}: {exc.what}")
            except BaseException as exc:  # the one guard of this connection: no peer ends the process
                if must_pass(exc):
                    raise
                self._tasks.crashed(exc)
            finally:
                if self._waiting.get(number) is scope:
                    del self._waiting[number]
                if not handed_on:
                    sock.close()
        if scope.cancelled_caught:
            self._owner.notice("handshake-timeout", f"{remote}: no proof of identity in time")

    async def _tell_apart(self, sock: socket.socket, remote: str) -> bool:
        """By the first byte, which stays unread. True once the socket belongs to somebody else."""
        tune(sock)
        began = trio.current_time()
        first = await receive_some(sock, 1, socket.MSG_PEEK)
        if first == _TLS:
            await self._pool.establish(sock, server=True)
            return True
        if first == _PREFACE and self._owner.role == "gateway":
            expect_reading(sock)
            await self._owner.guest(sock, remote, trio.current_time() - began)
            return True
        if first:
            begin = sock.recv(16).decode("latin-1")
            raise PeerError(f"not a TLS 1.3 client: it sent {shown(begin)}")
        return False

    def tunnel_gone(self, tunnel: Tunnel) -> None:
        self._controls.pop(tunnel, None)

    # --- streams --------------------------------------------------------------------------------------------------

    def open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None:
        """A peer wants a stream. Never waits; whatever goes wrong ends this stream only."""
        try:
            if wish.service == CONTROL:
                self._open_control(tunnel, stream)
            else:
                self._open_service(tunnel, stream, wish)
        except OSError as exc:
            self._refuse(tunnel, stream, Code.LIMIT, f"out of descriptors: {exc.strerror}")

    def _refuse(self, tunnel: Tunnel, stream: Stream, code: Code, reason: str, rule: str | None = None) -> None:
        tunnel.session.refuse(stream, code, reason, rule)
        self._loop.touch(tunnel)

    def _open_control(self, tunnel: Tunnel, stream: Stream) -> None:
        if self._owner.role != "gateway" or tunnel.peer.spiffe.role != "host":
            role = tunnel.peer.spiffe.role
            self._refuse(tunnel, stream, Code.DENIED, f"role {role} may not open {CONTROL} at a {self._owner.role}")
            return
        others = [local for local in self._controls.get(tunnel, ()) if not local.ended]
        if len(others) >= limits.CONTROL_STREAMS_PER_TUNNEL:
            self._refuse(tunnel, stream, Code.LIMIT, f"{len(others)} control streams are open on this tunnel already")
            return
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        flow = self._flow(tunnel, Open(service=CONTROL))
        flow.side = "control"
        local = LocalSocket(self._loop, ours, self._streams, flow)
        local.join(tunnel, stream)
        self._streams.live(local)
        self._controls[tunnel] = [*others, local]
        self._tasks.start_soon(self._owner.control, theirs, tunnel, tunnel.remote)

    def _flow(self, tunnel: Tunnel, wish: Open) -> LiveFlow:
        flow = LiveFlow(
            side="destination",
            subject=Subject("host", tunnel.peer.spiffe.name),
            service=wish.service,
            site=None,
            host=self._owner.name,
            started=clock.now(),
            began=self._loop.now,
            flow_id=wish.trace[:64] or None,
            user=user_said(wish),
        )
        flow.peer = tunnel.peer.spiffe.name
        flow.via = tunnel.via
        return flow

    def _open_service(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None:
        try:
            subject = subject_of(self._owner.snapshot, tunnel.peer.spiffe, wish.subject)
        except AnswerIsNo as exc:
            self._owner.notice("subject-refused", f"{tunnel.peer.spiffe}: {exc.what}")
            self._refuse(tunnel, stream, Code.DENIED, exc.what)
            return
        flow = self._flow(tunnel, wish)
        flow.subject = subject
        flow.speaker = tunnel.peer.spiffe.name if wish.subject is not None else None
        flow.source = _source_said(wish)
        refusal = self._streams.judge(flow)
        instance = self._owner.offered.instance(wish.service, wish.target, wish.host)
        if refusal is not None:
            code, reason, rule = Code.DENIED, refusal.reason, refusal.rule
        elif instance is None:
            code, reason, rule = Code.UNKNOWN_SERVICE, f"{self._owner.name} serves no such instance", None
        elif (why := self._owner.why_draining(instance)) is not None:
            code, reason, rule = Code.DRAINING, f"draining: {why}", None
        else:
            try:
                if wish.host is not None:
                    self._connect_behind(tunnel, stream, flow, instance)
                else:
                    self._connect(tunnel, stream, flow, instance)
                return
            except Unavailable as exc:
                code, reason, rule = Code.CONNECT_FAILED, exc.what, None
        self._refuse(tunnel, stream, code, reason, rule)
        self._streams.not_live(flow, "refused" if code is Code.DENIED else "failed", reason, rule)

    def _connect(self, tunnel: Tunnel, stream: Stream, flow: LiveFlow, instance: Instance) -> None:
        family, address = self._owner.targets.address(instance.target)
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        (tune if address[0].startswith(("127.", "::1")) else tune_outer)(sock)
        self._streams.placed(flow, instance.id)
        local = LocalSocket(self._loop, sock, self._streams, flow)
        local.sole = True
        self._tell_who_calls(tunnel, flow, instance, local)
        self._streams.live(local)
        if instance.max_streams is None and instance.max_rate is None:
            local.connect(tunnel, stream, address)
        else:
            local.wait(tunnel, stream)
            self._once_it_has_a_slot(local, flow, instance, partial(local.connect, tunnel, stream, address))

    def _once_it_has_a_slot(
        self, local: LocalSocket, flow: LiveFlow, instance: Instance, connect: Callable[[], object]
    ) -> None:
        """The instance has a limit: the stream has its turn when there is room, or is refused."""

        def answered(refusal: str | None) -> None:
            if local.ended:
                return
            if refusal is not None:
                local.refuse(Code.BUSY, refusal)
            elif (why := self._owner.why_draining(instance)) is not None:
                local.refuse(Code.DRAINING, f"draining: {why}")
            else:
                flow.connecting = self._loop.now
                connect()

        self._owner.slots.ask(flow, instance, lambda refusal: self._loop.guarded(local, partial(answered, refusal)))

    def _tell_who_calls(self, tunnel: Tunnel, flow: LiveFlow, instance: Instance, local: LocalSocket) -> None:
        if instance.proxy_protocol:
            source = flow.source if flow.speaker is not None else _source_seen(tunnel)
            local.preamble = preamble(flow, instance, source)

    # --- agentless hosts ------------------------------------------------------------------------------------------

    def _connect_behind(self, tunnel: Tunnel, stream: Stream, flow: LiveFlow, instance: Instance) -> None:
        """To a host that this gateway reaches. Raises Unavailable."""
        reach = self._owner.offered.reach(instance)
        if self._owner.offered.is_direct(instance.host):
            check_address(reach, self._owner.targets.address(instance.target)[1])
            self._connect(tunnel, stream, flow, instance)
            return
        sock = WitnessedSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._streams.placed(flow, instance.id)
        local = LocalSocket(self._loop, sock, self._streams, flow)
        self._tell_who_calls(tunnel, flow, instance, local)
        self._streams.live(local)
        local.wait(tunnel, stream)

        def connect() -> None:
            # The task has a descriptor of its own: the stream may end meanwhile, and with it the socket.
            self._tasks.start_soon(self._ask_for_channel, local, sock, sock.dup(), flow, instance)

        if instance.max_streams is None and instance.max_rate is None:
            connect()
        else:
            self._once_it_has_a_slot(local, flow, instance, connect)

    async def _ask_for_channel(
        self, local: LocalSocket, sock: WitnessedSocket, own: WitnessedSocket, flow: LiveFlow, instance: Instance
    ) -> None:
        refusal: LastHopRefused | None = None
        # Whatever becomes of the stream, the slot is taken until it is known what became of the channel.
        slot, flow.slot = flow.slot, 0
        with own, trio.move_on_after(limits.CONNECT_TIMEOUT) as scope:
            try:
                await ask(own, self._owner.ssh_channels, instance.host, instance.target)
                if not local.ended:
                    sock.witness, own.witness = own.witness, None
            except LastHopRefused as exc:
                refusal = exc
            except BaseException as exc:  # a bug ends this stream only
                if must_pass(exc):
                    raise
                refusal = LastHopRefused(Code.INTERNAL, f"internal error: {type(exc).__name__}")
                self._tasks.crashed(exc)
        if scope.cancelled_caught:
            what = f"{instance.host}: no channel to {instance.target} within {limits.CONNECT_TIMEOUT:.0f} s"
            refusal = LastHopRefused(Code.TIMEOUT, what)
        if local.ended:
            if slot:
                self._owner.slots.ended(slot, rest=True)
            return
        flow.slot = slot
        if refusal is not None:
            self._streams.not_connected(flow)
            local.refuse(refusal.code, refusal.what)
        else:
            self._loop.guarded(local, local.connected)
        self._loop.settle()
