"""Pure: (fake sockets) which ports a gateway listens on for clients, and what `status` says of them."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from typing import Any

import pytest
import trio
import trio.testing

from agents.imports.worker_view import authority_for_workers, placement_for_workers
from agents.published import ports
from agents.published.own_paths import find_path, own_address
from agents.published.ports import PublishedPorts
from agents.workers import messages as m
from bridge.errors import PeerError
from inventory.endpoints import Endpoint
from inventory.health import HealthByHost
from inventory.model import Admission, Client, Gateway, Health, Host, Presence, Publication
from inventory.snapshot import Snapshot
from tests.support.estates import instance, rule, snapshot

HERE = Endpoint("127.0.0.1", 8080)
WEB = Publication(service="web", gateway="gw1", listen=str(HERE))
HOSTS = [Host(name="vm1"), Host(name="vm2"), Host(name="aix1", via="gw1"), Host(name="aix2", via="gw2")]
CLIENTS = [
    Client(name="lpar7", gateways=("gw1",)),
    Client(name="lpar8", gateways=("gw2",)),
    Client(name="pos", gateways=("gw1",)),
]
ADMISSIONS = {
    "lpar7": Admission(client="lpar7", sources=("10.0.0.0/8",)),
    "pos": Admission(client="pos", certificates={"a" * 64: "pem"}),
}
RULES = [rule("r", "allow", "client:** host:aix1", "web")]


def estate(*publications: Publication, **changes: Any) -> Snapshot:
    instances = [instance("web", "vm1"), instance("db", "vm2")]
    made = snapshot(HOSTS, instances, RULES, clients=CLIENTS)
    authority = dataclasses.replace(
        made.authority,
        publications={one.id: one for one in publications},
        admissions=ADMISSIONS,
        gateways={name: Gateway(name=name, address="10.0.0.1:1") for name in ("gw1", "gw2")},
    )
    return made.evolved(authority=authority, **changes)


class Workers:
    """What they were told to listen on, and not any more."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def listen(self, message: m.ListenPublished, sock: socket.socket) -> None:
        self.said.append(("listen", (message.service, message.port, message.tls)))

    def unlisten(self, address: str, port: int) -> None:
        self.said.append(("unlisten", port))

    def take(self) -> list[tuple[str, Any]]:
        said, self.said = self.said, []
        return said


class Kernel:
    def __init__(self) -> None:
        self.taken: set[Endpoint] = set()

    def bind(self, place: Endpoint) -> Any:
        if place in self.taken:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return object()


def made(kernel: Kernel, workers: Workers) -> PublishedPorts:
    return PublishedPorts("gw1", workers, lambda address, port: None, kernel.bind)  # type: ignore[arg-type]


def test_exactly_what_is_signed_for_this_gateway_is_listened_on() -> None:
    workers = Workers()
    published = made(Kernel(), workers)
    assert not published.is_any
    other = Publication(service="web", gateway="gw2", listen="127.0.0.1:1")
    published.follow(estate(WEB, other, Publication(service="web", host="aix1", port=9)))
    assert workers.take() == [("listen", ("web", 8080, False))] and published.is_any
    published.follow(estate(WEB))
    assert workers.take() == [], "nothing is new"
    published.follow(estate(changed(WEB, tls=True)))
    assert workers.take() == [("unlisten", 8080), ("listen", ("web", 8080, True))]
    published.follow(estate())
    assert workers.take() == [("unlisten", 8080)] and not published.is_any


def changed(one: Publication, **changes: Any) -> Publication:
    return Publication(**{**{name: getattr(one, name) for name in one.__struct_fields__}, **changes})


