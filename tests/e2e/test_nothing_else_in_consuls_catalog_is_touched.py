"""I/O: our part of Consul's catalog says what the gateway knows, and nobody else's part ever notices.

The writer is the gateway's own, on a snapshot that the test changes; Consul is real, and so are its ACLs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from agents.catalog.entries import node_prefix
from agents.catalog.writer import CatalogWriter
from bridge import limits
from inventory.model import Health, Host, Instance
from inventory.registries.consul_place import ConsulPlace
from tests.support.catalog import PASSING, Reader, World, new_place, until, writing
from tests.support.consul_server import ConsulServer, new_consul
from tests.support.estate import Estate

WRITTEN_WITHIN = 10.0
"""Seconds for 1,000 instances on 100 hosts, which take 35 transactions."""
FOLLOWS_WITHIN = 1.0
STEPS = 150
"""Of the random run; each changes something in the estate, or at others'."""


@pytest.fixture(scope="module")
def server(consul_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    directory = tmp_path_factory.mktemp("catalog")
    with Estate(directory) as ports, new_consul(directory, ports) as started:
        yield started


@pytest.fixture
def reader(server: ConsulServer) -> Reader:
    return Reader(server)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def place(server: ConsulServer, world: World) -> ConsulPlace:
    return new_place(server, world.mark.domain)


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CATALOG_LOOK", 0.5)


def is_as_wanted(reader: Reader, world: World) -> bool:
    states = {"passing": "passing", "failing": "critical", "unknown": "warning"}
    prefix = node_prefix(world.mark.domain)
    wanted = {i: states[world.health.get(i, Health()).state] for i in world.instances}
    return reader.nodes(world.mark).keys() == {prefix + host for host in world.hosts} and (
        reader.services(world.mark) == wanted
    )


def codes(writer: CatalogWriter) -> dict[str, str]:
    return {warning["code"]: warning["text"] for warning in writer.warnings()}


def test_a_thousand_instances_are_written_in_bounded_time_and_not_again(
    reader: Reader, world: World, place: ConsulPlace
) -> None:
    world.fill(100, 50, each=10)

    async def main() -> None:
        began = time.monotonic()
        async with writing(world, place) as writer:
            await until(lambda: writer.status()["catalog"]["services"] == 1000, what="all written", timeout=60)
            took = time.monotonic() - began
            asked = writer.status()["catalog"]["requests"]
            print(f"1,000 instances on 100 hosts in {took:.2f} s with {asked} requests")
            assert took < WRITTEN_WITHIN
            assert is_as_wanted(reader, world)
        index = reader.everything()
        async with writing(world, place) as writer:
            await until(lambda: writer.status()["catalog"]["services"] == 1000, what="all known", timeout=60)
            asked = writer.status()["catalog"]["requests"]
            print(f"known again by {asked} requests, none of which writes")
        assert reader.everything() == index, "a gateway that starts again writes nothing"

    trio.run(main)


def test_while_nothing_changes_next_to_nothing_is_asked(
    reader: Reader, world: World, place: ConsulPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look of every 30 s is made every second here, and a session is renewed every 4 s."""
    monkeypatch.setattr(limits, "CATALOG_LOOK", 1.0)
    world.fill(20, 10, each=10)

    async def main() -> None:
        async with writing(world, place) as writer:
            await until(partial(is_as_wanted, reader, world), what="all written")
            await trio.sleep(2)  # the look that reads our own writes
            before = writer.status()["catalog"]["requests"], reader.everything()
            await trio.sleep(5)
            asked = writer.status()["catalog"]["requests"] - before[0]
            print(f"{asked} requests in 5 s with a look every second")
            assert asked <= 3 * 7 + 2
            assert reader.everything() == before[1]

    trio.run(main)


def test_health_follows_within_a_second(reader: Reader, world: World, place: ConsulPlace) -> None:
    world.fill(20, 10, each=10)
    slowest = 0.0

    async def main() -> None:
        nonlocal slowest
        async with writing(world, place):
            await until(partial(is_as_wanted, reader, world), what="all written")
            for number, state in enumerate(("failing", "unknown", "passing", "failing", "passing")):
                one = list(world.instances.values())[number * 7]
                world.health[one.id] = Health(state=state, reason=f"reason {number}")  # type: ignore[arg-type]
                began = time.monotonic()
                world.publish([one.host])
                await until(partial(is_as_wanted, reader, world), what=f"{one.id} {state}")
                slowest = max(slowest, time.monotonic() - began)

    trio.run(main)
    print(f"slowest of five: {slowest * 1000:.0f} ms")
    assert slowest < FOLLOWS_WITHIN


def foreign_entries(world: World) -> list[dict[str, Any]]:
    """What others have: a node like ours with another mark, one of our name without, services of all sorts."""
    prefix, domain = node_prefix(world.mark.domain), world.mark.domain
    label = domain.partition(".")[0]
    mark = {"meshbridge-domain": domain, "meshbridge-estate": "0" * 16}
    check = {"CheckID": "meshbridge:host", "Name": "theirs", "Status": "passing"}
    return [
        {"Node": f"{prefix}taken", "Address": "192.0.2.1", "NodeMeta": mark, "Check": check},
        {"Node": f"{label}-plain", "Address": "192.0.2.2", "Service": {"Service": f"{label}-theirs", "Port": 1}},
        {
            "Node": f"{label}-other",
            "Address": "192.0.2.3",
            "Service": {"ID": "x", "Service": f"{label}-shared", "Tags": ["a"], "Meta": mark},
            "Check": {"CheckID": "c", "Name": "c", "Status": "critical", "ServiceID": "x", "Output": "\u2603 \x1b"},
        },
    ]


def test_f51_a_long_random_run_touches_nothing_of_others(
    reader: Reader, world: World, place: ConsulPlace, seed: int, looks_often: None
) -> None:
    rng = random.Random(seed)
    label = world.mark.domain.partition(".")[0]
    before = reader.everything()  # Consul's own, and what other tests left
    for entry in foreign_entries(world):
        reader.register(entry)
    theirs = {entry["Node"] for entry in foreign_entries(world)} | before.keys()

    def of_theirs() -> dict[str, str]:
        return {name: text for name, text in reader.everything().items() if name in theirs}

    at_first = of_theirs()
    prefix = node_prefix(world.mark.domain)

    def meddle() -> None:
        """Somebody removes or rewrites what is ours."""
        ids = sorted(world.instances)
        if not ids:
            return
        one = world.instances[rng.choice(ids)]
        node = prefix + one.host
        match rng.randrange(4):
            case 0:
                reader.deregister({"Node": node, "ServiceID": one.id})
            case 1:
                reader.deregister({"Node": node})
            case 2:
                reader.deregister({"Node": node, "CheckID": "meshbridge:" + one.id})
            case _:
                ghost = {"Service": f"{label}-ghost", "ID": f"ghost{rng.randrange(3)}", "Meta": world.mark.meta}
                meta = {**world.mark.meta, "meshbridge-host": "ghost"}
                reader.register({"Node": f"{prefix}ghost", "Address": "g", "NodeMeta": meta, "Service": ghost})

    def step() -> None:
        number = rng.randrange(8)
        name = f"vm{number}"
        if name not in world.hosts:
            world.hosts[name] = Host(name=name)
        action = rng.random()
        if action < 0.5:
            service = f"{label}-{rng.randrange(4)}"
            world.add(Instance(service=service, host=name, target=f"127.0.0.1:{1024 + rng.randrange(5)}", port=80))
        elif action < 0.7:
            world.instances = {i: one for i, one in world.instances.items() if one.host != name or rng.random() < 0.5}
        elif action < 0.8:
            world.instances = {i: one for i, one in world.instances.items() if one.host != name}
            del world.hosts[name]
        else:
            for i in world.instances:
                world.health[i] = rng.choice([PASSING, Health(state="failing", reason="no"), Health()])
        world.publish(world.hosts.keys() | {name})

    async def main() -> None:
        world.hosts["taken"] = Host(name="taken")
        shared = Instance(service=f"{label}-shared", host="vm0", target="127.0.0.1:9", port=80)
        async with writing(world, place) as writer:
            for number in range(STEPS):
                step()
                world.hosts.setdefault("vm0", Host(name="vm0"))
                world.add(shared)
                if number % 10 == 0:
                    await trio.to_thread.run_sync(meddle)
                await trio.sleep(0.02 * rng.random())
            del world.instances[shared.id]
            kept = world.hosts.pop("taken")
            world.publish(["taken", "vm0"])
            await until(partial(is_as_wanted_beside, reader, world, prefix), what="all is as wanted", timeout=30)
            assert of_theirs() == at_first
            world.hosts["taken"] = kept
            world.add(shared)
            world.publish(["taken", "vm0"])
            await until(lambda: "catalog-conflict" in codes(writer), what="the conflict is told")
            world.hosts.clear()
            world.instances.clear()
            world.publish([*(f"vm{number}" for number in range(8)), "taken", "ghost"])
            await until(lambda: reader.everything().keys() == theirs, what="all of ours is gone", timeout=30)
        assert of_theirs() == at_first

    trio.run(main)
    for entry in foreign_entries(world):
        reader.deregister({"Node": entry["Node"]})


def is_as_wanted_beside(reader: Reader, world: World, prefix: str) -> bool:
    """As `is_as_wanted`, with a node of others that has our domain in its mark."""
    checks = reader.services(world.mark)
    wanted = {i: {"passing": "passing", "failing": "critical"}.get(h.state, "warning") for i, h in world.health.items()}
    nodes = reader.nodes(world.mark).keys() - {prefix + "taken"}
    assert nodes == {prefix + host for host in world.hosts}
    assert checks == {i: wanted[i] for i in world.instances}
    return True


def test_f51_what_changed_while_no_gateway_was_there_is_mended_at_the_start(
    reader: Reader, world: World, place: ConsulPlace
) -> None:
    world.fill(5, 5, each=4)
    prefix = node_prefix(world.mark.domain)

    async def main() -> None:
        async with writing(world, place):
            await until(partial(is_as_wanted, reader, world), what="all written")
        gone, lost = "vm0", next(i for i in world.instances.values() if i.host == "vm1")
        del world.hosts[gone]
        world.instances = {i: one for i, one in world.instances.items() if one.host != gone}
        reader.deregister({"Node": prefix + "vm1", "ServiceID": lost.id})
        meta = {**world.mark.meta, "meshbridge-host": "ghost"}
        reader.register({"Node": prefix + "ghost", "Address": "x", "NodeMeta": meta})
        untouched = {name: text for name, text in reader.everything().items() if name.endswith(("vm2", "vm3", "vm4"))}
        world.publish(())
        async with writing(world, place):
            await until(partial(is_as_wanted, reader, world), what="the difference is mended")
        after = reader.everything()
        assert {name: after[name] for name in untouched} == untouched, "the difference, and no more"

    trio.run(main)


def test_a_service_of_others_keeps_its_name_for_itself(
    reader: Reader, world: World, place: ConsulPlace, looks_often: None
) -> None:
    world.fill(2, 1, each=1)
    (name,) = {one.service for one in world.instances.values()}
    theirs = {"Node": f"{name}-node", "Address": "192.0.2.9", "Service": {"Service": name, "Port": 7}}

    def instances() -> int:
        return len(reader.ask("GET", f"/v1/catalog/service/{name}"))

    async def main() -> None:
        async with writing(world, place) as writer:
            await until(lambda: instances() == 2, what="ours are there")
            reader.register(theirs)
            await until(lambda: instances() == 1, what="ours make way")
            assert f"service {name} is somebody else's" in codes(writer)["catalog-conflict"]
            late = Instance(service=name, host="vm0", target="127.0.0.1:5", port=80)
            world.add(late)
            world.publish(["vm0"])
            reader.deregister({"Node": theirs["Node"]})
            await until(lambda: instances() == 3, what="ours are back when the name is free")
            assert not codes(writer)

    trio.run(main)


def test_a_right_that_is_missing_is_named_and_the_rest_is_written(
    server: ConsulServer, reader: Reader, world: World, looks_often: None
) -> None:
    world.fill(2, 2, each=1)
    first, second = sorted({one.service for one in world.instances.values()})
    rules = 'key_prefix "rights/" { policy = "write" } session_prefix "" { policy = "write" }\n'
    place = server.place("rights/", rules=rules)

    def allow(more: str) -> None:
        found = next(p for p in server.ask("GET", "/v1/acl/policies") if p["Name"] == f"policy-{server._prefixes}")
        server.ask("PUT", f"/v1/acl/policy/{found['ID']}", {"Name": found["Name"], "Rules": rules + more})

    async def main() -> None:
        async with writing(world, place) as writer:
            await until(lambda: 'node_prefix "" (read)' in codes(writer).get("catalog", ""), what="it sees nothing")
            await until(lambda: '_" (write)' in codes(writer).get("catalog", ""), what="nodes are missing")
            assert not reader.nodes(world.mark)
            nodes = f'node_prefix "{node_prefix(world.mark.domain)}" {{ policy = "write" }}\n'
            allow(nodes)
            await until(lambda: len(reader.nodes(world.mark)) == 2, what="nodes are written")
            assert not reader.services(world.mark), "somebody else's could be there under their names"
            nodes += 'node_prefix "" { policy = "read" } service "consul" { policy = "read" }\n'
            allow(nodes + f'service "{first}" {{ policy = "write" }}')
            await until(lambda: f'service "{second}"' in codes(writer).get("catalog", ""), what="a service is missing")
            await until(lambda: len(reader.services(world.mark)) == 1, what="the other is written")
            allow(nodes + 'service_prefix "" { policy = "write" }')
            await until(partial(is_as_wanted, reader, world), what="all written")
            await until(lambda: not codes(writer), what="nothing is missing any more")

    trio.run(main)


def test_one_gateway_writes_at_a_time_and_another_takes_over(
    server: ConsulServer, reader: Reader, world: World, place: ConsulPlace
) -> None:
    world.fill(3, 3, each=2)

    def holder(writer: CatalogWriter) -> str:
        return str(writer.status()["catalog"]["writer"])

    async def main() -> None:
        async with writing(world, place, "gw2") as second_soon:
            await until(lambda: holder(second_soon) == "gw2", what="the only one writes")
            async with writing(world, place, "gw1") as first:
                await until(lambda: holder(first) == "gw2", what="the other one waits, and knows for whom")
                await until(partial(is_as_wanted, reader, world), what="all written")
                # As if gw2 had been stopped for so long that its session ended: it finds out when it writes.
                (session,) = [s["ID"] for s in server.ask("GET", "/v1/session/list") if "catalog" in s["Name"]]
                server.ask("PUT", f"/v1/session/destroy/{session}")
                await until(lambda: holder(first) == "gw1", what="another one takes over")
                one = next(iter(world.instances.values()))
                world.health[one.id] = Health(state="failing", reason="refused")
                world.publish([one.host])
                await until(partial(is_as_wanted, reader, world), what="it writes")
                await until(lambda: holder(second_soon) == "gw1", what="the first one waits now")
                assert not codes(first) and not codes(second_soon)
            began = time.monotonic()
            await until(lambda: holder(second_soon) == "gw2", what="who leaves gives it away")
            print(f"taken over {time.monotonic() - began:.2f} s after the other one left")

    trio.run(main)
