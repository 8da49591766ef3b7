"""I/O: what local programs want: a connection to a service's loopback address becomes a stream to one of its instances.

Fast path: the permit is cached, a tunnel is warm: accept, open, relay, all in one turn of the loop. Slow path: whatever
waits or looks something up, in a task of its own under one deadline. A try that failed before a byte can have reached
the service is made on another instance, within the retry budget.
"""

from __future__ import annotations

import pwd
import random
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import trio

from agents import clock
from agents.guards import must_pass
from agents.workers.live import Caller, LiveFlow
from agents.workers.offered import Offered
from agents.workers.own_targets import connect_own
from agents.workers.pool import TunnelPool
from agents.workers.slots import Busy, Slots
from agents.workers.streams import Streams
from agents.workers.targets import Targets
from agents.workers.tasks import Tasks
from bridge import limits
from bridge.errors import PeerError
from bridge.lines import plain
from bridge.policy.decide import Subject
from bridge.ports import local_user_of
from bridge.relay.local import LocalSocket
from bridge.relay.loop import Loop
from bridge.relay.splice import Splice
from bridge.relay.tunnel import Tunnel
from bridge.routing.budget import RetryBudget
from bridge.routing.choose import Candidate, choose
from bridge.routing.ejection import Ejections
from bridge.tunnels.frames import Code, Open, Reason, encode_open
from inventory.errors import AnswerIsNo, MeshError, Unavailable
from inventory.imports import gateway_of
from inventory.model import Instance
from inventory.names import ServiceName, SpiffeId
from inventory.snapshot import Snapshot

_TRY_ANOTHER = frozenset(
    {Code.CONNECT_FAILED, Code.UNKNOWN_SERVICE, Code.DRAINING, Code.LIMIT, Code.TIMEOUT, Code.BUSY}
)
"""Refusals that speak of one instance, not of the caller. After ABORTED and SHUTDOWN the tunnel itself is gone."""
_TUNNEL_GONE = frozenset({Code.ABORTED, Code.SHUTDOWN, Code.NO_ERROR, Code.INTERNAL})
_WHYS_NAMED = 3


class OutboundOwner(Protocol):
    """The worker, as far as what goes out needs it."""

    name: str
    role: str
    place: str
    """The `host` of our own instances."""
    site: str | None
    trust_domain: str
    snapshot: Snapshot
    targets: Targets
    offered: Offered
    ssh_channels: Path
    slots: Slots