async def test_a_port_that_is_taken_is_named_and_tried_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(function: Any, *args: Any) -> Any:
        """The clock of the test does not wait for threads."""
        await trio.lowlevel.checkpoint()
        return function(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    monkeypatch.setattr(ports, "holder_of", lambda *place: "nginx (pid 7)")
    kernel, workers = Kernel(), Workers()
    kernel.taken.add(HERE)
    published = made(kernel, workers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(published.run)
        published.follow(estate(WEB))
        await trio.sleep(60)
        [problem] = published.problems()
        assert problem.endswith("Address already in use (held by nginx (pid 7))") and "service web" in problem
        assert published.status()[0]["problem"] in problem
        kernel.taken.clear()
        await trio.sleep(60)
        assert workers.take() == [("listen", ("web", 8080, False))] and not published.problems()
        nursery.cancel_scope.cancel()


def test_status_says_who_could_call() -> None:
    on_aix = Publication(service="web", host="aix1", port=9)
    tls = Publication(service="web", gateway="gw1", listen="127.0.0.1:443", tls=True)
    nobodys = Publication(service="db", gateway="gw1", listen="127.0.0.1:1")
    unknown = Publication(service="none", gateway="gw1", listen="127.0.0.1:2")
    elsewhere = Publication(service="web", host="aix2", port=9)
    rows = ports.published_rows(estate(WEB, on_aix, tls, nobodys, unknown, elsewhere), "gw1", {HERE: "taken"})
    assert [(row["at"], row["clients"], row["could_call"], row["problem"]) for row in rows] == [
        ("127.0.0.1:1", "by address", "", ""),
        ("127.0.0.1:2", "by address", "", ""),
        ("127.0.0.1:9 on aix1", "aix1", "host:aix1", ""),
        ("127.0.0.1:443", "with a certificate", "client:pos", ""),
        ("127.0.0.1:8080", "by address", "client:lpar7", "taken"),
    ]


def test_workers_are_told_where_a_published_service_is_and_how_it_is() -> None:
    health = HealthByHost({"web/vm1/127.0.0.1:9000": Health(state="failing"), "db/vm2/127.0.0.1:9000": Health()})
    presence = {name: Presence(host=name, online=True) for name in ("vm1", "vm2")}
    whole = estate(WEB, Publication(service="web", host="aix2", port=9), health=health, presence=presence)
    told = authority_for_workers(whole, "gw1")
    assert set(told.state.publications) == {WEB.id} and [r.name for r in told.allows] == ["r"]
    assert set(told.state.instances) == {"web/vm1/127.0.0.1:9000"}
    placed = placement_for_workers(whole, "gw1", ())
    assert (set(placed.presence), set(placed.health)) == ({"vm1"}, {"web/vm1/127.0.0.1:9000"})
    nothing = placement_for_workers(estate(health=health, presence=presence), "gw1", ())
    assert not nothing.presence and not dict(nothing.health)


def test_a_gateway_reaches_its_own_port() -> None:
    class Listening:
        def __init__(self, *name: Any) -> None:
            self.name = name

        def getsockname(self) -> Any:
            return self.name

    for name, address in [
        (("0.0.0.0", 7443), "127.0.0.1:7443"),
        (("::", 7443, 0, 0), "[::1]:7443"),
        (("10.0.0.1", 7443), "10.0.0.1:7443"),
    ]:
        assert own_address(Listening(*name)) == address  # type: ignore[arg-type]


async def test_a_worker_that_asks_for_a_path_is_answered() -> None:
    class Control:
        async def own_path(self, host: str) -> str:
            if host == "vm9":
                raise PeerError("host vm9 is not connected to gateway gw1")
            return "ticket"

    told: list[Any] = []
    worker: Any = type("Worker", (), {"tell": lambda self, message: told.append(message)})()
    control: Any = Control()
    for host in ("vm1", "vm9"):
        await find_path(worker, m.PathNeeded(peer=host), control, gateway="gw1", address="127.0.0.1:1")
    assert told == [
        m.PathFound(peer="vm1", gateway="gw1", address="127.0.0.1:1", ticket="ticket"),
        m.PathFailed(peer="vm9", reason="host vm9 is not connected to gateway gw1"),
    ]
