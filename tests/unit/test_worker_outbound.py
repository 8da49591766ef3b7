"""I/O: what local programs want: choosing, trying another instance, giving up, and streams that stay on the host."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agents.workers.live import LiveFlow
from agents.workers.offered import Offered
from agents.workers.outbound import Outbound
from agents.workers.streams import Streams
from agents.workers.targets import Targets
from agents.workers.tasks import Tasks
from bridge import limits
from bridge.counters import Tally
from bridge.errors import PeerError
from bridge.flows import Flow
from bridge.relay.local import LocalSocket
from bridge.relay.tunnel import Tunnel
from bridge.routing.budget import RetryBudget
from bridge.routing.ejection import Ejections
from bridge.tunnels.frames import Code, Open, Reason
from bridge.tunnels.session import Stream
from inventory.errors import AnswerIsNo, Unavailable
from inventory.health import HealthByHost
from inventory.imports import instance_of, place_of
from inventory.model import Gateway, Health, Host, Import, Presence
from inventory.names import ServiceName, SpiffeId
from inventory.snapshot import Snapshot
from tests.support.estates import instance, rule, snapshot
from tests.support.relay_pair import Contexts, Rig, local_pair, make_contexts

WEB = ServiceName("web")
HOSTS = [Host(name="a"), Host(name="b"), Host(name="c"), Host(name="d")]
RULE = rule("a reads web", "allow", "host:a", "web")


class FakePool:
    """Hosts that can be reached are those with a tunnel; every host leads to the one that the test has."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.warm: set[str] = set()
        self.cold: set[str] = set()
        self.dialled: list[str] = []

    def usable(self, peer: SpiffeId) -> Tunnel | None:
        return self._rig.a.tunnel if peer.name in self.warm and self._rig.a.tunnel.is_usable else None

    async def host(self, name: str) -> Tunnel:
        await trio.lowlevel.checkpoint()
        self.dialled.append(name)
        if name not in self.cold:
            raise Unavailable(f"host {name} cannot be reached: directly: refused")
        return self._rig.a.tunnel

    async def gateway(self, name: str, address: str) -> Tunnel:
        await trio.lowlevel.checkpoint()
        self.dialled.append(f"{name} at {address}")
        if name not in self.cold:
            raise Unavailable(f"gateway {name} cannot be reached: refused")
        return self._rig.a.tunnel


class Node:
    """Host `a`, and at the other end of its tunnel whoever answers for `b`, `c` and `d`."""

    def __init__(self, rig: Rig, nursery: trio.Nursery, known: Snapshot) -> None:
        self.name, self.site, self.trust_domain = "a", None, "t.internal"
        self.role, self.place = "host", "a"
        self.targets, self.offered, self.ssh_channels = Targets(), Offered("a"), Path("/none")
        self.snapshot = known
        self.draining: str | None = None
        self.rig = rig
        self.crashes: list[BaseException] = []
        self.pool = FakePool(rig)
        self.streams = Streams(rig.loop, self, Tally(), known, now=lambda: 1000.0)
        self.outbound = Outbound(rig.loop, Tasks(nursery, self.crashes.append), self.pool, self.streams, self)  # type: ignore[arg-type]
        self.asked: list[str] = []
        self.answers: dict[str, Code | None] = {}
        self.programs: list[socket.socket] = []
        rig.b.serve = self._serve

    def _serve(self, stream: Stream, wish: Open) -> None:
        """By the target's port: a code refuses, None accepts."""
        self.asked.append(wish.target)
        code = self.answers.get(wish.target)
        if code is None:
            self.rig.b._join(stream, wish)
        else:
            self.rig.b.tunnel.session.refuse(stream, code, f"no: {wish.target}\x1b[2J")

    def stream_accepted(self, flow: LiveFlow) -> None:
        self.outbound.accepted(flow)

    def stream_refused(self, local: LocalSocket, flow: LiveFlow, reason: Reason) -> None:
        self.outbound.refused(local, flow, reason)

    def path_ended(self, path_id: int, moved: int, reason: str) -> None: ...

    async def connect(self, service: ServiceName = WEB) -> socket.socket:
        """A program connects to the service's address."""
        program, ours = local_pair()
        self.programs.append(program)
        self.outbound.connection(service, ours, None)
        await self.settle()
        return program

    async def settle(self) -> None:
        for _ in range(4):
            self.rig.loop.settle()
            self.rig.idle()
            await trio.testing.wait_all_tasks_blocked()

    def records(self) -> list[Flow]:
        return list(self.streams.take_records(1000))