class Outbound:
    """Choice of instances and the way there, for one worker."""

    def __init__(self, loop: Loop, tasks: Tasks, pool: TunnelPool, streams: Streams, owner: OutboundOwner) -> None:
        self._loop = loop
        self._tasks = tasks
        self._pool = pool
        self._streams = streams
        self._owner = owner
        self._rng = random.Random()
        self.ejections = Ejections()
        self._budget = RetryBudget()
        self.waiting = 0
        """Connections whose user is being found out; they have a socket each and are not live yet."""

    def connection(self, service: ServiceName, sock: socket.socket, address: object) -> None:
        """A local program connected to the service's address. Called by a listener, inside the loop."""
        flow = self._flow(service, None)
        if self._streams.needs_user(flow):
            self._tasks.start_soon(self._attested, sock, flow)
        else:
            self._begin(sock, flow)

    async def adopt(self, service: ServiceName, sock: socket.socket, user: str | None) -> None:
        """Join a socket that the supervisor was given (`meshbridge dial`), and return once the far end accepted.

        Raises:
            AnswerIsNo: policy refuses it. Unavailable: no instance could be reached.
        """
        flow = self._flow(service, user)
        refusal = self._streams.judge(flow)
        if refusal is not None:
            self._streams.not_live(flow, "refused", refusal.reason, refusal.rule)
            sock.close()
            raise AnswerIsNo(
                refusal.reason, hint=f"meshbridge policy explain host:{self._owner.name} {service.service}"
            )
        settled = flow.settled = trio.Event()
        local = LocalSocket(self._loop, sock, self._streams, flow)
        self._streams.live(local)
        self._tasks.start_soon(self._place, local)
        await settled.wait()
        if flow.failure is not None:
            raise flow.failure

    def client(
        self, sock: socket.socket, service: str, subject: Subject, caller: Caller, source: str | None
    ) -> LiveFlow | None:
        """Somebody for whom this gateway speaks connected from `source`; None when it is refused, and the socket is
        closed. Owns the socket."""
        flow = self._flow(ServiceName(service), None)
        flow.subject, flow.caller, flow.source, flow.over = subject, caller, source, trio.Event()
        flow.speaker = self._owner.name
        host = self._owner.snapshot.host(subject.name) if subject.kind == "host" else None
        if host is not None and host.why_silent is not None:
            sock.close()
            self._streams.not_live(flow, "refused", f"host {host.name} is draining: {host.why_silent}", None)
            return None
        return flow if self._begin(sock, flow) else None

    def flow_for_control(self) -> LiveFlow:
        flow = self._flow(ServiceName("@control"), None)
        flow.side = "control"
        return flow

    def _flow(self, service: ServiceName, user: str | None) -> LiveFlow:
        return LiveFlow(
            side="source",
            subject=Subject("host", self._owner.name),
            service=service.service,
            site=service.site,
            host=self._owner.name,
            started=clock.now(),
            began=self._loop.now,
            user=user,
        )

    async def _attested(self, sock: socket.socket, flow: LiveFlow) -> None:
        """A rule names local users: find out whose connection this is (the uid that owns its other end)."""
        self.waiting += 1
        try:
            ends = (*sock.getpeername()[:2], *sock.getsockname()[:2])
            # In a thread: the name of a user may have to be asked of a directory server.
            flow.user = await trio.to_thread.run_sync(_connecting_user, *ends)
            self._begin(sock, flow)
        except OSError:
            sock.close()
        except BaseException:
            sock.close()
            raise
        finally:
            self.waiting -= 1
        self._loop.settle()

    def _begin(self, sock: socket.socket, flow: LiveFlow) -> bool:
        refusal = self._streams.judge(flow)
        if refusal is not None:
            sock.close()
            self._streams.not_live(flow, "refused", refusal.reason, refusal.rule)
            return False
        local = LocalSocket(self._loop, sock, self._streams, flow)
        local.sole = True
        self._budget.count_first(self._loop.now)
        instance = self._choose(flow)
        tunnel = self._warm(instance)
        # Watched from here on: a permit may be lost before the slow path's task gets its first turn.
        self._streams.live(local)
        if instance is not None and tunnel is not None:
            self._open(local, flow, instance, tunnel)
        else:
            self._tasks.start_soon(self._place, local)
        return True

    def _is_here(self, instance: Instance) -> bool:
        """Whether this node takes the streams to it: a host of our name is somebody else at a gateway (C07)."""
        owner = self._owner
        if owner.role != "gateway":
            return instance.host == owner.name
        return instance.host == owner.place or owner.snapshot.served_by(instance.host) == owner.name

    # --- choosing -------------------------------------------------------------------------------------------------

    def _choose(self, flow: LiveFlow) -> Instance | None:
        owner = self._owner
        snapshot = owner.snapshot
        service = snapshot.service(flow.service)
        if service is None:
            return None
        instances = service.instances
        if flow.site is not None:
            instances = tuple(i for i in instances if snapshot.site_of(i.host) == flow.site)
        if len(instances) == 1:
            only = instances[0]
            return only if only.id not in flow.tried and _serves(snapshot, only) else None
        ejected = self.ejections.ejected([i.id for i in instances], self._loop.now)
        candidates = [
            Candidate(
                instance=i,
                site=snapshot.site_of(i.host),
                healthy=_healthy(snapshot, i),
                ejected=i.id in ejected,
                load=self._streams.load_of(i.id) / max(i.weight, 1),
                usable=_serves(snapshot, i) and (self._is_here(i) or self._reachable(i.host)),
            )
            for i in instances
        ]
        avoid = _same_places(instances, flow.refusing) if flow.refusing else frozenset()
        return choose(candidates, site=owner.site, rng=self._rng, exclude=flow.tried, avoid=avoid)

    def _reachable(self, host: str) -> bool:
        """A gateway always: whether it can be dialled is not for its control stream to say. The hosts behind one are
        where it says that they are."""
        presence = self._owner.snapshot.presence.get(host)
        return presence is None or presence.online or presence.advertise is not None or gateway_of(host) is not None

    def _warm(self, instance: Instance | None) -> Tunnel | None:
        if instance is None or self._is_here(instance):
            return None
        gateway = self._owner.snapshot.served_by(instance.host)
        if gateway is not None:
            return self._pool.usable(SpiffeId(self._owner.trust_domain, "gateway", gateway))
        return self._pool.usable(SpiffeId(self._owner.trust_domain, "host", instance.host))

    async def _dial(self, instance: Instance) -> Tunnel:
        """A tunnel to who serves the instance: a host, or the gateway that brings it in or reaches its host. Raises
        Unavailable."""
        name = self._owner.snapshot.served_by(instance.host)
        if name is None:
            return await self._pool.host(instance.host)
        gateway = self._owner.snapshot.authority.gateways.get(name)
        if gateway is None:
            raise Unavailable(f"gateway {name} is not known here")
        return await self._pool.gateway(name, gateway.address)

    def _open(self, local: LocalSocket, flow: LiveFlow, instance: Instance, tunnel: Tunnel) -> None:
        flow.tries += 1
        self._streams.placed(flow, instance.id)
        flow.peer = instance.host
        flow.via = tunnel.via
        host = self._owner.snapshot.host(instance.host)
        behind = host.name if host is not None and host.via is not None else None
        wish = Open(
            service=flow.service,
            target=instance.target,
            host=behind,
            user=flow.user,
            trace=flow.id,
            subject=str(flow.subject) if flow.speaker is not None else None,
            source=flow.source if flow.speaker is not None else None,
        )
        local.open(tunnel, encode_open(wish))

    # --- the slow path --------------------------------------------------------------------------------------------

    async def _place(self, local: LocalSocket) -> None:
        flow: LiveFlow = local.context  # type: ignore[assignment]
        failure: MeshError = Unavailable(
            f"no instance of {flow.service} answered within {limits.OPEN_WAIT_TIMEOUT:.0f} s"
        )
        with trio.move_on_after(limits.OPEN_WAIT_TIMEOUT):
            try:
                await self._try_instances(local, flow)
                return
            except Unavailable as exc:
                failure = exc
            except BaseException as exc:  # a bug ends this stream only
                if must_pass(exc):
                    raise
                failure = Unavailable(f"internal error: {type(exc).__name__}")
                self._tasks.crashed(exc)
        flow.failure = failure
        local.abort(Code.CONNECT_FAILED, "failed", failure.what)
        self._loop.settle()

    async def _try_instances(self, local: LocalSocket, flow: LiveFlow) -> None:
        while not local.ended:
            instance = self._choose(flow)
            if instance is None:
                raise Unavailable(self._why_none(flow))
            if (flow.tried or flow.tries) and not self._budget.allow_again(self._loop.now):
                raise Unavailable(f"{flow.last_refusal} (and the retry budget is used up)")
            try:
                if self._is_here(instance):
                    await self._here(local, flow, instance)
                else:
                    tunnel = self._warm(instance) or await self._dial(instance)
                    if not local.ended:
                        if not tunnel.is_usable:
                            raise Unavailable(f"the tunnel to {instance.host} ended at once")
                        self._open(local, flow, instance, tunnel)
                        self._loop.settle()
                return
            except Busy as exc:
                flow.last_refusal = f"{instance.host} refused it: {exc.what}"
                flow.tried |= {instance.id}
            except (Unavailable, PeerError) as exc:
                flow.last_refusal = exc.what
                flow.tried |= {instance.id}
                self.ejections.report_failure(instance.id, self._loop.now)

    def _why_none(self, flow: LiveFlow) -> str:
        if flow.last_refusal:
            return flow.last_refusal
        service = self._owner.snapshot.service(flow.service)
        if service is None or not service.instances:
            return f"{flow.service} has no instance"
        snapshot = self._owner.snapshot
        whys = dict.fromkeys(why for i in service.instances if (why := _why_not(snapshot, i)))
        named = f": {'; '.join(list(whys)[:_WHYS_NAMED])}" if whys else ""
        return f"none of the {len(service.instances)} instances of {flow.service} can take a stream{named}"

    async def _here(self, local: LocalSocket, flow: LiveFlow, instance: Instance) -> None:
        """The chosen instance is on this very host: no tunnel, the two sockets are joined."""
        is_limited = instance.max_streams is not None or instance.max_rate is not None
        slot = await self._owner.slots.take(flow, instance) if is_limited else 0
        try:
            target = await connect_own(self._owner, instance, flow, local)
        except BaseException:
            if slot:
                self._owner.slots.failed(slot)
            raise
        sock = local.release()
        if sock is None:
            target.close()
            if slot:
                self._owner.slots.ended(slot, rest=True)
            return
        flow.slot = slot
        self._streams.placed(flow, instance.id)
        flow.peer = self._owner.name
        try:
            splice = Splice(self._loop, sock, target, self._streams.splice_ended)
        except OSError as exc:  # it has closed both
            self._streams.local_ended(local, "failed", f"out of descriptors: {exc.strerror}")
            return
        self._streams.splice_live(splice, local)

    # --- answers --------------------------------------------------------------------------------------------------

    def accepted(self, flow: LiveFlow) -> None:
        self.ejections.report_success(flow.instance, self._loop.now)

    def refused(self, local: LocalSocket, flow: LiveFlow, reason: Reason) -> None:
        """The chosen instance did not take it: try another one, or tell the program."""
        another = reason.code in _TRY_ANOTHER
        gone = reason.code in _TUNNEL_GONE
        flow.last_refusal = f"{flow.peer} refused it" + (f": {plain(reason.reason)}" if reason.reason else "")
        if another and reason.code != Code.BUSY:  # else it is as well as before
            self.ejections.report_failure(flow.instance, self._loop.now)
        # Streams are counted, not instances: one whose tunnel breaks at every OPEN must not be tried without end.
        if (another or gone) and flow.tries < limits.CONNECT_TRIES:
            if another:
                flow.tried |= {flow.instance}
            if reason.code == Code.CONNECT_FAILED:
                flow.refusing |= {flow.instance}
            self._tasks.start_soon(self._place, local)
            return
        denied = reason.code == Code.DENIED
        flow.refused_by = (reason.rule or "") if denied else ""
        flow.failure = AnswerIsNo(flow.last_refusal) if denied else Unavailable(flow.last_refusal)
        local.abort(Code.NO_ERROR, "refused" if denied else "failed", flow.last_refusal)


