"""I/O: the tunnels of one worker: dialling (directly, else through a gateway), taking in, retiring, heartbeats.

One dial per peer at a time, whoever waits for it. A tunnel is offered for new streams only while both ends'
certificates are good and neither has said goodbye; live streams on an older one go on until they end.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath
from typing import Protocol

import trio

from agents import clock
from agents.guards import must_pass
from bridge import limits
from bridge.counters import Handshake
from bridge.errors import PeerError, PeerRefused, TlsFacts
from bridge.identity.certificates import root_fingerprint
from bridge.identity.contexts import mutual_client, mutual_server, peer_chain
from bridge.identity.identity_file import load_identity
from bridge.identity.verify import PeerIdentity, verify_peer
from bridge.relay.loop import Loop
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Code, Open, Reason
from bridge.tunnels.handshake import handshake, send_all
from bridge.tunnels.session import Stream
from inventory.endpoints import parse_endpoint
from inventory.errors import InputError, MeshError, Unavailable
from inventory.names import Role, SpiffeId

_CODES = {"revoked": Code.REVOKED}


class PoolOwner(Protocol):
    """The worker, as far as tunnels need it."""

    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None: ...
    def tunnel_gone(self, tunnel: Tunnel, reason: str) -> None: ...
    def tunnel_leaving(self, tunnel: Tunnel) -> None:
        """The peer said that it takes no new streams on it."""

    def is_revoked(self, spiffe_id: str, key: str) -> str | None: ...
    def is_stranger(self, peer: SpiffeId) -> bool:
        """A host that we were not told of: it was removed, or no rule joins us. Or a gateway that speaks for nobody."""

    def advertised(self, host: str) -> str | None: ...
    def notice(self, event: str, text: str) -> None: ...
    async def find_path(self, host: str, avoid: tuple[str, ...]) -> Path:
        """A way through a gateway that is none of `avoid`. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Path:
    """A way to a host through a gateway: connect there and present the ticket."""

    gateway: str
    address: str
    ticket: str
    is_only: bool = True
    """No other gateway could be tried in its place."""


@dataclass(slots=True)
class _Dial:
    done: trio.Event
    tunnel: Tunnel | None = None
    error: str = ""


