"""I/O: how a data worker of a gateway gets to a host that cannot be dialled: the host is told to come to this gateway,
which is its own other end.
"""

from __future__ import annotations

import socket

from agents.control.server import ControlServer
from agents.supervisor import DataWorkerProcess
from agents.workers import messages as m
from bridge.errors import PeerError
from inventory.endpoints import Endpoint

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def own_address(listening: socket.socket) -> str:
    """Where this gateway reaches its own tunnel port."""
    host, port = listening.getsockname()[:2]
    return str(Endpoint(_EVERYWHERE.get(host, host), port))


async def find_path(
    worker: DataWorkerProcess, message: m.PathNeeded, control: ControlServer, *, gateway: str, address: str
) -> None:
    """Answers the worker that asked; `address` is our own tunnel port."""
    try:
        ticket = await control.own_path(message.peer)
    except PeerError as exc:
        worker.tell(m.PathFailed(peer=message.peer, reason=exc.what))
        return
    worker.tell(m.PathFound(peer=message.peer, gateway=gateway, address=address, ticket=ticket))