def _connecting_user(peer_address: str, peer_port: int, address: str, port: int) -> str | None:
    """Whose connection it is, by name; None when nobody can be named."""
    uid = local_user_of(peer_address, peer_port, address, port)
    return user_name(uid) if uid is not None else None


def user_name(uid: int) -> str:
    """The login name of a local user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _healthy(snapshot: Snapshot, instance: Instance) -> bool:
    """And its gateway, if one brings it in, heard now."""
    presence = snapshot.presence.get(instance.host)
    is_lost = presence is not None and not presence.online and gateway_of(instance.host) is not None
    return not is_lost and snapshot.health_of(instance).state != "failing"


def _same_places(instances: Collection[Instance], refusing: Collection[str]) -> frozenset[str]:
    """What gateways bring in from an address at which one of them could not connect: others hardly will, and tries are
    few. They are left for last and not out, because only that gateway may be cut off from it."""
    brought_in = [i for i in instances if gateway_of(i.host) is not None]
    targets = {i.target for i in brought_in if i.id in refusing}
    return frozenset(i.id for i in brought_in if i.target in targets)


def _serves(snapshot: Snapshot, instance: Instance) -> bool:
    host = snapshot.host(instance.host)
    return instance.draining is None and (host is None or host.draining is None)


def _why_not(snapshot: Snapshot, instance: Instance) -> str:
    """Why no stream goes to an instance, as far as the snapshot says; empty when it does not."""
    host = snapshot.host(instance.host)
    draining = instance.draining or (host.draining if host is not None else None)
    if draining is not None:
        return f"{instance.id} is draining: {draining}"
    presence = snapshot.presence.get(instance.host)
    return f"{instance.host} is away" if presence is not None and not presence.online else ""
