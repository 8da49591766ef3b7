"""I/O: what may happen to an estate of tests/support/consul_estate.py: each of its processes killed, each of its cables
cut; and which requests may fail of it, and until when.

A request may fail of a fault only if it was under way while the fault had its way with the service. Where the service
cannot do without what was killed or cut, that is until it answers again; where there is another way, until it is
noticed that this one is gone: at once for a process, by missed heartbeats for a cable.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from random import Random

from bridge import limits
from tests.support.consul_cluster import LAN, NAMES, RAFT
from tests.support.consul_estate import CALLER, HOSTS, SERVED, ConsulEstate, Failure
from tests.support.network import paths
from tests.support.operator_shell import OperatorShell
from tests.support.pair import status, worker_pids
from tests.support.traffic import eventually

KILL_NOTICED = 3.0
"""Seconds until a caller has gone another way when a process is gone: its sockets say so at once, and a busy machine
takes a moment to act on it."""
CUT_NOTICED = limits.HEARTBEAT_INTERVAL * (limits.HEARTBEAT_MISSES + 1) + limits.DIAL_TIMEOUT
"""When a cable is out nobody says so."""
SETTLES = 2.0
"""After the first answer of a service that was away: its callers have workers of their own, each with its tunnels."""
RECOVERY_TIMEOUT = 60.0


@dataclass(frozen=True)
class Window:
    """Requests to these services that were under way then may fail."""

    fault: str
    services: frozenset[str]
    start: float
    end: float

    def explains(self, failure: Failure) -> bool:
        return failure.service in self.services and failure.began <= self.end and failure.ended >= self.start


@dataclass(frozen=True)
class Fault:
    """One thing that happens, and how it is put right.

    Args:
        breaks, mends: it is over when `mends` has returned.
        without: services that cannot do without it.
        around: services that have another way.
        noticed: seconds until they go it.
        lasts: the shortest and the longest time between the two.
        is_gateways: whether it is a gateway's, through which vm1 is reached too after the caller had lost it.
    """

    name: str
    breaks: Callable[[], None]
    mends: Callable[[], None]
    without: frozenset[str] = frozenset()
    around: frozenset[str] = frozenset()
    noticed: float = KILL_NOTICED
    lasts: tuple[float, float] = (0.5, 3.0)
    is_consuls: bool = False
    is_gateways: bool = False

    @property
    def kind(self) -> str:
        """Only a process that is gone says so at once."""
        return "killed" if self.noticed == KILL_NOTICED else "cut"


@dataclass
class Faults:
    """All that may happen to one estate."""

    running: ConsulEstate
    shell: OperatorShell
    windows: list[Window] = field(default_factory=list)
    """Of what has happened so far."""
    longest_cut: float = 6.0

    def everything(self) -> list[Fault]:
        found = [Fault("operator killed", self.shell.kill9, lambda: None)]
        for name in NAMES:
            found += self._of_consul(name)
        for node in (*self.running.gateways, *HOSTS):
            found += self._of_node(node)
        return found + list(self._of_pairs())

    def _of_pairs(self) -> Iterator[Fault]:
        """Two that have something to say to each other lose each other; each still has everybody else."""
        gateways = self.running.gateways
        for home, gateway in gateways.items():
            without, around = through(home, gateways=len(gateways))
            for name in NAMES:
                yield self._parted(gateway, name)
            for host in HOSTS:
                # A tunnel through the gateway is between the caller and vm2; vm1 is dialled directly, as a rule.
                fault = self._parted(gateway, host, *((without, around) if host in ("vm2", CALLER) else ()))
                yield replace(fault, is_gateways=True)
        yield self._parted(CALLER, "vm1", frozenset(), through("vm1", gateways=1)[0] | through("vm1", gateways=1)[1])
        for one, other in combinations(NAMES, 2):
            yield replace(self._parted(one, other, segment=RAFT), is_consuls=True)

    def _parted(
        self,
        one: str,
        other: str,
        without: frozenset[str] = frozenset(),
        around: frozenset[str] = frozenset(),
        *,
        segment: str = LAN,
    ) -> Fault:
        network = self.running.network
        return Fault(
            f"{one} and {other} parted",
            partial(network.part, one, other, segment),
            partial(network.meet, one, other, segment),
            without,
            around,
            noticed=CUT_NOTICED,
            lasts=(1.0, self.longest_cut),
        )

    def _of_consul(self, name: str) -> list[Fault]:
        cluster, network = self.running.cluster, self.running.network
        kill = partial(cluster.stop, name, kill=True)
        cut = (1.0, self.longest_cut)
        return [
            Fault(f"{name} killed", kill, partial(cluster.start, name), is_consuls=True),
            *(
                Fault(
                    f"{name} cut off from {whom}",
                    partial(network.cut, name, segment),
                    partial(network.join, name, segment),
                    noticed=CUT_NOTICED,
                    lasts=cut,
                    is_consuls=True,
                )
                for segment, whom in ((LAN, "its clients"), (RAFT, "the others"))
            ),
        ]

    def _of_node(self, node: str) -> list[Fault]:
        estate, network = self.running.estate, self.running.network
        without, around = through(node, gateways=len(self.running.gateways))
        where = self.running.gateways.get(node, node)
        found = [
            Fault(f"{node} killed", partial(estate.kill9, node), partial(self._start, node), without, around),
            Fault(
                f"a worker of {node} killed",
                partial(self._kill_worker, node),
                lambda: None,
                frozenset(),
                without | around,
            ),
            Fault(
                f"{node}'s cable cut",
                partial(network.cut, where, LAN),
                partial(network.join, where, LAN),
                without,
                around,
                noticed=CUT_NOTICED,
                lasts=(1.0, self.longest_cut),
            ),
        ]
        return [replace(fault, is_gateways=node in self.running.gateways) for fault in found]

    def _start(self, node: str) -> None:
        if node in self.running.gateways:
            self.running.estate.start_gateway(home=node)
        else:
            self.running.estate.start_agent(node)

    def _kill_worker(self, node: str) -> None:
        os.kill(worker_pids(self.running.estate, node)[0], signal.SIGKILL)

    # --- letting one happen ---------------------------------------------------------------------------------------

    def happen(self, fault: Fault, chance: Random) -> str:
        """Returns when all is well again, with what to print of it."""
        running = self.running
        if fault.is_gateways and paths(running.estate, CALLER, "vm1") != {"direct"}:
            fault = replace(fault, around=fault.around | {"direct", "both"})
        if fault.is_consuls:  # two of three may not be away: that is another test
            for name in NAMES:
                running.cluster.wait_writable(name)
        began = time.monotonic()
        fault.breaks()
        time.sleep(chance.uniform(*fault.lasts))
        fault.mends()
        mended = time.monotonic()
        for service in sorted(fault.without | fault.around):
            running.wait_answer(service, timeout=RECOVERY_TIMEOUT)
        self._wait_here()
        well = time.monotonic()
        if fault.without:
            self.windows.append(Window(fault.name, fault.without, began, well + SETTLES))
        if fault.around:
            self.windows.append(Window(fault.name, fault.around, began, min(began + fault.noticed, well)))
        return f"{fault.name}: {mended - began:.1f} s, well again {well - mended:.1f} s after that"

    def _wait_here(self) -> None:
        """Until every gateway has every host."""
        estate = self.running.estate

        def connected(gateway: str) -> bool:
            seen = {host["name"]: host["state"] for host in status(estate, gateway).get("hosts", ())}
            assert all(seen.get(host) == "online" for host in HOSTS), seen
            return True

        for gateway in self.running.gateways:
            eventually(partial(connected, gateway), timeout=RECOVERY_TIMEOUT, what=f"all hosts at {gateway}")

    def explained(self, failures: Iterable[Failure]) -> Counter[str]:
        """How many failed of each fault, and of what."""
        found: Counter[str] = Counter()
        for failure in failures:
            last = next((window for window in reversed(self.windows) if window.explains(failure)), None)
            found[last.fault if last else "nothing"] += 1
        return found

    def unexplained(self, failures: Iterable[Failure]) -> list[Failure]:
        return [failure for failure in failures if not any(window.explains(failure) for window in self.windows)]


def through(node: str, *, gateways: int) -> tuple[frozenset[str], frozenset[str]]:
    """Services that a node is the only way to, and those that it is one of the ways to."""
    if node == CALLER:
        return frozenset(SERVED), frozenset()
    if node in HOSTS:
        alone = frozenset(service for service, hosts in SERVED.items() if hosts == [node])
        return alone, frozenset(service for service, hosts in SERVED.items() if node in hosts) - alone
    passing = frozenset(service for service, hosts in SERVED.items() if "vm2" in hosts)
    alone = frozenset(service for service in passing if SERVED[service] == ["vm2"]) if gateways == 1 else frozenset()
    return alone, passing - alone
