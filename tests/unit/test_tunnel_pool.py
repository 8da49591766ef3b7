"""I/O: (a loop with a clock of the test's own) when the pool closes a tunnel on which it said goodbye."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agents.workers.pool import TunnelPool
from bridge import limits
from bridge.relay.loop import Loop
from inventory.names import SpiffeId
from tests.support.memory_tls import TrustDomain

NOW = 1_800_000_000.0
PEER = SpiffeId("t.internal", "host", "vm2")


@dataclass(eq=False)
class FakeTunnel:
    """What the pool asks of one."""

    streams: dict[int, object] = field(default_factory=dict)
    closed: str | None = None
    via: str | None = None
    last_used: float = 0.0
    said: list[str] = field(default_factory=list)

    @property
    def peer(self) -> Any:
        return SimpleNamespace(spiffe=PEER, not_after=NOW + 1000)

    @property
    def session(self) -> Any:
        return SimpleNamespace(streams=self.streams, goaway=lambda code, reason: self.said.append("goodbye"))

    def flush(self) -> None: ...

    def tick(self, now: float) -> None: ...

    def close(self, code: int, reason: str) -> None:
        self.closed = reason


class World:
    """A pool, its clock, and a tunnel in it."""

    def __init__(self, place: Path) -> None:
        domain = TrustDomain(place, NOW)
        self.now = 100.0
        self.loop = Loop(clock=lambda: self.now)
        owner: Any = SimpleNamespace(tunnel_leaving=lambda tunnel: None)
        nursery: Any = None
        me = SpiffeId("t.internal", "host", "vm1")
        identity = domain.identity("host/vm1")
        self.pool = TunnelPool(self.loop, nursery, owner, identity=identity, root=domain.root_pem, me=me)
        self.tunnel: Any = FakeTunnel(last_used=self.now)
        self.pool.tunnel_up(self.tunnel)

    def tick(self, now: float) -> None:
        self.now = self.loop.now = now
        self.pool.tick()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("agents.workers.pool.clock.now", lambda: NOW)
    return World(tmp_path)


@pytest.mark.parametrize("who", ["we", "the peer"])
async def test_f10_a_tunnel_is_closed_only_some_time_after_the_goodbye(world: World, who: str) -> None:
    """The next tick may come at once, and a stream that the peer has just opened be on its way."""
    await trio.lowlevel.checkpoint()
    world.now = 110.0  # the loop has slept since
    if who == "we":
        world.pool.retire(world.tunnel, "another worker takes over")
        assert world.tunnel.said == ["goodbye"]
    else:
        world.pool.tunnel_goaway(world.tunnel, SimpleNamespace())  # type: ignore[arg-type]
    world.tick(110.01)
    assert world.tunnel.closed is None
    world.tunnel.streams[2] = "the one that was on its way"
    world.tick(110.0 + limits.GOODBYE_GRACE)
    assert world.tunnel.closed is None
    world.tunnel.streams.clear()
    world.tick(110.1 + limits.GOODBYE_GRACE)
    assert world.tunnel.closed == "idle"
