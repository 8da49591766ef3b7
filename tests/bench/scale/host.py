"""I/O: one simulated host: what its supervisor does about control, with the real link and the real verification.

It says hello, reports its instances, verifies and applies what it is sent. It runs nothing, checks nothing, and carries
no data; its certificate is good for a day, so no renewal is due while it runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from agents.control import messages as c
from agents.control.client import GatewayLink
from agents.knowledge.known import Known
from agents.knowledge.placement import PlacementFile
from bridge.errors import PeerError
from bridge.flows import Flow
from inventory.authority import Slice
from inventory.errors import InputError
from inventory.model import Health, Instance
from inventory.names import SpiffeId
from tests.bench.scale.make_estate import Start
from tests.bench.scale.shape import PASSING
from tests.bench.scale.tunnels import Carrier, HostTunnels


class Witness(Protocol):
    """Who writes down what hosts hear, and when."""

    def applied(self, host: SimulatedHost, update: c.Update, *, arrived: float, at: float) -> None: ...
    def refused(self, host: SimulatedHost, reason: str) -> None: ...


class SimulatedHost:
    """See the module. LinkOwner of its one link.

    Args:
        slice_: what enrolment left it with: the genesis entry.
    """

    def __init__(
        self, name: str, *, start: Start, slice_: Slice, identity: Path, carrier: Carrier, witness: Witness
    ) -> None:
        self.name = name
        self.known = Known.start(slice_, (), PlacementFile())
        self.instances: dict[str, Instance] = {}
        self.health: dict[str, Health] = {}
        self.told_at = 0.0
        """When the first update of this session was in force, unix seconds; 0 without a session."""
        self._witness = witness
        gateway = start.gateways[0]
        self.tunnels = HostTunnels(
            carrier,
            SpiffeId(start.trust_domain, "host", name),
            identity=identity,
            root=start.root_certificate,
            addresses={gateway.name: gateway.address},
            is_revoked=lambda spiffe, key: self.known.snapshot.is_revoked(spiffe, key),
            failed=lambda _gateway, reason: self.link.failed(reason),
        )
        self.link = GatewayLink(gateway.name, self, self.tunnels.connect)

    def serve(self, instances: tuple[Instance, ...]) -> None:
        self.instances = {instance.id: instance for instance in instances}
        self.health = {instance.id: PASSING for instance in instances}

    # --- LinkOwner --------------------------------------------------------------------------------------------------

    def hello(self) -> c.Hello:
        return c.Hello(version="simulated", epoch=1, number=self.known.slice.number)

    def report(self) -> c.Report:
        return c.Report(instances=tuple(self.instances.values()), health=dict(self.health))

    async def updated(self, gateway: str, update: c.Update) -> None:
        arrived = self.tunnels.arrived
        try:
            self.known = self.known.updated("gw1", update, at=time.time())
        except InputError as exc:
            self._witness.refused(self, exc.what)
            raise PeerError(f"its update was refused: {exc.what}") from None
        now = time.time()
        if not self.told_at:
            self.told_at = now
        self._witness.applied(self, update, arrived=arrived, at=now)

    async def dial_back(self, gateway: str, message: c.DialBack) -> None:
        pass

    async def live_streams(self) -> tuple[Flow, ...]:
        return ()

    async def cut_streams(self, reason: str) -> tuple[Flow, ...]:
        return ()

    async def gateway_draining(self, gateway: str) -> None:
        pass

    def gateway_moved(self, gateway: str) -> None:
        pass

    def link_changed(self) -> None:
        if not self.link.connected:
            self.told_at = 0.0