def estate(*where: str, **changes: Any) -> Snapshot:
    """Instances of `web` on hosts; `b1` is one on `b` with port 9001."""
    placed = [instance("web", name[0], target=f"127.0.0.1:900{name[1:] or 0}") for name in where]
    return snapshot(HOSTS, placed, [RULE]).evolved(**changes)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(tmp_path_factory.mktemp("identities"), time.time())


@asynccontextmanager
async def node(contexts: Contexts, known: Snapshot) -> AsyncIterator[Node]:
    rig = Rig.up(contexts)
    async with trio.open_nursery() as nursery:
        made = Node(rig, nursery, known)
        made.outbound._budget.count_first(rig.loop.now)
        yield made
        made.streams.cut_all("the test is over")
        await made.settle()
        nursery.cancel_scope.cancel()
    for sock in made.programs:
        sock.close()
    rig.close()
    assert not made.crashes, made.crashes


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False


async def test_a_warm_tunnel_is_used_in_the_same_turn(contexts: Contexts) -> None:
    async with node(contexts, estate("b")) as n:
        n.pool.warm.add("b")
        await n.connect()
        assert n.asked == ["127.0.0.1:9000"] and n.pool.dialled == [] and n.streams.count == 1
        assert n.streams.load_of("web/b/127.0.0.1:9000") == 1


async def test_a_cold_host_is_dialled(contexts: Contexts) -> None:
    async with node(contexts, estate("b")) as n:
        n.pool.cold.add("b")
        await n.connect()
        assert n.pool.dialled == ["b"] and n.streams.count == 1


def imported(*gateways: str, targets: tuple[str, ...] = ("10.0.0.1:80",), **changes: Any) -> Snapshot:
    """`web` from Consul, through each of the gateways."""
    wanted = [Import(service="web", gateway=name, source="Web") for name in gateways]
    known = {name: Gateway(name=name, address=f"10.0.0.9:{n}", site=f"dc{n}") for n, name in enumerate(gateways, 1)}
    made = snapshot(HOSTS, [], [RULE])
    authority = replace(made.authority, imports={one.id: one for one in wanted}, gateways=known)
    found = {place_of(one.gateway): tuple(instance_of(one, t, port=80) for t in targets) for one in wanted}
    return made.evolved(authority=authority, reported=found, **changes)


async def test_what_a_gateway_brings_in_is_had_from_the_gateway_itself(contexts: Contexts) -> None:
    async with node(contexts, imported("gw1")) as n:
        n.pool.cold.add("gw1")
        await n.connect()
        assert n.pool.dialled == ["gw1 at 10.0.0.9:1"] and n.asked == ["10.0.0.1:80"]
        assert n.streams.load_of("web/gateway:gw1/10.0.0.1:80") == 1


async def test_c07_a_gateways_instance_is_never_had_from_a_host_of_its_name(contexts: Contexts) -> None:
    async with node(contexts, imported("b")) as n:
        n.pool.warm.add("b")  # as a gateway; the fake takes no roles apart
        n.pool.usable = lambda peer: None if peer.role == "host" else n.rig.a.tunnel  # type: ignore[method-assign]
        await n.connect()
        assert n.pool.dialled == [] and n.asked == ["10.0.0.1:80"]
    async with node(contexts, imported("b")) as n:
        n.pool.usable = lambda peer: n.rig.a.tunnel if peer.role == "host" else None  # type: ignore[method-assign]
        program = await n.connect()
        assert n.pool.dialled == ["b at 10.0.0.9:1"] and n.asked == [] and is_closed(program)


