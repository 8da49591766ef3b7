"""I/O: paths through a gateway: tickets of one use, two hosts that connect with them, no socket left behind."""

from __future__ import annotations

import base64
import socket

import pytest
import trio
import trio.testing

from agents.control.paths import Joined, Paths
from bridge import limits
from bridge.errors import PeerError


class Gate:
    """Paths, with what was joined."""

    def __init__(self, *, most: int = 100) -> None:
        self.joined: list[Joined] = []
        self.paths = Paths(self._join, most=most)

    async def _join(self, joined: Joined) -> None:
        self.joined.append(joined)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connection as the gateway has it, and the host's end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return ours, theirs


def is_closed(theirs: socket.socket) -> bool:
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False


async def test_two_hosts_with_their_tickets_are_joined() -> None:
    gate = Gate()
    for_a, for_b = gate.paths.offer("vm1", "vm2")
    (a, a_end), (b, b_end) = pair(), pair()
    await gate.paths.arrive(for_b, b)
    assert not gate.joined
    await gate.paths.arrive(for_a, a)
    assert gate.joined == [Joined(1, "vm1", "vm2", (a, b))] and gate.paths.joined == {1: ("vm1", "vm2")}
    gate.paths.ended(1)
    assert not gate.paths.joined
    for sock in (a, a_end, b, b_end):
        sock.close()


async def test_a_ticket_is_good_once() -> None:
    gate = Gate()
    for_a, _ = gate.paths.offer("vm1", "vm2")
    (first, first_end), (second, second_end) = pair(), pair()
    await gate.paths.arrive(for_a, first)
    with pytest.raises(PeerError, match="used"):
        await gate.paths.arrive(for_a, second)
    assert is_closed(second_end) and not is_closed(first_end) and not gate.joined
    for sock in (first, first_end, second_end):
        sock.close()


async def test_a_ticket_is_good_for_a_while(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    gate = Gate()
    for_a, for_b = gate.paths.offer("vm1", "vm2")
    nursery.start_soon(gate.paths.sweep)
    (waiting, waiting_end), (late, late_end) = pair(), pair()
    await gate.paths.arrive(for_a, waiting)
    await trio.sleep(limits.TICKET_LIFETIME * 1.5)
    assert is_closed(waiting_end), "who waits in vain is let go"
    with pytest.raises(PeerError, match="too old"):
        await gate.paths.arrive(for_b, late)
    assert is_closed(late_end)
    for sock in (waiting_end, late_end):
        sock.close()
    nursery.cancel_scope.cancel()


def altered(ticket: str) -> list[str]:
    data = bytearray(base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4)))
    flipped = [bytes([*data[:i], data[i] ^ 1, *data[i + 1 :]]) for i in range(len(data))]
    other_side = bytes([*data[:8], data[8] ^ 3, *data[9:]])
    changed: list[bytes] = [*flipped, other_side, bytes(data[:-1]), bytes(data) + b"x"]
    made = [base64.urlsafe_b64encode(d).decode().rstrip("=") for d in changed]
    return [*made, "", "x", ticket + "=", ticket + " ", ticket.swapcase(), "é" * 34, "A" * 10_000, "\0"]


async def test_h10_a_forged_ticket_is_refused() -> None:
    gate = Gate()
    ticket, _ = gate.paths.offer("vm1", "vm2")
    for forged in altered(ticket):
        ours, theirs = pair()
        with pytest.raises(PeerError):
            await gate.paths.arrive(forged, ours)
        assert is_closed(theirs)
        theirs.close()
    other = Gate()
    other.paths.offer("vm1", "vm2")
    ours, theirs = pair()
    with pytest.raises(PeerError, match="not one of ours"):
        await other.paths.arrive(ticket, ours)
    theirs.close()


async def test_f50_one_host_cannot_take_every_path() -> None:
    gate = Gate(most=10_000)
    for _ in range(limits.PATHS_ASKED_MAX):
        gate.paths.offer("greedy", "vm2")
    with pytest.raises(PeerError, match="host greedy has asked for"):
        gate.paths.offer("greedy", "vm2")
    assert gate.paths.offer("vm1", "vm2")


async def test_there_are_no_more_paths_than_the_gateway_can_carry() -> None:
    gate = Gate(most=2)
    for_a, for_b = gate.paths.offer("vm1", "vm2")
    gate.paths.offer("vm3", "vm4")
    with pytest.raises(PeerError, match="already carries 2 paths"):
        gate.paths.offer("vm5", "vm6")
    socks = [*pair(), *pair()]
    await gate.paths.arrive(for_a, socks[0])
    await gate.paths.arrive(for_b, socks[2])
    with pytest.raises(PeerError):
        gate.paths.offer("vm5", "vm6")
    for path_id in list(gate.paths.joined):
        gate.paths.ended(path_id)
    gate.paths.offer("vm5", "vm6")
    for sock in socks:
        sock.close()


async def test_a_gateway_that_drains_offers_no_more() -> None:
    gate = Gate()
    gate.paths.close("the gateway is draining")
    with pytest.raises(PeerError, match="draining"):
        gate.paths.offer("vm1", "vm2")


async def test_f46_offers_for_a_revoked_host_are_forgotten_and_its_paths_are_named() -> None:
    gate = Gate()
    socks = [*pair(), *pair(), *pair()]
    for_a, for_b = gate.paths.offer("vm1", "bad")
    await gate.paths.arrive(for_a, socks[0])
    await gate.paths.arrive(for_b, socks[2])
    offered, _ = gate.paths.offer("bad", "vm2")
    await gate.paths.arrive(offered, socks[4])
    kept, _ = gate.paths.offer("vm1", "vm2")
    assert gate.paths.forget(lambda host: host == "bad") == [1]
    assert is_closed(socks[5])
    ours, theirs = pair()
    await gate.paths.arrive(kept, ours)
    for sock in (*socks, ours, theirs):
        sock.close()


async def test_who_was_asked_to_connect_and_has_not_come_is_known() -> None:
    gate = Gate()
    for_a, for_b = gate.paths.offer("vm1", "vm2")
    gate.paths.offer("vm2", "vm3")
    (a, a_end), (b, b_end) = pair(), pair()
    await gate.paths.arrive(for_a, a)
    assert gate.paths.waiting_for("vm2") == [("vm1", for_b)] and gate.paths.waiting_for("vm1") == []
    await gate.paths.arrive(for_b, b)
    assert gate.paths.waiting_for("vm2") == []
    for sock in (a, a_end, b, b_end):
        sock.close()
