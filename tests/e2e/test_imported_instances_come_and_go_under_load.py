"""I/O: instances come, go, fall ill and crash in Consul 50 times a second while clients call: no request fails.

vm2 ══ gw1, gw2 ── backends        Consul: real; each change is a call to its catalog, as Nomad would make it

One that leaves is deregistered first and stopped a while after, as orchestrators do it. One that is ill is listed as
critical and goes on serving. One that crashes is listed as passing until its check finds it, and refuses connections.
"""

from __future__ import annotations

import collections
import contextlib
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from agents.estate import load_config
from tests.support.consul_catalog import Catalog
from tests.support.consul_server import new_consul, options
from tests.support.estate import OPERATOR, Estate, allow
from tests.support.gateways import add_gateway, wait_linked
from tests.support.pair import CLIENT, join, locate, status, wait_connected
from tests.support.town import Town
from tests.support.traffic import Backend, Load, ask, eventually

CHANGES_PER_SECOND = 50
SECONDS = 15.0
INSTANCES = 10
GRACE = 1.0
"""Seconds from deregistering a backend to stopping it, as docs/consul.md asks for."""
UNNOTICED = 0.3
"""Seconds for which Consul lists one that has crashed."""
REQUESTS_PER_SECOND = 100
FOLLOWED_WITHIN = 1.0
GATEWAYS = ("gw1", "gw2")


class Pods:
    """Backends, and what Consul lists of them."""

    def __init__(self, catalog: Catalog, stack: contextlib.ExitStack, rng: random.Random) -> None:
        self._catalog = catalog
        self._stack = stack
        self._rng = rng
        self._count = 0
        self._listed: list[Backend] = []
        self._ill: list[Backend] = []
        self._leaving: collections.deque[tuple[float, Backend]] = collections.deque()
        self._crashed: tuple[float, Backend] | None = None
        self.done: collections.Counter[str] = collections.Counter()

    @property
    def passing(self) -> int:
        return len(self._listed) + (self._crashed is not None)

    def change(self) -> None:
        """One call to Consul's catalog."""
        if self._crashed is not None and self._crashed[0] < time.monotonic():
            return self._do(self.find_crashed)
        if len(self._listed) < INSTANCES / 2:
            return self._do(self._rng.choice([self.heal, self.come]) if self._ill else self.come)
        choices: list[Callable[[], None]] = [self.go, self.fall_ill]
        if len(self._listed) < 2 * INSTANCES:
            choices += [self.come] * (1 if self._ill else 2) + [self.heal] * bool(self._ill)
        if self._crashed is None:
            self.crash()
        return self._do(self._rng.choice(choices))

    def _do(self, action: Callable[[], None]) -> None:
        self.done[action.__name__] += 1
        action()

    def come(self) -> None:
        self._count += 1
        pod = self._stack.enter_context(Backend(f"pod-{self._count}"))
        self._listed.append(pod)
        self._catalog.register("pods", pod.target)

    def go(self) -> None:
        pod = self._any(self._listed)
        self._catalog.deregister("pods", pod.target)
        self._leaving.append((time.monotonic() + GRACE, pod))

    def fall_ill(self) -> None:
        pod = self._any(self._listed)
        self._catalog.register("pods", pod.target, status="critical")
        self._ill.append(pod)

    def heal(self) -> None:
        pod = self._any(self._ill)
        self._catalog.register("pods", pod.target)
        self._listed.append(pod)

    def crash(self) -> None:
        """It tells nobody. One at a time: how many tries a request has is not what this is about."""
        pod = self._any(self._listed)
        pod.stop()
        self._crashed = (time.monotonic() + UNNOTICED, pod)

    def find_crashed(self) -> None:
        assert self._crashed is not None
        self._catalog.register("pods", self._crashed[1].target, status="critical")
        self._crashed = None

    def _any(self, pods: list[Backend]) -> Backend:
        return pods.pop(self._rng.randrange(len(pods)))

    def stop_those_that_left(self) -> None:
        while self._leaving and self._leaving[0][0] < time.monotonic():
            self._leaving.popleft()[1].stop()


def test_no_request_fails_at_fifty_changes_a_second(estate: Estate, consul_program: Path, seed: int) -> None:
    with new_consul(estate.path, estate) as consul, contextlib.ExitStack() as stack:
        estate.init("--registry", "consul", *options(consul.place()))
        estate.start_gateway()
        join(estate, CLIENT)
        estate.start_agent(CLIENT)
        wait_connected(estate, CLIENT)
        registry = load_config(estate.home(OPERATOR)).consul
        assert registry is not None
        add_gateway(estate, GATEWAYS[1], registry)
        wait_linked(estate, (CLIENT,), *GATEWAYS)
        town = Town(estate)
        pods = Pods(Catalog(consul), stack, random.Random(seed))
        for _ in range(INSTANCES):
            pods.come()
        town.policy(allow("host:*", "pods"))
        town.ok(OPERATOR, "service", "import", "pods", "--port", "80", "--allow-loopback")
        place = locate(estate, CLIENT, "pods")
        eventually(lambda: ask(*place))
        changes, late = 0, 0.0
        with Load(*place, rate=REQUESTS_PER_SECOND) as load:
            began = time.monotonic()
            while time.monotonic() - began < SECONDS:
                pods.change()
                pods.stop_those_that_left()
                changes += 1
                due = began + changes / CHANGES_PER_SECOND - time.monotonic()
                late = max(late, -due)
                time.sleep(max(0.0, due))
            rate = changes / (time.monotonic() - began)
            load.wait_for(20)
        eventually(lambda: known(estate) == pods.passing * len(GATEWAYS), what="the host knows what Consul lists")
        took = sorted(seconds_until_followed(estate, pods) for _ in range(9))
        print(
            f"{changes} changes at {rate:.0f}/s ({dict(pods.done)}), {load.total} requests over {len(load.answers)} "
            f"instances, {len(load.failures)} failed, at most {late:.2f} s behind; a change is known to the host "
            f"{statistics.median(took) * 1000:.0f} ms after the call to Consul (median; slowest {took[-1] * 1000:.0f})"
        )
    assert not load.failures, f"{len(load.failures)} of {load.total} failed: {load.failures[:3]}"
    assert rate > 0.9 * CHANGES_PER_SECOND and len(load.answers) > changes / 8
    assert took[-1] < FOLLOWED_WITHIN


def seconds_until_followed(estate: Estate, pods: Pods) -> float:
    """From one call to Consul until the host has it through every gateway."""
    began = time.monotonic()
    pods.come()
    eventually(lambda: known(estate) == pods.passing * len(GATEWAYS), what="the host knows of one more")
    return time.monotonic() - began


def known(estate: Estate) -> int:
    rows = [row for row in status(estate, CLIENT).get("services", ()) if row["name"] == "pods"]
    return int(rows[0]["passing"]) if rows else 0