async def test_a_gateway_that_is_not_heard_is_left_for_another_that_brings_in_the_same(contexts: Contexts) -> None:
    lost = {"gateway:gw1": Presence(host="gateway:gw1", online=False)}
    async with node(contexts, imported("gw1", "gw2", presence=lost)) as n:
        n.pool.cold.update({"gw1", "gw2"})
        for _ in range(8):
            await n.connect()
        assert set(n.pool.dialled) == {"gw2 at 10.0.0.9:2"}
    lost["gateway:gw2"] = Presence(host="gateway:gw2", online=False)
    async with node(contexts, imported("gw1", "gw2", presence=lost)) as n:
        n.pool.cold.update({"gw1", "gw2"})
        for _ in range(24):
            await n.connect()
        assert len(set(n.pool.dialled)) == 2, "with none that is heard all are tried"


async def test_where_one_gateway_could_not_connect_another_one_is_not_asked_next(contexts: Contexts) -> None:
    """With as many gateways as tries, one program that crashed would else be a failed request."""
    known = imported("gw1", "gw2", "gw3", "gw4", targets=("10.0.0.1:80", "10.0.0.2:80"))
    async with node(contexts, known) as n:
        n.pool.warm.update({"gw1", "gw2", "gw3", "gw4"})
        n.answers = {"10.0.0.1:80": Code.CONNECT_FAILED}
        for _ in range(20):
            n.outbound.ejections, n.outbound._budget = Ejections(), RetryBudget()
            n.asked.clear()
            assert not is_closed(await n.connect())
            assert n.asked in (["10.0.0.2:80"], ["10.0.0.1:80", "10.0.0.2:80"])
    async with node(contexts, imported("gw1", "gw2")) as n:
        n.pool.warm.update({"gw1", "gw2"})
        n.answers = {"10.0.0.1:80": Code.CONNECT_FAILED}
        await n.connect()
        assert n.asked == ["10.0.0.1:80"] * 2, "it may be the one gateway that is cut off from it"


async def test_a_gateways_site_is_that_of_what_it_brings_in(contexts: Contexts) -> None:
    async with node(contexts, imported("gw1", "gw2")) as n:
        n.pool.cold.update({"gw1", "gw2"})
        for _ in range(6):
            await n.connect(ServiceName("web", "dc2"))
        assert set(n.pool.dialled) == {"gw2 at 10.0.0.9:2"}


async def test_what_policy_refuses_is_closed_with_a_record(contexts: Contexts) -> None:
    async with node(contexts, snapshot(HOSTS, [instance("web", "b")])) as n:
        program = await n.connect()
        assert is_closed(program) and n.asked == []
        [record] = n.records()
        assert record.result == "refused" and "no rule allows host:a" in record.reason


async def test_what_nobody_serves_is_closed_with_a_record(contexts: Contexts) -> None:
    async with node(contexts, estate("b")) as n:
        program = await n.connect(ServiceName("web", "dc9"))
        assert is_closed(program)
        assert n.records()[0].result == "failed"


async def test_a_host_that_cannot_be_reached_is_left_for_another(contexts: Contexts) -> None:
    async with node(contexts, estate("b", "c1")) as n:
        n.pool.cold.add("c")
        for _ in range(8):
            await n.connect()
        assert n.asked == ["127.0.0.1:9001"] * 8 and n.streams.count == 8
        assert n.outbound.ejections.is_ejected("web/b/127.0.0.1:9000", n.rig.loop.now) or "b" not in n.pool.dialled


async def test_an_instance_that_refuses_is_left_for_another(contexts: Contexts) -> None:
    async with node(contexts, estate("b", "b1", "b2")) as n:
        n.pool.warm.add("b")
        n.answers = {"127.0.0.1:9000": Code.CONNECT_FAILED, "127.0.0.1:9001": Code.DRAINING}
        for _ in range(6):
            program = await n.connect()
            assert not is_closed(program)
        assert n.streams.count == 6 and n.streams.load_of("web/b/127.0.0.1:9002") == 6
        assert n.streams.load_of("web/b/127.0.0.1:9000") == 0