class TunnelPool:
    """Owner of every tunnel in the process.

    Args:
        nursery: runs the dials: no caller's cancellation ends another's.
        count: told how each handshake ended.
    """

    def __init__(
        self,
        loop: Loop,
        nursery: trio.Nursery,
        owner: PoolOwner,
        *,
        identity: FilePath,
        root: str,
        me: SpiffeId,
        count: Callable[[Handshake], None] = lambda _: None,
    ) -> None:
        self._loop = loop
        self._nursery = nursery
        self._owner = owner
        self._identity = identity
        self._root = root
        self._me = me
        self._tunnels: dict[SpiffeId, list[Tunnel]] = {}
        self.count = 0
        """Tunnels that are open."""
        self._coming: dict[Tunnel, trio.Event] = {}
        self._retired: dict[Tunnel, float] = {}
        """Since when no new streams are opened on them (Loop.now)."""
        self._dials: dict[SpiffeId, _Dial] = {}
        self._count = count
        self._server: ssl.SSLContext = mutual_server(identity, root)
        self._client: ssl.SSLContext = mutual_client(identity, root)
        self._facts = _facts(identity, root)

    def reload_identity(self) -> None:
        """Use identity.pem as it is now for new handshakes; tunnels made with the one before take no new streams. A
        file that cannot be used changes nothing."""
        try:
            server, client = mutual_server(self._identity, self._root), mutual_client(self._identity, self._root)
            facts = _facts(self._identity, self._root)
        except MeshError as exc:
            self._owner.notice("identity-unusable", f"{exc}; the one before stays in use")
            return
        self._server, self._client, self._facts = server, client, facts
        for tunnel in self.all():
            self.retire(tunnel, "the certificate was renewed")
        self._loop.settle()

    # --- asking ---------------------------------------------------------------------------------------------------

    def all(self) -> list[Tunnel]:
        return [tunnel for tunnels in self._tunnels.values() for tunnel in tunnels]

    def usable(self, peer: SpiffeId) -> Tunnel | None:
        """A tunnel to `peer` on which a stream can be opened now."""
        for tunnel in self._tunnels.get(peer, ()):
            if peer.role == "gateway" and not tunnel.opener:
                continue  # it is for those for whom the gateway speaks, and the gateway's to end
            if tunnel.is_usable and tunnel not in self._retired:
                return tunnel
        return None

    async def host(self, name: str) -> Tunnel:
        """A usable tunnel to a host, dialled if need be.

        Raises:
            Unavailable: it cannot be reached, with the reasons of every way tried.
        """
        return await self._get(SpiffeId(self._me.trust_domain, "host", name), partial(self._dial_host, name))

    async def gateway(self, name: str, address: str) -> Tunnel:
        """A usable tunnel to a gateway. Raises Unavailable."""
        peer = SpiffeId(self._me.trust_domain, "gateway", name)
        return await self._get(peer, partial(self._dial, address, peer, None))

    async def _get(self, peer: SpiffeId, dial: Callable[[], Awaitable[Tunnel]]) -> Tunnel:
        tunnel = self.usable(peer)
        if tunnel is not None:
            return tunnel
        for _ in range(limits.CONNECT_TRIES):
            under_way = self._dials.get(peer)
            if under_way is None:
                under_way = self._dials[peer] = _Dial(trio.Event())
                self._nursery.start_soon(self._run_dial, peer, under_way, dial)
            await under_way.done.wait()
            if under_way.tunnel is None:
                raise Unavailable(f"{peer.role} {peer.name} cannot be reached: {under_way.error}")
            if under_way.tunnel.is_usable:
                return under_way.tunnel
            # The worker that took it was told to end in that very moment: the next one is made with another.
        raise Unavailable(f"{peer.role} {peer.name} ends every tunnel at once")

    async def _run_dial(self, peer: SpiffeId, outcome: _Dial, dial: Callable[[], Awaitable[Tunnel]]) -> None:
        try:
            outcome.tunnel = await dial()
        except (PeerError, Unavailable, InputError) as exc:
            outcome.error = exc.what
        except BaseException as exc:  # a bug here must not leave the waiters waiting or end the worker
            if must_pass(exc):
                raise
            outcome.error = f"internal error: {type(exc).__name__}"
            self._loop.count_crash(exc)
        finally:
            del self._dials[peer]
            outcome.done.set()

    # --- dialling -------------------------------------------------------------------------------------------------

    async def _dial_host(self, name: str) -> Tunnel:
        peer = SpiffeId(self._me.trust_domain, "host", name)
        reasons = []
        address = self._owner.advertised(name)
        if address is not None:
            try:
                return await self._dial(address, peer, None)
            except PeerRefused:
                raise  # it is there and one of us must not talk to the other: no other way will change that
            except (PeerError, InputError) as exc:
                reasons.append(f"directly at {address}: {exc.what}")
        tried: tuple[str, ...] = ()
        while True:
            try:
                path = await self._owner.find_path(name, tried)
            except Unavailable as exc:
                if not tried:
                    reasons.append(f"through a gateway: {exc.what}")
                break
            try:
                return await self._dial_over(path, peer)
            except PeerError as exc:
                reasons.append(f"through a gateway: {exc.what}")
                if path.is_only or isinstance(exc, PeerRefused):
                    break
            tried = (*tried, path.gateway)
        raise Unavailable("; ".join(reasons))

    async def _dial_over(self, path: Path, peer: SpiffeId) -> Tunnel:
        """Raises PeerError, soon where there is another way: one of the two may not reach the gateway any more."""
        if path.is_only:
            return await self._dial(path.address, peer, path)
        with trio.move_on_after(limits.PATH_PATIENCE):
            return await self._dial(path.address, peer, path)
        raise PeerError(f"no tunnel through {path.gateway} within {limits.PATH_PATIENCE:.0f} s")

    async def _dial(self, address: str, peer: SpiffeId, path: Path | None) -> Tunnel:
        sock = await connect(address)
        return await self._establish_within(sock, server=False, expected=peer, path=path)

    async def dial_back(self, peer: str, path: Path, role: Role = "host") -> None:
        """Meet `peer`, which waits at a gateway, or is the gateway: we connect, it is the TLS client. Raises
        PeerError."""
        sock = await connect(path.address)
        expected = SpiffeId(self._me.trust_domain, role, peer)
        await self._establish_within(sock, server=True, expected=expected, path=path)

    async def _establish_within(
        self, sock: socket.socket, *, server: bool, expected: SpiffeId, path: Path | None
    ) -> Tunnel:
        with trio.move_on_after(limits.PREAUTH_TIMEOUT):
            if path is not None:
                try:
                    await send_all(sock, f"MBR1 {path.ticket}\n".encode())
                except BaseException:
                    sock.close()
                    raise
            return await self.establish(sock, server=server, expected=expected, via=path.gateway if path else None)
        raise PeerError(f"no tunnel within {limits.PREAUTH_TIMEOUT:.0f} s")

    async def establish(
        self, sock: socket.socket, *, server: bool, expected: SpiffeId | None = None, via: str | None = None
    ) -> Tunnel:
        """Make a tunnel of a connected socket, under the caller's deadline: TLS, who is it, HELLO, both ACCEPT.

        Owns the socket from here on.

        Raises:
            PeerError: with the reason in words; the peer was told as well where it could be.
        """
        try:
            expect_reading(sock)
            context = self._server if server else self._client
            facts = replace(self._facts, dialled=not server, now=clock.now())
            pipe = await handshake(sock, context, server=server, facts=facts)
            refusal: PeerRefused | None = None
            try:
                peer = self._check(pipe.tls, expected)
            except PeerRefused as exc:
                refusal = exc
                peer = _nobody(self._me.trust_domain)
        except BaseException as exc:
            self._count("timeout" if isinstance(exc, trio.Cancelled) else "failed")
            sock.close()
            raise
        tunnel = Tunnel(self._loop, sock, pipe, peer=peer, opener=not server, via=via, owner=self)
        if refusal is not None:
            self._count("refused")
            tunnel.refuse(_CODES.get(refusal.code, Code.IDENTITY), refusal.what)
            self._loop.settle()
            raise refusal
        return await self._up(tunnel)

    def _check(self, tls: ssl.SSLObject, expected: SpiffeId | None) -> PeerIdentity:
        peer = verify_peer(
            peer_chain(tls),
            now=clock.now(),
            trust_domain=self._me.trust_domain,
            # A gateway dials for those for whom it speaks (see `inbound.subject_of`).
            roles=(expected.role,) if expected else ("host", "gateway"),
            purpose="open a tunnel",
            is_revoked=self._owner.is_revoked,
            name=expected.name if expected else None,
        )
        # Whom we dial ourselves as a gateway is one by its certificate, before we hear of it in the log.
        if (expected is None or expected.role == "host") and self._owner.is_stranger(peer.spiffe):
            if peer.spiffe.role == "gateway":
                raise PeerRefused("role", f"role gateway may not open a tunnel: {peer.spiffe} speaks for nobody here")
            raise PeerRefused("unknown", f"{peer.spiffe} is not known here: it was removed, or no rule joins us")
        return peer

    async def _up(self, tunnel: Tunnel) -> Tunnel:
        up = self._coming[tunnel] = trio.Event()
        try:
            tunnel.start()
            if tunnel.closed is None:
                tunnel.accept()
                self._loop.settle()
            await up.wait()
        except BaseException:
            self._count("timeout")
            tunnel.close(Code.TIMEOUT, "not up in time")
            self._loop.settle()
            raise
        finally:
            self._coming.pop(tunnel, None)
        over = tunnel.closed or tunnel.closing
        if over is not None:
            self._count("refused")
            raise PeerError(over)
        self._count("ok")
        return tunnel

    # --- what tunnels tell us -------------------------------------------------------------------------------------

    def tunnel_up(self, tunnel: Tunnel) -> None:
        tunnels = self._tunnels.setdefault(tunnel.peer.spiffe, [])
        tunnels.append(tunnel)
        self.count += 1
        if len(tunnels) > limits.TUNNELS_PER_PEER:
            tunnel.close(Code.LIMIT, f"{tunnel.peer.spiffe} has {limits.TUNNELS_PER_PEER} tunnels already")
        waiting = self._coming.get(tunnel)
        if waiting is not None:
            waiting.set()

    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None:
        self._owner.tunnel_open(tunnel, stream, wish)

    def tunnel_goaway(self, tunnel: Tunnel, reason: Reason) -> None:
        self._retired.setdefault(tunnel, self._loop.refresh())
        self._owner.tunnel_leaving(tunnel)

    def tunnel_closed(self, tunnel: Tunnel, reason: str) -> None:
        waiting = self._coming.get(tunnel)
        if waiting is not None:
            waiting.set()
        self._retired.pop(tunnel, None)
        tunnels = self._tunnels.get(tunnel.peer.spiffe)
        if tunnels is not None and tunnel in tunnels:
            tunnels.remove(tunnel)
            self.count -= 1
            if not tunnels:
                del self._tunnels[tunnel.peer.spiffe]
            self._owner.tunnel_gone(tunnel, reason)

    # --- keeping --------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether there is a tunnel, or one is being made."""
        return bool(self._tunnels or self._dials or self._coming)

    def retire(self, tunnel: Tunnel, reason: str) -> None:
        """No new streams on it in either direction; it is closed when its last stream has ended."""
        if tunnel not in self._retired and tunnel.closed is None:
            self._retired[tunnel] = self._loop.refresh()
            tunnel.session.goaway(Code.NO_ERROR, reason)
            self._loop.touch(tunnel)

    def tick(self) -> None:
        """About once a second: heartbeats, idle and expired tunnels."""
        now, wall = self._loop.now, clock.now()
        for tunnel in self.all():
            self._loop.guarded(tunnel, partial(self._look_after, tunnel, now, wall))

    def _look_after(self, tunnel: Tunnel, now: float, wall: float) -> None:
        tunnel.tick(now)
        if tunnel.peer.not_after + limits.CLOCK_TOLERANCE < wall:
            self.retire(tunnel, "the peer's certificate has ended")
        if tunnel.session.streams:
            return
        retired = self._retired.get(tunnel)
        if retired is not None:
            # A stream that the peer opens just now must not meet a closed door.
            if now - retired < limits.GOODBYE_GRACE:
                return
            tunnel.close(Code.NO_ERROR, "idle")
        elif now - tunnel.last_used > limits.TUNNEL_IDLE:
            self.retire(tunnel, "idle")

    def drop_revoked(self) -> None:
        """Close the tunnels of every peer that is revoked now (F46, C16)."""
        for tunnel in self.all():
            reason = self._owner.is_revoked(str(tunnel.peer.spiffe), tunnel.peer.key)
            if reason is not None:
                tunnel.close(Code.REVOKED, reason)
        self._loop.settle()

    def drop_strangers(self) -> None:
        """Close the tunnels of every peer that is not known here any more."""
        for tunnel in self.all():
            by_us = tunnel.opener and tunnel.peer.spiffe.role == "gateway"
            if not by_us and self._owner.is_stranger(tunnel.peer.spiffe):
                tunnel.close(Code.IDENTITY, f"{tunnel.peer.spiffe} is not known here any more")
        self._loop.settle()


