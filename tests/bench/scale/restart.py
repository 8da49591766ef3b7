"""I/O: the gateway is killed and started again; every host comes back by its own backoff, none is taken for gone."""

from __future__ import annotations

import time

import trio

from agents.admin.client import call
from tests.bench.scale.figures import Section, percentile
from tests.bench.scale.stand import TOLD_TIMEOUT, Stand


class Restart:
    """kill -9, and the next moment a new one."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand

    def measure(self) -> Section:
        stand, section = self._stand, Section("The gateway is killed with -9 and started again")
        stand.ask("forget")
        hosts = stand.ask("state")["hosts"]
        began, simulator = time.time(), stand.cpu().simulator
        stand.gateway.kill9()
        stand.start_gateway()
        ready = time.time()
        back = stand.ask("back", count=hosts, within=TOLD_TIMEOUT)
        cpu = stand.cpu()
        linked = [at - began for at in back["linked_at"]]
        told = [at - began for at in back["told"]]
        section.add("restart/ready", "the new gateway is ready", "seconds", ready - began)
        for share in (0.50, 0.99, 1.0):
            section.add(f"restart/linked-{share:g}", f"{share:.0%} linked", "seconds", percentile(linked, share))
        for share in (0.50, 0.99, 1.0):
            section.add(f"restart/told-{share:g}", f"{share:.0%} told all", "seconds", percentile(told, share))
        section.add("restart/lost", "hosts that did not come back", "count", hosts - len(told), 0)
        section.add("restart/away", "hosts wrongly said to be away", "count", self._wrongly_away(back["away"]), 0)
        section.add("restart/handshakes", "handshakes in the busiest second", "per second", back["handshakes_peak"])
        section.add("restart/failed", "handshakes that failed", "count", back["handshakes_failed"])
        section.add("restart/cpu-supervisor", "CPU of the supervisor until all were told", "seconds", cpu.supervisor)
        section.add("restart/cpu-workers", "CPU of the workers until all were told", "seconds", cpu.workers)
        section.add("restart/cpu-simulator", "CPU of all simulated hosts", "seconds", cpu.simulator - simulator)
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
