"""I/O: (sockets that are connected to nothing) what the kernel is told of connections to machines without an agent."""

from __future__ import annotations

import socket

from agents.workers.pool import tune, tune_outer
from bridge import limits


def probes_of(sock: socket.socket) -> tuple[int, int, int]:
    """After which rest, how often, and how many times in vain the kernel asks."""
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, interval, vain = (
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    return idle, interval, vain


def test_a_machine_without_an_agent_that_vanished_is_noticed_within_two_minutes() -> None:
    with socket.socket() as far, socket.socket() as near:
        tune_outer(far)
        tune(near)
        idle, interval, vain = probes_of(far)
        assert (idle, interval, vain) == (limits.KEEPALIVE_IDLE, limits.KEEPALIVE_INTERVAL, limits.KEEPALIVE_PROBES)
        assert idle + interval * vain <= 120
        assert probes_of(near)[0] > idle, "a program on this machine cannot vanish without its kernel knowing"
