"""I/O: whether an address is of this very machine: what is dialled for others must not lead back to who dials."""

from __future__ import annotations

import socket

Address = tuple[str, int]


def is_own(address: Address) -> bool:
    """Whether the kernel would deliver to this machine what is sent there. Nothing is sent to find out: packets to an
    address of our own also come from it."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address[0], address[1] or 1))
            return bool(probe.getsockname()[0] == address[0])
        except OSError:
            return False  # there is no way there at all
