"""I/O: what a name in a target stands for when it is dialled: nothing that leads back to the gateway (C38)."""

from __future__ import annotations

from bridge.relay.own_machine import Address, is_own
from inventory.endpoints import Endpoint
from inventory.errors import InputError, Unavailable
from inventory.imports import why_refused
from inventory.model import Reach


def why_not_dialled(address: Address, allow_loopback: bool) -> str | None:
    """Why nothing is connected to there for an agentless host; None when it may be."""
    try:
        why = why_refused(str(Endpoint(*address)), allow_loopback)
    except InputError as exc:
        return exc.what
    if why is None and not allow_loopback and is_own(address):
        return f"{address[0]} is the gateway itself"
    return why


def check_address(reach: Reach, address: Address) -> None:
    """Raises Unavailable when the host is not to be dialled there."""
    why = why_not_dialled(address, reach.allow_loopback)
    if why is not None:
        raise Unavailable(f"{reach.host} is not dialled: {why}")
