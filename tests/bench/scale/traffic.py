"""I/O: instances come and go at a rate while real agents carry real requests: none may fail.

Two real hosts serve `shop`, a third one uses it; each is an agent process as an operator would run it. One of the two
has a second instance that comes and goes as well, by its services.toml. All requests go through tunnels between them.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from tests.bench.cpu import cpu_seconds
from tests.bench.scale.figures import Section, percentile
from tests.bench.scale.shape import PORT, SHOP, SHOP_CLIENT, team_name
from tests.bench.scale.stand import Stand
from tests.support.estate import Estate
from tests.support.traffic import Backend, Load, ask, eventually

_SERVING = ("far1", "far2")
_REQUESTS = 200.0
_FLIP = 5.0
"""Seconds between two changes of the real host's own services: each SIGHUP starts new workers as well."""
_ONE_WORKER = ("--workers", "1")
"""The real agents are there for their requests; the two cores are for the gateway and its hosts."""
_PATIENCE = 60.0
_SEED = 7


def enrol_real_hosts(estate: Estate) -> None:
    """While the gateway runs and the estate is small. The client is of the first team, so it is told of its changes."""
    for name in _SERVING:
        estate.add_host(name, serve=[SHOP], listen=estate.free_endpoint())
    estate.add_host(SHOP_CLIENT, labels={"team": team_name(0)})


class ComingAndGoing:
    """Changes at `rate` a second for `seconds`."""

    def __init__(self, stand: Stand, *, rate: float, seconds: float) -> None:
        self._stand = stand
        self._rate = rate
        self._seconds = seconds

    def measure(self) -> Section:
        stand = self._stand
        section = Section(f"{self._rate:.0f} instance changes a second for {self._seconds:.0f} s under real traffic")
        with contextlib.ExitStack() as stack:
            backends = [stack.enter_context(Backend(name)) for name in ("one", "two", "three")]
            address = self._start_agents(backends)
            stand.loop_lag()
            pids = {name: stand.estate.nodes[name].pid for name in (*_SERVING, SHOP_CLIENT)}
            agents = {name: cpu_seconds([pid]) for name, pid in pids.items()}
            before, began = stand.cpu(), time.monotonic()
            with stand.supervisor_lag() as lags, self._flipping(backends), Load(*address, rate=_REQUESTS) as load:
                found = stand.ask("churn", rate=self._rate, seconds=self._seconds, seed=_SEED)
            cpu, took = stand.cpu() - before, time.monotonic() - began
            for name, pid in pids.items():
                agents[name] = cpu_seconds([pid]) - agents[name]
                stand.estate.terminate(name)
        section.add("churn/failed", "failed requests", "count", len(load.failures), 0)
        section.add("churn/requests", "requests", "count", load.total)
        section.add("churn/changes", "changes of instances", "count", found["changes"])
        for name, share in (("p50", 0.50), ("p99", 0.99), ("max", 1.0)):
            section.add(
                f"churn/{name}", f"reported until in force: {name}", "seconds", percentile(found["lags"], share)
            )
        section.add("churn/differing", "hosts that know something else at the end", "count", len(found["differing"]), 0)
        section.add("churn/cpu-supervisor", "CPU of the supervisor, cores", "share", cpu.supervisor / took)
        section.add("churn/cpu-workers", "CPU of the workers, cores", "share", cpu.workers / took)
        section.add("churn/cpu-simulator", "CPU of all simulated hosts, cores", "share", cpu.simulator / took)
        for name, spent in agents.items():
            section.add(f"churn/cpu-{name}", f"CPU of the real agent {name}, cores", "share", spent / took)
        section.add("churn/lag", "supervisor busy for", "seconds", max(lags, default=0.0))
        section.add("churn/settled", "until all agreed after the last change", "seconds", took - self._seconds)
        section.raw.update(failures=load.failures[:20], answers=dict(load.answers), agents=agents)
        section.raw.update({name: value for name, value in found.items() if name != "lags"})
        return section

    def _start_agents(self, backends: list[Backend]) -> tuple[str, int]:
        """Where the client's programs reach the service, once a request got through."""
        estate = self._stand.estate
        self._offer("far1", backends[0])
        self._offer("far2", backends[1])
        for name in (*_SERVING, SHOP_CLIENT):
            estate.start_agent(name, *_ONE_WORKER)
        found = eventually(lambda: estate.cli(SHOP_CLIENT, "resolve", SHOP).stdout, timeout=_PATIENCE, what="shop")
        address = (found.split()[0], PORT)
        eventually(lambda: ask(*address), timeout=_PATIENCE)
        return address

    def _offer(self, name: str, *backends: Backend) -> None:
        text = "".join(
            f'[[service]]\nname = "{SHOP}"\ntarget = "{backend.target}"\nport = {PORT}\n\n' for backend in backends
        )
        (self._stand.estate.home(name) / "services.toml").write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def _flipping(self, backends: list[Backend]) -> Iterator[None]:
        """A real instance that comes and goes."""
        stop = threading.Event()

        def flip() -> None:
            both = False
            while not stop.wait(_FLIP):
                both = not both
                self._offer("far1", backends[0], *([backends[2]] if both else []))
                self._stand.estate.nodes["far1"].signal(signal.SIGHUP)

        thread = threading.Thread(target=flip, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
