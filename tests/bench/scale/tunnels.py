"""I/O: the tunnels of all simulated hosts in one loop: each host has its own identity, its own TLS, its own pool.

What a data worker does for one host's control stream is done here for all of them, with the worker's own parts. The
kernel stamps what arrives, so that a host's queueing for this process's one core can be told from the gateway's work.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import trio

from agents.workers.pool import Path, TunnelPool, connect
from bridge.errors import PeerError
from bridge.relay.local import LocalSocket
from bridge.relay.loop import Loop
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Code, Open, Reason, encode_open
from bridge.tunnels.session import Stream
from inventory.errors import MeshError, Unavailable
from inventory.names import SpiffeId

_SO_TIMESTAMPNS = 35
_ANCILLARY = socket.CMSG_SPACE(16)
_TIMESPEC = struct.Struct("qq")
_TURNS_PER_WAKE = 16
_TICK = 1.0


class StampedSocket(socket.socket):
    """A socket that knows when the kernel got what was read last, in unix seconds, and how much was read."""

    arrived = 0.0
    taken = 0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        size, ancillary, _, _ = self.recvmsg_into([buffer], _ANCILLARY)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
                self.arrived = seconds + nanoseconds * 1e-9
        self.taken += size
        return size


class _Pool(TunnelPool):
    """As it is, with sockets that are stamped."""

    stamped: StampedSocket | None = None

    async def _dial(self, address: str, peer: SpiffeId, path: Path | None) -> Tunnel:
        plain = await connect(address)
        sock = StampedSocket(fileno=plain.detach())
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.stamped = sock
        return await self._establish_within(sock, server=False, expected=peer, path=path)


class Carrier:
    """The loop that carries every control stream, and what happened in it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.loop = Loop(self._crashed)
        self.handshakes: list[float] = []
        """When each tunnel was up, unix seconds."""
        self.failed = 0
        self.crashes: list[str] = []
        self._hosts: list[HostTunnels] = []

    def _crashed(self, error: BaseException) -> None:
        self.crashes.append(repr(error))

    def add(self, host: HostTunnels) -> None:
        self._hosts.append(host)

    def handshake_ended(self, how: str) -> None:
        if how == "ok":
            self.handshakes.append(time.time())
        else:
            self.failed += 1

    async def drive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.loop.fileno())
            for _ in range(_TURNS_PER_WAKE):
                if not self.loop.turn():
                    break

    async def tick(self) -> None:
        """Heartbeats, as every worker sends them."""
        while True:
            await trio.sleep(_TICK)
            self.loop.refresh()
            for host in self._hosts:
                host.pool.tick()
            self.loop.settle()


class HostTunnels:
    """One simulated host's end: its pool, and its control stream. Owner of both, as a data worker is."""

    def __init__(
        self,
        carrier: Carrier,
        me: SpiffeId,
        *,
        identity: FilePath,
        root: str,
        addresses: dict[str, str],
        is_revoked: Callable[[str, str], str | None],
        failed: Callable[[str, str], None],
    ) -> None:
        self._carrier = carrier
        self._addresses = addresses
        self._failed = failed
        self.is_revoked = is_revoked
        self.pool = _Pool(
            carrier.loop, carrier.nursery, self, identity=identity, root=root, me=me, count=carrier.handshake_ended
        )
        carrier.add(self)

    @property
    def arrived(self) -> float:
        """When the kernel got what was read last."""
        return self.pool.stamped.arrived if self.pool.stamped is not None else 0.0

    @property
    def taken(self) -> int:
        """Bytes that came over the newest tunnel."""
        return self.pool.stamped.taken if self.pool.stamped is not None else 0

    def connect(self, gateway: str, sock: socket.socket) -> None:
        """Carry the socket, which is ours from now on, as the control stream: as a host's worker does when told."""
        self._carrier.nursery.start_soon(self._open, gateway, sock)

    async def _open(self, gateway: str, sock: socket.socket) -> None:
        sock.setblocking(False)
        loop = self._carrier.loop
        try:
            tunnel = await self.pool.gateway(gateway, self._addresses[gateway])
            if not tunnel.is_usable:
                raise Unavailable("the tunnel ended at once")
            LocalSocket(loop, sock, self, None).open(tunnel, encode_open(Open(service="@control")))
            loop.settle()
        except MeshError as exc:
            sock.close()
            self._failed(gateway, exc.what)

    # --- PoolOwner: nothing but control goes through these tunnels --------------------------------------------------

    def tunnel_open(self, tunnel: Tunnel, stream: Stream, wish: Open) -> None:
        raise PeerError("a simulated host carries no data")

    def tunnel_gone(self, tunnel: Tunnel, reason: str) -> None:
        pass

    def tunnel_leaving(self, tunnel: Tunnel) -> None:
        pass

    def is_stranger(self, peer: SpiffeId) -> bool:
        return False

    def advertised(self, host: str) -> str | None:
        return None

    def notice(self, event: str, text: str) -> None:
        self._carrier.crashes.append(f"{event}: {text}")

    async def find_path(self, host: str, avoid: tuple[str, ...]) -> Path:
        raise Unavailable("a simulated host asks for no paths")

    # --- LocalOwner -------------------------------------------------------------------------------------------------

    def local_connected(self, local: LocalSocket) -> None:
        pass

    def local_connect_failed(self, local: LocalSocket, error: int) -> None:
        pass

    def local_accepted(self, local: LocalSocket) -> None:
        pass

    def local_refused(self, local: LocalSocket, reason: Reason) -> None:
        local.abort(Code.ABORTED, "refused", reason.reason)

    def local_ended(self, local: LocalSocket, result: str, reason: str) -> None:
        pass
