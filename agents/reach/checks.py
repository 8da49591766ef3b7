"""I/O: checks of what is on the hosts behind this gateway, their only prober: a host's entry names one gateway.

A probe goes the way that a stream goes, by tcp from here or through the ssh worker, and is refused where a stream would
be (C38). Hosts have a budget (`agents.checks.turns`). What is found is told for whole hosts, as their agents would.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from agents.checks.answers import Failed, Outcome
from agents.checks.conversation import Connect
from agents.checks.kinds import ExecProbe, TlsProbe
from agents.checks.limited import Slot, always, with_limit, within_limits
from agents.checks.probes import run_probe
from agents.checks.runner import Checker, RunProbe, Watched
from agents.checks.spec import parse_check
from agents.host_status import instance_rows
from agents.workers import last_hop
from agents.workers.dialled import check_address
from agents.workers.offered import Offered
from agents.workers.targets import look_up
from bridge import limits
from bridge.logs import get_logger
from bridge.relay.witnessed import WitnessedSocket
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.errors import InputError, Unavailable
from inventory.imports import place_of
from inventory.model import Health, Instance, Reach
from inventory.reach import parse_reach
from inventory.snapshot import Snapshot

log = get_logger()

Place = Callable[[Mapping[str, Mapping[str, Health]]], None]
"""Takes the health of all instances on some hosts: host -> instance id -> health."""


class ReachedChecks:
    """Args:
    gateway: our name.
    home: where the ssh worker listens.
    place: told what was found; must not wait.
    slot: what a check of an instance with a limit needs.
    """

    def __init__(
        self, gateway: str, home: Path, place: Place, *, slot: Slot = always, probe: RunProbe | None = None
    ) -> None:
        self._gateway = gateway
        self._channels = last_hop.place_in(home)
        self._place = place
        self._slot = slot
        self._offered = Offered(place_of(gateway), gateway)
        self._checker = Checker(self._checked, rng=random.Random(), probe=probe or self._probe)
        self._instances: dict[str, Instance] = {}
        self._limited: dict[tuple[str, str], list[Instance]] = {}
        self._signed: Mapping[str, Reach] = {}
        self._reaches: dict[str, Reach] = {}
        """Of the hosts that are probed."""
        self._health: dict[str, dict[str, Health]] = {}
        """Host -> instance id -> what was found."""
        self._changed: set[str] = set()
        self._news = trio.Event()

    async def run(self) -> None:
        """Check until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._checker.run)
            while True:
                await self._news.wait()
                await trio.sleep(limits.CHECK_TELL_DELAY)
                self._news = trio.Event()
                hosts, self._changed = self._changed, set()
                self._place({host: dict(self._health.get(host, {})) for host in hosts})

    def follow(self, snapshot: Snapshot) -> None:
        """Check exactly what counts now. What the snapshot says, from before a restart, stays until we know better."""
        reaches = snapshot.authority.reaches
        if not self._offered.know(snapshot) and reaches == self._signed:
            return
        self._signed = reaches
        hosts = snapshot.behind(self._gateway)
        instances = [instance for host in hosts for instance in snapshot.offers(host)]
        self._instances = {instance.id: instance for instance in instances}
        self._limited = with_limit(instances)
        before, self._health = self._health, {host: {} for host in hosts}
        self._reaches = {}
        for instance in instances:
            known = before.get(instance.host, snapshot.health_on(instance.host))
            if instance.id in known:
                self._health[instance.host][instance.id] = known[instance.id]
        watched = {i.id: found for i in instances if (found := self._watched(i)) is not None}
        self._checker.set_instances(watched)
        for host in hosts:
            if self._health[host] != snapshot.health_on(host):
                self._tell(host)

    def is_back(self, host: str) -> None:
        """Streams can be taken there again: what is on it is asked at once."""
        self._checker.soon(host)

    def _watched(self, instance: Instance) -> Watched | None:
        """What to probe; one that cannot be probed fails, in words."""
        try:
            self._reaches[instance.host] = self._offered.reach(instance)
            target = parse_endpoint(instance.target)
            spec = parse_check(instance.check, target=target, allow_exec=True)
            if not isinstance(spec.probe, ExecProbe):
                return Watched(spec, target, instance.host, instance.proxy_protocol)
            reason = f"a program checks only its own host, and no agent runs on {instance.host}"
        except InputError as exc:
            reason = f"its check cannot be used: {exc.what}"
        except Unavailable as exc:
            reason = exc.what
        self._health[instance.host][instance.id] = Health(state="failing", reason=reason)
        return None

    # --- probing --------------------------------------------------------------------------------------------------

    async def _probe(self, watched: Watched) -> Outcome:
        limited = self._limited.get((watched.host, str(watched.target)), ())
        probe = partial(run_probe, watched.spec, watched.target, watched.way(self._way_to(watched)))
        return await within_limits(limited, self._slot, self._known, probe)

    def _known(self, instance: Instance) -> Health:
        return self._health.get(instance.host, {}).get(instance.id, Health())

    def _way_to(self, watched: Watched) -> Connect:
        async def connect(target: Endpoint) -> trio.abc.HalfCloseableStream:
            reach = self._reaches.get(watched.host)
            if reach is None:
                raise Failed(f"nobody has signed how gateway {self._gateway} reaches {watched.host}")
            scheme = parse_reach(reach.url).scheme
            try:
                # The ssh worker would do the handshake which is the question.
                if scheme == "tcp" or (scheme == "tls" and isinstance(watched.spec.probe, TlsProbe)):
                    return await _connect_directly(reach, target)
                return await self._ask_ssh_worker(watched.host, target)
            except Unavailable as exc:
                raise Failed(exc.what) from None

        return connect

    async def _ask_ssh_worker(self, host: str, target: Endpoint) -> trio.SocketStream:
        with WitnessedSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            await last_hop.ask(sock, self._channels, host, str(target))
            # A probe reads no more than it needs: whether an end is one does not matter, and the witness may go.
            if sock.witness is not None:
                sock.witness.close()
            return trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=sock.detach())))

    # --- telling --------------------------------------------------------------------------------------------------

    def _checked(self, instance_id: str, health: Health) -> None:
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        self._health[instance.host][instance_id] = health
        log.info("health changed", instance=instance_id, state=health.state, reason=health.reason)
        self._tell(instance.host)

    def _tell(self, host: str) -> None:
        self._changed.add(host)
        self._news.set()

    def status(self) -> list[dict[str, Any]]:
        """A row for each instance that is checked here."""
        health = {i: found for states in self._health.values() for i, found in states.items()}
        return instance_rows((instance for _, instance in sorted(self._instances.items())), health)

    def problems(self) -> list[str]:
        """Hosts that have more checks than they are asked at a time."""
        budget = f"it is asked one at a time, and at most {limits.CHECK_RATE_PER_HOST:g} times a second"
        late = sorted(self._checker.late().items())
        return [f"checks of host {host} come {seconds:.0f} s late: {budget}" for host, seconds in late]


async def _connect_directly(reach: Reach, target: Endpoint) -> trio.SocketStream:
    """Raises Unavailable when its name leads where nothing is dialled; OSError."""
    family, address = await look_up(target.host, target.port)
    check_address(reach, address)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
