"""I/O: the gateway is killed and started again; every host comes back by its own backoff, none is taken for gone."""

from __future__ import annotations

import time

import trio

from agents.admin.client import call
from tests.bench.scale.figures import Section, percentile
from tests.bench.scale.stand import TOLD_TIMEOUT, Stand


class Restart:
    """kill -9, and a new one after `down` seconds; moments are counted from its start."""

    def __init__(self, stand: Stand, down: float = 0.0) -> None:
        self._stand = stand
        self._down = down

    @property
    def _key(self) -> str:
        return "restart" if not self._down else "absence"

    def measure(self) -> Section:
        after = "at once" if not self._down else f"after {self._down:.0f} s"
        stand, section = self._stand, Section(f"The gateway is killed with -9 and started again {after}")
        stand.ask("forget")
        hosts = stand.ask("state")["hosts"]
        stand.gateway.kill9()
        time.sleep(self._down)
        began, simulator = time.time(), stand.simulator_cpu()
        stand.start_gateway()
        ready = time.time()
        back = stand.ask("back", count=hosts, within=TOLD_TIMEOUT)
        cpu = stand.cpu()
        linked = [at - began for at in back["linked_at"]]
        told = [at - began for at in back["told"]]
        section.add(f"{self._key}/ready", "the new gateway is ready", "seconds", ready - began)
        for share in (0.50, 0.99, 1.0):
            section.add(f"{self._key}/linked-{share:g}", f"{share:.0%} linked", "seconds", percentile(linked, share))
        for share in (0.50, 0.99, 1.0):
            section.add(f"{self._key}/told-{share:g}", f"{share:.0%} told all", "seconds", percentile(told, share))
        section.add(f"{self._key}/lost", "hosts that did not come back", "count", hosts - len(told), 0)
        section.add(f"{self._key}/away", "hosts wrongly said to be away", "count", self._wrongly_away(back["away"]), 0)
        section.add(
            f"{self._key}/handshakes", "handshakes in the busiest second", "per second", back["handshakes_peak"]
        )
        section.add(f"{self._key}/failed", "handshakes that failed", "count", back["handshakes_failed"])
        section.add(
            f"{self._key}/cpu-supervisor", "CPU of the supervisor until all were told", "seconds", cpu.supervisor
        )
        section.add(f"{self._key}/cpu-workers", "CPU of the workers until all were told", "seconds", cpu.workers)
        section.add(f"{self._key}/cpu-simulator", "CPU of all simulated hosts", "seconds", cpu.simulator - simulator)
        section.raw.update(linked=linked, told=told, away=back["away"], why_not=back["why_not"])
        if back["refused"] or back["crashes"]:
            section.notes.append(f"hosts complained: {back['refused']} {back['crashes']}")
        return section

    def _wrongly_away(self, told_of: dict[str, int]) -> int:
        """Hosts that others were told are away, or that the gateway says are, although they never ended."""
        known = trio.run(call, self._stand.home, "hosts")
        away = {name for name, host in known.items() if not host["online"]}
        names = {*self._stand.shape.team_hosts, *self._stand.shape.core_hosts}
        revoked = set(self._stand.ask("state")["gone"])
        return len(((away & names) | told_of.keys()) - revoked)
