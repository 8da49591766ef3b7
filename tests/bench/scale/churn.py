"""I/O: (trio sleeps) instances that come, go, move and fail at a given rate, and how late other hosts knew of it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import trio

from agents.control.client import GatewayLink
from agents.control.messages import Update
from inventory.model import Health, Instance
from tests.bench.scale.shape import PASSING, PORT, SHOP

_LABEL = "churn"
_MARK = "churn "
_EXTRA_PORT = 30000
_SHOP_EVERY = 20
"""Every so many changes one of the service that real hosts use."""


class Host(Protocol):
    """A simulated host, as far as it is needed here."""

    name: str
    instances: dict[str, Instance]
    health: dict[str, Health]
    link: GatewayLink


class Churn:
    """Changes of one host each. Every change but a removal carries a number that others recognise it by."""

    def __init__(self, hosts: Sequence[Host], shop: Host, rng: random.Random) -> None:
        self._hosts = hosts
        self._shop = shop
        self._rng = rng
        self._sent: list[float] = []
        """By number: when the host reported it."""
        self._kinds: Counter[str] = Counter()
        self._newest: dict[tuple[str, str], int] = {}
        """(observer, host) -> the newest change that it has seen."""
        self._by: dict[int, str] = {}
        self._lags: list[float] = []
        self._heard: set[int] = set()

    async def run(self, rate: float, seconds: float) -> None:
        """At `rate` changes a second; when this process falls behind, it catches up."""
        began = trio.current_time()
        for number in range(int(rate * seconds)):
            await trio.sleep_until(began + number / rate)
            self._change(self._rng.choice(self._hosts), number)

    def _change(self, host: Host, number: int) -> None:
        if number % _SHOP_EVERY == 0:
            host = self._shop
            self._move_shop(host, number)
            self._kinds["shop"] += 1
        else:
            self._change_any(host, number)
        self._sent.append(time.time())
        self._by[number] = host.name
        host.link.report_changed()

    def _move_shop(self, host: Host, number: int) -> None:
        """An instance of the service that real hosts use, always failing: nothing listens there, nobody may try it."""
        for gone in [i.id for i in host.instances.values() if i.service == SHOP]:
            del host.instances[gone]
            del host.health[gone]
        target = f"127.0.0.1:{_EXTRA_PORT + number % 30000}"
        made = Instance(service=SHOP, host=host.name, target=target, port=PORT)
        host.instances[made.id] = made
        host.health[made.id] = Health(state="failing", reason=f"{_MARK}{number}")

    def _change_any(self, host: Host, number: int) -> None:
        kinds = {"add": self._add, "move": self._move, "fail": self._fail, "heal": self._heal, "remove": self._remove}
        extra = [i for i in host.instances.values() if _LABEL in i.labels]
        failing = [i for i, health in self._own(host).items() if health.state == "failing"]
        kind = self._rng.choice(["add", "fail", *(["move", "remove"] if extra else []), *(["heal"] if failing else [])])
        kinds[kind](host, number)
        self._kinds[kind] += 1

    def _add(self, host: Host, number: int) -> None:
        like = self._rng.choice([i for i in host.instances.values() if i.service != SHOP])
        target = f"127.0.0.1:{_EXTRA_PORT + number % 30000}"
        made = msgspec.structs.replace(like, target=target, labels={_LABEL: str(number)})
        host.instances[made.id] = made
        host.health[made.id] = PASSING

    def _remove(self, host: Host, number: int) -> None:
        gone = self._rng.choice([i.id for i in host.instances.values() if _LABEL in i.labels])
        del host.instances[gone]
        host.health.pop(gone, None)

    def _move(self, host: Host, number: int) -> None:
        """As a container that is started again elsewhere: one goes and another comes."""
        self._remove(host, number)
        self._add(host, number)

    def _fail(self, host: Host, number: int) -> None:
        host.health[self._rng.choice(list(self._own(host)))] = Health(state="failing", reason=f"{_MARK}{number}")

    def _heal(self, host: Host, number: int) -> None:
        sick = self._rng.choice([i for i, health in self._own(host).items() if health.state == "failing"])
        host.health[sick] = Health(state="passing", reason=f"{_MARK}{number}")

    def _own(self, host: Host) -> dict[str, Health]:
        return {i: health for i, health in host.health.items() if host.instances[i].service != SHOP}

    def heard(self, observer: str, update: Update, at: float) -> None:
        """An update was applied by `observer`."""
        found = [int(h.reason[len(_MARK) :]) for h in update.health.values() if h and h.reason.startswith(_MARK)]
        for instances in update.reported.values():
            found += [int(instance.labels[_LABEL]) for instance in instances if _LABEL in instance.labels]
        for number in sorted(set(found)):
            self._noticed(observer, number, at)

    def _noticed(self, observer: str, number: int, at: float) -> None:
        host = self._by.get(number)
        if host is None or observer == host or self._newest.get((observer, host), -1) >= number:
            return
        self._newest[observer, host] = number
        self._heard.add(number)
        self._lags.append(at - self._sent[number])

    def figures(self) -> dict[str, Any]:
        return {
            "changes": len(self._sent),
            "kinds": dict(self._kinds),
            "lags": sorted(self._lags),
            "heard": len(self._heard),
        }