async def test_one_that_has_all_it_takes_is_left_for_another_and_is_as_well_as_before(contexts: Contexts) -> None:
    async with node(contexts, estate("b", "b1")) as n:
        n.pool.warm.add("b")
        n.answers = {"127.0.0.1:9000": Code.BUSY}
        for _ in range(6):
            program = await n.connect()
            assert not is_closed(program)
        assert n.streams.load_of("web/b/127.0.0.1:9001") == 6 and "127.0.0.1:9000" in n.asked
        assert not n.outbound.ejections.is_ejected("web/b/127.0.0.1:9000", n.rig.loop.now)
        n.answers["127.0.0.1:9001"] = Code.BUSY
        program = await n.connect()
        assert is_closed(program)
        [record] = n.records()
        assert record.result == "failed" and record.reason.startswith("b refused it: no: 127.0.0.1:900")


async def test_f39_tries_are_bounded_also_when_every_instance_refuses(contexts: Contexts) -> None:
    async with node(contexts, estate(*(f"b{n}" for n in range(9)))) as n:
        n.pool.warm.add("b")
        n.answers = {f"127.0.0.1:900{k}": Code.CONNECT_FAILED for k in range(9)}
        program = await n.connect()
        assert is_closed(program) and len(n.asked) == limits.CONNECT_TRIES == len(set(n.asked))
        [record] = n.records()
        assert record.result == "failed" and record.reason.startswith("b refused it: no: 127.0.0.1:900")


async def test_c44_what_a_peer_says_is_printable_in_the_record(contexts: Contexts) -> None:
    async with node(contexts, estate("b")) as n:
        n.pool.warm.add("b")
        n.answers = {"127.0.0.1:9000": Code.DENIED}
        program = await n.connect()
        assert is_closed(program) and len(n.asked) == 1, "a no is not tried elsewhere"
        [record] = n.records()
        assert record.result == "refused" and record.reason == "b refused it: no: 127.0.0.1:9000\\x1b[2J"


@pytest.mark.parametrize("code", [Code.ABORTED, Code.SHUTDOWN, Code.INTERNAL, Code.NO_ERROR])
async def test_f39_a_peer_that_breaks_at_every_open_is_not_tried_without_end(contexts: Contexts, code: Code) -> None:
    async with node(contexts, estate("b")) as n:
        n.pool.warm.add("b")
        n.answers = {"127.0.0.1:9000": code}
        program = await n.connect()
        assert is_closed(program) and len(n.asked) == limits.CONNECT_TRIES
        assert n.streams.count == 0 and n.records()[0].result == "failed"


async def test_a_stream_that_lost_its_permit_while_it_waited_is_not_opened(contexts: Contexts) -> None:
    async with node(contexts, estate("b")) as n:
        n.pool.cold.add("b")
        program, ours = local_pair()
        n.programs.append(program)
        n.outbound.connection(WEB, ours, None)
        await trio.lowlevel.checkpoint()
        n.snapshot = snapshot(HOSTS, [instance("web", "b")])
        n.streams.know(n.snapshot)
        n.streams.recheck()
        await n.settle()
        assert is_closed(program) and n.asked == [] and n.streams.count == 0 and n.streams.descriptors == 0
        assert [r.result for r in n.records()] == ["cut"]


async def test_a_stream_that_is_cut_between_two_tries_stays_cut(contexts: Contexts) -> None:
    async with node(contexts, estate("b", "b1")) as n:
        n.pool.warm.add("b")
        n.answers = {"127.0.0.1:9000": Code.DRAINING, "127.0.0.1:9001": Code.DRAINING}
        real = n.outbound.refused

        def cut_first(local: LocalSocket, flow: LiveFlow, reason: Reason) -> None:
            real(local, flow, reason)
            n.streams.cut_all("drained")

        n.outbound.refused = cut_first  # type: ignore[method-assign]
        program = await n.connect()
        assert is_closed(program) and len(n.asked) == 1
        assert n.streams.descriptors == 0 and len(n.records()) == 1


