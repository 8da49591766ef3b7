"""I/O: a connection from a caller that is at this node to an instance that is at this node as well: no tunnel between
them. At a gateway such callers are clients, and such instances what it brings in and what is on the hosts behind it.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Protocol

from agents.workers.dialled import check_address
from agents.workers.last_hop import ask
from agents.workers.live import LiveFlow
from agents.workers.offered import Offered
from agents.workers.pool import connect
from agents.workers.targets import Targets
from bridge import proxy_protocol
from bridge.relay.local import LocalSocket
from bridge.relay.witnessed import WitnessedSocket
from bridge.tunnels.handshake import send_all
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.model import Instance


class OwnTargetsOwner(Protocol):
    """The worker, as far as it is needed here."""

    place: str
    targets: Targets
    offered: Offered
    ssh_channels: Path


async def connect_own(owner: OwnTargetsOwner, instance: Instance, flow: LiveFlow, local: LocalSocket) -> socket.socket:
    """A connected socket to the instance, which has been told who calls if it wants to know. `local` is the caller's.

    Raises:
        Unavailable, PeerError: it cannot be reached.
    """
    target = await _reach(owner, instance)
    if instance.proxy_protocol:
        try:
            await send_all(target, preamble(flow, instance, flow.source or local.remote))
        except BaseException:
            target.close()
            raise
    return target


async def _reach(owner: OwnTargetsOwner, instance: Instance) -> socket.socket:
    if instance.host == owner.place:
        return await connect(instance.target)
    reach = owner.offered.reach(instance)
    if owner.offered.is_direct(instance.host):
        _, address = owner.targets.address(instance.target)
        check_address(reach, address)
        return await connect(str(Endpoint(*address)))
    sock = WitnessedSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await ask(sock, owner.ssh_channels, instance.host, instance.target)
    except BaseException:
        sock.close()
        raise
    return sock


def preamble(flow: LiveFlow, instance: Instance, source: str | None) -> bytes:
    """Pure: what an instance that wants to know who calls is told before the first byte."""
    target = parse_endpoint(instance.target)
    return proxy_protocol.header(
        subject=str(flow.subject),
        user=flow.user,
        speaker=flow.speaker,
        source=source,
        target=(target.host, target.port),
    )
