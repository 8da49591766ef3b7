"""Pure: (fakes) which checks a gateway makes of the hosts behind it, and what it tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agents.checks.answers import Outcome
from agents.checks.runner import Watched
from agents.reach.checks import ReachedChecks
from bridge import limits
from inventory.health import HealthByHost
from inventory.model import Gateway, Health, Host, Instance, Reach
from inventory.snapshot import Snapshot
from tests.support.estates import snapshot

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS"
AIX = Reach(host="aix1", gateway="gw1", url="ssh://bridge@192.0.2.7", host_keys=(KEY,))
LPAR = Reach(host="lpar7", gateway="gw1", url="tcp://192.0.2.8")
OTHER = Reach(host="sun1", gateway="gw2", url="tcp://192.0.2.9")


def on(host: str, target: str, check: str | None = None, service: str = "s") -> Instance:
    return Instance(service=service, host=host, target=target, port=23, check=check)


class Gateway1:
    """What a gateway agent has around its checks."""

    def __init__(self) -> None:
        hosts = [Host(name=reach.host, via=reach.gateway) for reach in (AIX, LPAR, OTHER)]
        self.snapshot: Snapshot = snapshot([*hosts, Host(name="vm1")])
        self.probed: list[Watched] = []
        self.outcome = Outcome(True, "fine")
        self.told: list[dict[str, Mapping[str, Health]]] = []
        self.checks = ReachedChecks("gw1", Path("/home"), self.place, probe=self.probe)

    def sign(self, *instances: Instance, reaches: tuple[Reach, ...] = (AIX, LPAR, OTHER), **changes: Any) -> None:
        authority = replace(
            self.snapshot.authority,
            instances={i.id: i for i in instances},
            reaches={reach.host: reach for reach in reaches},
            gateways={"gw1": Gateway(name="gw1", address="192.0.2.1:7443")},
            **changes,
        )
        self.snapshot = self.snapshot.evolved(authority=authority)
        self.checks.follow(self.snapshot)

    async def probe(self, watched: Watched) -> Outcome:
        self.probed.append(watched)
        await trio.lowlevel.checkpoint()
        return self.outcome

    def place(self, found: Mapping[str, Mapping[str, Health]]) -> None:
        self.told.append(dict(found))
        self.snapshot = self.snapshot.evolved(health=self.snapshot.health.with_hosts(found))

    def health(self, instance: Instance) -> Health | None:
        return self.snapshot.health.get(instance.id)


async def test_it_asks_what_is_behind_this_gateway_and_nothing_else(autojump_clock: trio.testing.MockClock) -> None:
    gateway = Gateway1()
    aix, lpar = on("aix1", "127.0.0.1:50000", "ssh"), on("lpar7", "192.0.2.8:23", "tn3270")
    gateway.sign(aix, lpar, on("sun1", "192.0.2.9:23"), on("vm1", "127.0.0.1:9000"))
    with trio.move_on_after(5):
        await gateway.checks.run()
    assert {watched.host for watched in gateway.probed} == {"aix1", "lpar7"}
    assert gateway.health(aix) == gateway.health(lpar) == Health(state="passing", reason="fine")


async def test_what_is_found_within_a_moment_is_told_at_once(autojump_clock: trio.testing.MockClock) -> None:
    gateway = Gateway1()
    gateway.sign(*(on("lpar7", f"192.0.2.8:{port}", "tcp", f"s{port}") for port in range(1, 4)), on("aix1", "x:1"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.checks.run)
        await trio.sleep(5)
        assert len(gateway.told) <= 3, "the first of both hosts together, then those that waited for their turn"
        assert set(gateway.told[0]) == {"aix1", "lpar7"}
        told = len(gateway.told)
        await trio.sleep(20)
        assert len(gateway.told) == told, "nothing changed"
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_probed_fails_in_words(autojump_clock: trio.testing.MockClock) -> None:
    gateway = Gateway1()
    cannot = [
        (on("aix1", "127.0.0.1:1", "exec:/bin/true"), "a program checks only its own host, and no agent runs on aix1"),
        (on("aix1", "127.0.0.1:2", "gopher"), "its check cannot be used: 'gopher' is not a check"),
        (on("lpar7", "192.0.2.7:1"), "a host reached by tcp:// has its targets at 192.0.2.8"),
    ]
    gateway.sign(*(instance for instance, _ in cannot))
    with trio.move_on_after(5):
        await gateway.checks.run()
    for instance, reason in cannot:
        known = gateway.health(instance)
        assert known is not None and known.state == "failing" and reason in known.reason
    assert gateway.probed == []


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("tcp://192.0.2.1", "192.0.2.1:80"),
        ("tcp://127.0.0.1", "127.0.0.1:8080"),
        ("tls://[::1]", "[::1]:443"),
        ("ssh://bridge@192.0.2.1:7443", "127.0.0.1:80"),
    ],
)
async def test_c38_a_host_that_leads_back_to_the_gateway_is_not_probed(
    autojump_clock: trio.testing.MockClock, url: str, target: str
) -> None:
    gateway = Gateway1()
    back = on("lpar7", target)
    keys = (KEY,) if url.startswith("ssh") else ()
    gateway.sign(back, reaches=(Reach(host="lpar7", gateway="gw1", url=url, host_keys=keys),))
    with trio.move_on_after(5):
        await gateway.checks.run()
    known = gateway.health(back)
    assert known is not None and known.reason.startswith("lpar7 is not dialled: ")
    assert gateway.probed == []


async def test_what_was_known_before_a_restart_stays_until_the_first_probe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gateway = Gateway1()
    kept, gone = on("aix1", "127.0.0.1:1"), on("aix1", "127.0.0.1:2")
    before = Health(state="failing", reason="from before")
    gateway.snapshot = gateway.snapshot.evolved(health=HealthByHost({kept.id: before, gone.id: before}))
    gateway.sign(kept)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.checks.run)
        await trio.sleep(limits.CHECK_TELL_DELAY * 2)
        assert gateway.told and kept.id in gateway.told[0]["aix1"]
        await trio.sleep(1)
        assert gateway.health(kept) == Health(state="passing", reason="fine")
        assert gateway.health(gone) is None
        gateway.sign()
        await trio.sleep(1)
        assert gateway.health(kept) is None
        nursery.cancel_scope.cancel()


async def test_a_changed_way_is_taken_by_the_next_probe_and_forgets_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gateway = Gateway1()
    lpar = on("lpar7", "192.0.2.8:23")
    async with trio.open_nursery() as nursery:
        gateway.sign(lpar)
        nursery.start_soon(gateway.checks.run)
        await trio.sleep(1)
        gateway.sign(lpar, reaches=(Reach(host="lpar7", gateway="gw1", url="tcp://192.0.2.99"),))
        await trio.sleep(1)
        known = gateway.health(lpar)
        assert known is not None and "has its targets at 192.0.2.99" in known.reason
        gateway.sign(lpar)
        await trio.sleep(1)
        assert gateway.health(lpar) == Health(state="passing", reason="fine")
        nursery.cancel_scope.cancel()