def _facts(identity: FilePath, root: str) -> TlsFacts:
    """What makes the words about a failed handshake useful. Raises MeshError."""
    leaf = load_identity(identity).leaf
    return TlsFacts(own_not_before=leaf.not_before, own_not_after=leaf.not_after, our_root=root_fingerprint(root))


def _nobody(trust_domain: str) -> PeerIdentity:
    """Stands for a peer that was refused, in the tunnel that only tells it so."""
    return PeerIdentity(
        spiffe=SpiffeId(trust_domain, "host", "refused"), key="", serial=0, not_after=0.0, not_before=0.0
    )


async def connect(address: str) -> socket.socket:
    """A connected, non-blocking TCP socket. Raises PeerError."""
    endpoint = parse_endpoint(address)
    stream: trio.SocketStream | None = None
    with trio.move_on_after(limits.DIAL_TIMEOUT):
        try:
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        except OSError as exc:
            raise PeerError(f"{address}: {exc.strerror or 'no address answered'}") from None
    if stream is None:
        raise PeerError(f"{address} did not answer within {limits.DIAL_TIMEOUT:.0f} s")
    return detach(stream.socket)


def detach(sock: trio.socket.SocketType) -> socket.socket:
    """The plain non-blocking socket inside a trio one, which is of no use afterwards."""
    plain = socket.socket(fileno=sock.detach())
    plain.setblocking(False)
    tune(plain)
    return plain


def tune(sock: socket.socket) -> None:
    """What every TCP socket of the data path has: no Nagle; probes while nothing is under way."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def tune_outer(sock: socket.socket) -> None:
    """As `tune`, for connections to machines that have no agent: whoever vanished without a word is noticed by probes
    of the kernel, which also keep a firewall from forgetting a terminal that rests. A listener's sockets inherit it."""
    tune(sock)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, limits.KEEPALIVE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.KEEPALIVE_PROBES)


def expect_reading(sock: socket.socket) -> None:
    """For connections between nodes, which always read: one that does not is dead, and the kernel notices too (F11).
    Never for a program's own: Linux would cut a reader that pauses, although its machine answers every probe."""
    if sock.family == socket.AF_UNIX:
        return
    user_timeout = int(limits.HEARTBEAT_INTERVAL * limits.HEARTBEAT_MISSES * 1000)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout)