async def test_ill_and_drained_instances_are_left_out(contexts: Contexts) -> None:
    ill = {"web/b/127.0.0.1:9000": Health(state="failing")}
    away = {"d": Presence(host="d", online=False)}
    async with node(contexts, estate("b", "c1", "d2", health=HealthByHost(ill), presence=away)) as n:
        n.pool.warm |= {"b", "c", "d"}
        for _ in range(5):
            await n.connect()
        assert set(n.asked) == {"127.0.0.1:9001"}


# --- on this host -----------------------------------------------------------------------------------------------------


async def test_an_instance_on_this_host_needs_no_tunnel(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    service, target = local_pair()

    async def connect(address: str) -> socket.socket:
        await trio.lowlevel.checkpoint()
        assert address == "127.0.0.1:9000"
        return target

    monkeypatch.setattr("agents.workers.own_targets.connect", connect)
    async with node(contexts, estate("a")) as n:
        program = await n.connect()
        program.send(b"hello")
        await n.settle()
        assert service.recv(9) == b"hello" and n.asked == [] and n.streams.count == 1
        assert n.streams.load_of("web/a/127.0.0.1:9000") == 1
        service.close()
        program.shutdown(socket.SHUT_WR)
        await n.settle()
        assert n.streams.count == 0 and n.streams.descriptors == 0 and n.streams.records() == []
        assert [r.via for r in n.records()] == ["direct"]


async def test_f29_a_stream_on_this_host_without_descriptors_is_a_failed_stream(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, target = local_pair()

    async def connect(address: str) -> socket.socket:
        return target

    def full(flags: int) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("agents.workers.own_targets.connect", connect)
    monkeypatch.setattr("bridge.relay.splice.os.pipe2", full)
    async with node(contexts, estate("a")) as n:
        program = await n.connect()
        assert is_closed(program) and is_closed(service)
        [record] = n.records()
        assert record.result == "failed" and "out of descriptors" in record.reason
        assert n.streams.count == 0 and n.streams.load_of("web/a/127.0.0.1:9000") == 0
    service.close()


async def test_a_dead_instance_on_this_host_is_left_for_another(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(address: str) -> socket.socket:
        raise PeerError(f"{address}: Connection refused")

    monkeypatch.setattr("agents.workers.own_targets.connect", connect)
    async with node(contexts, estate("a", "b1")) as n:
        n.pool.warm.add("b")
        for _ in range(4):
            assert not is_closed(await n.connect())
        assert n.asked == ["127.0.0.1:9001"] * 4


# --- dial -------------------------------------------------------------------------------------------------------------


async def test_a_socket_that_was_handed_over_is_joined_or_refused_in_words(contexts: Contexts) -> None:
    async with node(contexts, estate("b")) as n:
        n.pool.warm.add("b")
        outcome: list[str] = []

        async def adopt(service: ServiceName, sock: socket.socket) -> None:
            try:
                await n.outbound.adopt(service, sock, "ann")
                outcome.append("joined")
            except (AnswerIsNo, Unavailable) as exc:
                outcome.append(f"{type(exc).__name__}: {exc.what}")

        async with trio.open_nursery() as nursery:
            for service in (WEB, ServiceName("nothing")):
                program, ours = local_pair()
                n.programs.append(program)
                nursery.start_soon(adopt, service, ours)
                await n.settle()
            n.answers = {"127.0.0.1:9000": Code.CONNECT_FAILED}
            program, ours = local_pair()
            n.programs.append(program)
            nursery.start_soon(adopt, WEB, ours)
            await n.settle()
        assert outcome[0] == "joined" and outcome[1].startswith("AnswerIsNo: service 'nothing' is not known")
        assert outcome[2].startswith("Unavailable: b refused it: no:")
        assert [is_closed(program) for program in n.programs] == [False, True, True]
        assert n.streams.records()[0].user == "ann"
