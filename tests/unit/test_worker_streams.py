"""I/O: streams and permits in a worker: who may open what, and what ends a stream that lost its permit at either end.

Two workers' stream books joined by one tunnel over a socketpair, driven turn by turn; the services are socketpairs.
"""

from __future__ import annotations

import dataclasses
import errno
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.workers import messages as m
from agents.workers.inbound import Inbound
from agents.workers.live import LiveFlow
from agents.workers.offered import Offered
from agents.workers.slots import Slots
from agents.workers.streams import Streams
from agents.workers.targets import Targets
from bridge import limits
from bridge.counters import Tally
from bridge.flows import Flow
from bridge.policy.decide import Subject
from bridge.relay.local import LocalSocket
from bridge.relay.splice import Splice
from bridge.relay.tunnel import Tunnel
from bridge.tunnels.frames import Code, Open, Reason, encode_open
from bridge.tunnels.session import Stream
from inventory.model import Host, Instance
from inventory.names import SpiffeId
from inventory.policy_rules import Rule
from inventory.snapshot import Snapshot
from tests.support.estates import NOON, instance, revocation, rule, snapshot
from tests.support.relay_pair import Contexts, Rig, local_pair, make_contexts

WEB = rule("a reads web", "allow", "host:a", "web")
HOSTS = [Host(name="a"), Host(name="b", serves=("web", "db"))]
TARGET = "127.0.0.1:9000"


def estate(*rules: Rule, hosts: list[Host] = HOSTS, **changes: Any) -> Snapshot:
    on_a = instance("local", "a", target=TARGET)
    return snapshot(hosts, [instance("web", "b"), instance("db", "b"), on_a], rules, **changes)


class FakeTasks:
    """Tasks that are never run, only remembered."""

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []

    def start_soon(self, task: Callable[..., Awaitable[object]], *args: Any) -> None:
        self.started.append((task, *args))


class PairInbound(Inbound):
    """Reaches its services by socketpairs."""

    services: list[socket.socket]

    def _connect(self, tunnel: Tunnel, stream: Stream, flow: LiveFlow, instance: Instance) -> None:
        service, ours = local_pair()
        self.services.append(service)
        self._streams.placed(flow, instance.id)
        local = LocalSocket(self._loop, ours, self._streams, flow)
        self._streams.live(local)
        if instance.max_streams is None:
            local.join(tunnel, stream)
        else:
            local.wait(tunnel, stream)
            self._once_it_has_a_slot(local, flow, instance, lambda: local.join(tunnel, stream))


class FakeWorker:
    """One node's worker, as far as streams and what comes in need it."""

    def __init__(self, name: str, rig: Rig, known: Snapshot, clock: Callable[[], float], role: str = "host") -> None:
        self.name = name
        self.role = role
        self.draining: str | None = None
        self.targets = Targets()
        self.offered = Offered(name)
        self.offered.know(known)
        self.ssh_channels = Path("/none")
        self.known = self.snapshot = known
        self.tasks = FakeTasks()
        self.refusals: list[tuple[LocalSocket, Reason]] = []
        self.accepted: list[LiveFlow] = []
        self.paths: list[tuple[int, str]] = []
        self.tally = Tally()
        self.slots = Slots(None)  # type: ignore[arg-type]
        self.streams = Streams(rig.loop, self, self.tally, known, now=clock, slots=self.slots)
        self.inbound = PairInbound(rig.loop, self.tasks, None, self.streams, self)  # type: ignore[arg-type]
        self.inbound.services = []

    def know(self, known: Snapshot) -> None:
        self.snapshot = known
        self.offered.know(known)
        self.streams.know(known)
        self.streams.recheck()

    def why_draining(self, instance: Instance) -> str | None:
        return self.draining or instance.draining

    def stream_accepted(self, flow: LiveFlow) -> None:
        self.accepted.append(flow)

    def stream_refused(self, local: LocalSocket, flow: LiveFlow, reason: Reason) -> None:
        self.refusals.append((local, reason))
        local.abort(Code.NO_ERROR, "refused" if reason.code == Code.DENIED else "failed", reason.reason)

    def path_ended(self, path_id: int, moved: int, reason: str) -> None:
        self.paths.append((path_id, reason))

    async def guest(self, sock: socket.socket, remote: str, waited: float) -> None: ...
    async def control(self, sock: socket.socket, tunnel: Tunnel, remote: str) -> None: ...
    def notice(self, event: str, text: str) -> None: ...

    def records(self) -> list[Flow]:
        return list(self.streams.take_records(1000))


class Pair:
    """Host `a`, which opens streams, and node `b`, which is asked for them."""

    def __init__(self, contexts: Contexts, known: Snapshot, *, role: str = "host") -> None:
        self.rig = Rig.up(contexts)
        self.now = NOON
        self.a = FakeWorker("a", self.rig, known, lambda: self.now)
        self.b = FakeWorker("b", self.rig, known, lambda: self.now, role)
        self.rig.b.serve = lambda stream, wish: self.b.inbound.open(self.rig.b.tunnel, stream, wish)
        self.programs: list[socket.socket] = []

    def flow(self, service: str = "web") -> LiveFlow:
        return LiveFlow(
            side="source",
            subject=Subject("host", "a"),
            service=service,
            site=None,
            host="a",
            started=self.now,
            began=self.rig.loop.now,
        )

    def open(self, service: str = "web", *, wish: bytes | None = None, judged: bool = True) -> LocalSocket:
        """A program on `a` connects, and what happens is let happen."""
        flow = self.flow(service)
        if judged:
            assert self.a.streams.judge(flow) is None
        program, ours = local_pair()
        self.programs.append(program)
        local = LocalSocket(self.rig.loop, ours, self.a.streams, flow)
        self.a.streams.live(local)
        self.a.streams.placed(flow, f"{service}/b/{TARGET}")
        local.open(self.rig.a.tunnel, wish or encode_open(Open(service=service, target=TARGET)))
        self.rig.loop.settle()
        self.rig.idle()
        return local

    def know(self, known: Snapshot) -> None:
        for worker in (self.a, self.b):
            worker.know(known)
        self.settle()

    def tick(self, *workers: FakeWorker) -> None:
        self.rig.loop.refresh()
        for worker in workers or (self.a, self.b):
            worker.streams.tick()
        self.settle()

    def settle(self) -> None:
        self.rig.loop.settle()
        self.rig.idle()

    def close(self) -> None:
        for worker in (self.a, self.b):
            worker.streams.cut_all("the test is over")
            for _, *args in worker.tasks.started:
                for arg in args:
                    if isinstance(arg, socket.socket):
                        arg.close()
        self.settle()
        for sock in [*self.programs, *self.b.inbound.services]:
            sock.close()
        self.rig.close()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(tmp_path_factory.mktemp("identities"), time.time())


@pytest.fixture
def pair(contexts: Contexts) -> Iterator[Pair]:
    made = Pair(contexts, estate(WEB))
    yield made
    made.close()


@pytest.fixture
def gateway_pair(contexts: Contexts) -> Iterator[Pair]:
    made = Pair(contexts, estate(WEB), role="gateway")
    yield made
    made.close()


def is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
    except BlockingIOError:
        return False


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_stream_that_policy_allows_is_counted_at_both_ends(pair: Pair) -> None:
    local = pair.open()
    assert pair.a.streams.count == pair.b.streams.count == 1
    assert pair.a.streams.load_of(f"web/b/{TARGET}") == 1
    [record] = pair.b.streams.records()
    assert (record.subject, record.service, record.rule, record.instance) == (
        "host:a",
        "web",
        "a reads web",
        f"web/b/{TARGET}",
    )
    pair.programs[0].shutdown(socket.SHUT_WR)
    pair.settle()
    pair.b.inbound.services[0].shutdown(socket.SHUT_WR)
    pair.settle()
    assert local.ended and pair.a.streams.count == pair.b.streams.count == 0
    assert [r.result for r in pair.a.records()] == [r.result for r in pair.b.records()] == ["ok"]
    assert pair.a.streams.load_of(f"web/b/{TARGET}") == 0
    assert pair.a.streams.descriptors == pair.b.streams.descriptors == 0


def test_c31_every_stream_is_authorised_by_its_own_target(pair: Pair) -> None:
    """On one tunnel and after one that was allowed: the destination judges each OPEN."""
    pair.open()
    for service, target, code in (
        ("db", TARGET, Code.DENIED),
        ("nothing", TARGET, Code.DENIED),
        ("local", TARGET, Code.DENIED),
        ("web", "127.0.0.1:22", Code.UNKNOWN_SERVICE),
        ("web", "", Code.UNKNOWN_SERVICE),
        ("WEB", TARGET, Code.DENIED),
        ("@control", "", Code.DENIED),
        ("@admin", "", Code.DENIED),
        ("", "", Code.DENIED),
    ):
        pair.open(service, wish=encode_open(Open(service=service, target=target)), judged=False)
        _, reason = pair.a.refusals[-1]
        assert reason.code == code, (service, target, reason)
    assert len(pair.b.inbound.services) == 1 and pair.b.streams.count == 1
    assert {r.result for r in pair.b.records()} == {"refused", "failed"}


def test_c10_who_asks_is_what_the_certificate_says(pair: Pair) -> None:
    pair.know(estate(rule("b reads db", "allow", "host:b", "db")))
    forged = b'{"service":"db","target":"%s","subject":"host:b","spiffe_id":"spiffe://t.internal/host/b"}'
    pair.open("db", wish=forged % TARGET.encode(), judged=False)
    _, reason = pair.a.refusals[-1]
    assert (reason.code, reason.reason) == (Code.DENIED, "host a may speak for itself only, not for 'host:b'")
    pair.open("db", wish=forged.replace(b"subject", b"asks") % TARGET.encode(), judged=False)
    _, reason = pair.a.refusals[-1]
    assert reason.code == Code.DENIED and "host:a" in reason.reason
    [record] = pair.b.records()
    assert record.subject == "host:a"


@pytest.mark.parametrize("role", ["gateway", "operator"])
def test_c07_only_hosts_are_subjects_whatever_their_name(pair: Pair, role: Any) -> None:
    peer = pair.rig.b.tunnel.peer
    pair.rig.b.tunnel.peer = dataclasses.replace(peer, spiffe=SpiffeId("t.internal", role, "a"))
    pair.open(judged=False)
    _, reason = pair.a.refusals[-1]
    assert reason.code == Code.DENIED and f"role {role}" in reason.reason
    assert not pair.b.inbound.services


def test_c46_an_error_in_the_evaluation_is_a_no(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.open()

    def broken(*args: object, **kwargs: object) -> object:
        raise KeyError("the policy")

    monkeypatch.setattr("bridge.policy.permits.weigh", broken)
    monkeypatch.setattr("bridge.policy.permits.open_case", broken)
    pair.b.know(estate(WEB))
    pair.settle()
    assert pair.b.streams.count == 0, "live streams are cut, too"
    pair.open(judged=False)
    assert pair.a.refusals[-1][1].code == Code.DENIED
    assert not pair.rig.crashes


def test_a_node_that_drains_takes_and_opens_no_new_streams(pair: Pair) -> None:
    pair.open()
    pair.b.draining = "maintenance"
    pair.open(judged=False)
    assert pair.a.refusals[-1][1].code == Code.DRAINING and pair.b.streams.count == 1
    pair.a.draining = "maintenance"
    refusal = pair.a.streams.judge(pair.flow())
    assert refusal is not None and "draining" in refusal.reason


def test_f29_out_of_descriptors_an_open_is_refused_and_nothing_else(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.open()

    def full(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pair.b.inbound, "_connect", full)
    pair.open()
    assert pair.a.refusals[-1][1].code == Code.LIMIT and pair.b.streams.count == 1


# --- @control ---------------------------------------------------------------------------------------------------------


def test_c07_control_is_for_hosts_at_gateways(gateway_pair: Pair) -> None:
    pair = gateway_pair
    pair.open("@control", judged=False)
    [(task, sock, tunnel, _)] = pair.b.tasks.started
    assert task == pair.b.control and tunnel is pair.rig.b.tunnel and isinstance(sock, socket.socket)
    assert pair.b.streams.count == 0 and pair.b.streams.descriptors == 1
    assert pair.b.streams.records() == [], "control streams are nobody's flows"
    pair.b.know(estate())
    pair.open("web", judged=False)
    assert pair.a.refusals[-1][1].code == Code.DENIED
    peer = pair.rig.b.tunnel.peer
    pair.rig.b.tunnel.peer = dataclasses.replace(peer, spiffe=SpiffeId("t.internal", "gateway", "gw2"))
    pair.open("@control", judged=False)
    assert pair.a.refusals[-1][1].code == Code.DENIED and len(pair.b.tasks.started) == 1


def test_c29_one_tunnel_has_a_bounded_number_of_control_streams(gateway_pair: Pair) -> None:
    pair = gateway_pair
    for _ in range(limits.CONTROL_STREAMS_PER_TUNNEL + 3):
        pair.open("@control", judged=False)
    assert len(pair.b.tasks.started) == limits.CONTROL_STREAMS_PER_TUNNEL
    assert [reason.code for _, reason in pair.a.refusals] == [Code.LIMIT] * 3
    pair.b.tasks.started[0][1].close()
    pair.programs[0].close()
    pair.settle()
    pair.open("@control", judged=False)
    assert len(pair.b.tasks.started) == limits.CONTROL_STREAMS_PER_TUNNEL + 1


# --- losing the permit ------------------------------------------------------------------------------------------------

ENDS = {
    "no rule": estate(),
    "a deny": estate(WEB, rule("no", "deny", "host:a", "web")),
    "revoked": estate(WEB, revoked=[revocation("a")]),
    "the other revoked": estate(WEB, revoked=[revocation("b")]),
    "host removed": estate(WEB, hosts=[HOSTS[1]]),
    "label gone": estate(rule("by label", "allow", "label:role=batch", "web")),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("who", ["a", "b"])
def test_c31_f46_a_stream_that_lost_its_permit_is_cut_by_either_end(pair: Pair, end: str, who: str) -> None:
    """Whichever end hears of it first, and whatever the other one thinks."""
    local = pair.open()
    worker = pair.a if who == "a" else pair.b
    worker.know(ENDS[end])
    pair.settle()
    assert local.ended and is_cut(pair.programs[0]) and is_cut(pair.b.inbound.services[0])
    assert pair.a.streams.count == pair.b.streams.count == 0
    [record] = worker.records()
    assert record.result == "cut" and record.reason
    other = pair.b if who == "a" else pair.a
    assert [r.result for r in other.records()] == ["cut"]


def test_c31_a_policy_that_still_allows_it_cuts_nothing(pair: Pair) -> None:
    local = pair.open()
    renamed = rule("the same by another name", "allow", "host:a", "web")
    pair.know(estate(renamed, rule("more", "allow", "host:b", "db")))
    assert not local.ended and pair.a.streams.count == pair.b.streams.count == 1
    assert {r.rule for r in (*pair.a.streams.records(), *pair.b.streams.records())} == {renamed.name}


TIMED = {
    "window": rule("by day", "allow", "host:a", "web", when="Fri 00:00-12:00"),
    "end date": rule("until", "allow", "host:a", "web", until="2027-01-15"),
}


@pytest.mark.parametrize("kind", TIMED)
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_stream_ends_with_the_time_of_its_rule(pair: Pair, kind: str, who: str) -> None:
    pair.know(estate(TIMED[kind]))
    local = pair.open()
    pair.now += 3600
    pair.tick()
    assert not local.ended
    pair.now = NOON + 86400
    pair.tick(pair.a if who == "a" else pair.b)
    assert local.ended and pair.a.streams.count == pair.b.streams.count == 0


def test_f32_a_clock_that_is_set_back_has_every_permit_decided_again(pair: Pair) -> None:
    pair.know(estate(TIMED["window"]))
    local = pair.open()
    pair.tick()
    assert not local.ended
    pair.now -= 2 * 86400  # a Wednesday
    pair.tick()
    assert local.ended


def test_f32_a_clock_that_runs_by_itself_costs_no_decisions(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.open()
    pair.tick()
    monkeypatch.setattr(pair.a.streams, "recheck", None)
    for _ in range(3):
        pair.now += 0.5
        pair.tick()


def test_streams_are_cut_and_listed_on_command(pair: Pair) -> None:
    for _ in range(3):
        pair.open()
    listed = pair.a.streams.records()
    assert len(listed) == 3 and {r.result for r in listed} == {"ok"}
    assert len(pair.a.streams.cut_all("drain deadline")) == 3
    pair.settle()
    assert {(r.result, r.reason) for r in pair.a.records()} == {("cut", "drain deadline")}
    assert pair.b.streams.count == 0


# --- time limits ------------------------------------------------------------------------------------------------------


def test_a_stream_that_nobody_accepts_ends(pair: Pair) -> None:
    pair.rig.b.serve = lambda stream, wish: None
    local = pair.open()
    assert local.stream is not None and pair.a.streams.count == 1
    pair.flow()
    flow = local.context
    assert isinstance(flow, LiveFlow)
    flow.began -= limits.OPEN_WAIT_TIMEOUT + 1
    pair.tick()
    assert local.ended
    [record] = pair.a.records()
    assert record.result == "failed" and "not accepted within 15 s" in record.reason
    pair.rig.b.tunnel.session.streams.clear()


def test_a_target_that_does_not_answer_is_given_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(tunnel: Tunnel, stream: Stream, flow: LiveFlow, chosen: Instance) -> None:
        service, ours = local_pair()
        pair.b.inbound.services.append(service)
        pair.b.streams.placed(flow, chosen.id)
        local = LocalSocket(pair.rig.loop, ours, pair.b.streams, flow)
        local.tunnel, local.stream = tunnel, stream
        stream.sink = local
        flow.began -= limits.CONNECT_TIMEOUT + 1
        pair.b.streams.live(local)

    monkeypatch.setattr(pair.b.inbound, "_connect", never)
    pair.open()
    pair.tick(pair.b)
    _, reason = pair.a.refusals[-1]
    assert reason.code == Code.CONNECT_FAILED and "did not answer within 5 s" in reason.reason
    assert pair.b.streams.count == 0 and pair.b.streams.load_of(f"web/b/{TARGET}") == 0


# --- on one host ------------------------------------------------------------------------------------------------------


class SameHost:
    """A stream from a program on `a` to a service on `a`: two sockets, one splice, no tunnel."""

    def __init__(self, pair: Pair) -> None:
        pair.know(estate(WEB, rule("own", "allow", "host:a", "local")))
        self.pair = pair
        flow = pair.flow("local")
        assert pair.a.streams.judge(flow) is None
        self.program, ours = local_pair()
        self.service, target = local_pair()
        pair.programs += [self.program, self.service]
        local = LocalSocket(pair.rig.loop, ours, pair.a.streams, flow)
        pair.a.streams.live(local)
        released = local.release()
        assert released is ours
        pair.a.streams.placed(flow, f"local/a/{TARGET}")
        splice = Splice(pair.rig.loop, ours, target, pair.a.streams.splice_ended)
        pair.a.streams.splice_live(splice, local)


def test_a_stream_on_one_host_is_one_stream_and_ends(pair: Pair) -> None:
    same = SameHost(pair)
    streams = pair.a.streams
    assert streams.count == 1 and len(streams.records()) == 1 and streams.load_of(f"local/a/{TARGET}") == 1
    same.program.send(b"hello")
    pair.settle()
    assert same.service.recv(10) == b"hello"
    same.program.shutdown(socket.SHUT_WR)
    same.service.shutdown(socket.SHUT_WR)
    pair.settle()
    assert streams.count == 0 and streams.records() == [] and streams.descriptors == 0
    assert streams.load_of(f"local/a/{TARGET}") == 0
    [record] = pair.a.records()
    assert (record.result, record.bytes_in, record.rule) == ("ok", 5, "own")


def test_c31_f46_a_stream_on_one_host_is_cut_like_any_other(pair: Pair) -> None:
    same = SameHost(pair)
    pair.know(estate(WEB))
    assert is_cut(same.program) and is_cut(same.service)
    [record] = pair.a.records()
    assert record.result == "cut" and "no rule allows" in record.reason


def test_a_stream_on_one_host_is_cut_on_command(pair: Pair) -> None:
    same = SameHost(pair)
    assert len(pair.a.streams.cut_all("drain deadline")) == 1
    assert is_cut(same.program) and pair.a.streams.count == 0


# --- paths ------------------------------------------------------------------------------------------------------------


def test_a_path_is_carried_until_it_is_ended(pair: Pair) -> None:
    (one, ours), (other, theirs) = local_pair(), local_pair()
    streams = pair.b.streams
    streams.join_path(7, ours, theirs)
    one.send(b"x")
    pair.settle()
    assert other.recv(1) == b"x" and streams.count == 0 and streams.descriptors == 6
    streams.recheck()
    assert not pair.b.paths
    streams.end_path(7, "revoked")
    assert pair.b.paths == [(7, "revoked")] and is_cut(one) and is_cut(other)
    one.close()
    other.close()


def test_f29_a_path_without_descriptors_is_said_to_have_ended(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("bridge.relay.splice.os.pipe2", full)
    (one, ours), (other, theirs) = local_pair(), local_pair()
    pair.b.streams.join_path(7, ours, theirs)
    assert pair.b.paths == [(7, "out of descriptors: Too many open files")] and is_cut(one) and is_cut(other)
    one.close()
    other.close()


# --- instances with a limit -----------------------------------------------------------------------------------------


@pytest.fixture
def limited(contexts: Contexts) -> Iterator[Pair]:
    made = Pair(contexts, snapshot(HOSTS, [instance("web", "b", max_streams=1)], [WEB]))
    yield made
    made.close()


def said(pair: Pair) -> list[m.SlotAsked | m.SlotUsed | m.SlotLeft]:
    """What `b` says of slots since it was asked last."""
    found = list(pair.b.slots._unsaid)
    pair.b.slots._unsaid.clear()
    return found


def asked(pair: Pair) -> int:
    """The number of a wish, which is all that was said."""
    [message] = said(pair)
    assert isinstance(message, m.SlotAsked) and (message.caller, message.max_streams) == ("host:a", 1)
    return message.id


def test_a_stream_to_an_instance_with_a_limit_waits_for_its_slot(limited: Pair) -> None:
    local = limited.open()
    number = asked(limited)
    limited.programs[0].send(b"early")
    limited.settle()
    assert limited.a.accepted == []
    limited.b.slots.given(number)
    limited.settle()
    assert [flow.service for flow in limited.a.accepted] == ["web"]
    assert said(limited) == [m.SlotUsed(id=number, connected=True)]
    [service] = limited.b.inbound.services
    assert service.recv(99) == b"early"
    for end in (limited.programs[0], service):
        end.shutdown(socket.SHUT_WR)
    limited.settle()
    limited.settle()
    assert local.ended and said(limited) == [m.SlotLeft(id=number, rest=False)], "the service has said its own end"


def test_a_stream_that_is_cut_leaves_its_slot_to_rest(limited: Pair) -> None:
    limited.open()
    number = asked(limited)
    limited.b.slots.given(number)
    limited.settle()
    said(limited)
    limited.know(snapshot(HOSTS, [instance("web", "b", max_streams=1)]))
    assert said(limited) == [m.SlotLeft(id=number, rest=True)]


def test_who_is_refused_a_slot_is_told_that_it_is_busy_and_why(limited: Pair) -> None:
    limited.open()
    limited.b.slots.refused(asked(limited), "web takes at most 1 streams at once; 1 are open and 0 waited before you")
    limited.settle()
    [(_, reason)] = limited.a.refusals
    assert reason.code == Code.BUSY and "takes at most 1" in reason.reason
    assert said(limited) == [] and limited.b.records()[0].result == "failed"


@pytest.mark.parametrize("cause", ["program", "permit", "tunnel"])
def test_a_caller_that_goes_away_takes_its_wish_back(limited: Pair, cause: str) -> None:
    local = limited.open()
    number = asked(limited)
    if cause == "program":
        local.abort(Code.ABORTED, "failed", "the program left")
        limited.settle()
    elif cause == "permit":
        limited.know(snapshot(HOSTS, [instance("web", "b", max_streams=1)]))
    else:
        limited.rig.b.tunnel.close(Code.INTERNAL, "broken")
    limited.settle()
    assert said(limited) == [m.SlotLeft(id=number, rest=False)]
    limited.b.slots.given(number)
    assert said(limited) == [] and limited.b.streams.descriptors == 0


def test_a_drain_that_began_meanwhile_counts(limited: Pair) -> None:
    limited.open()
    number = asked(limited)
    limited.b.draining = "new disks"
    limited.b.slots.given(number)
    limited.settle()
    [(_, reason)] = limited.a.refusals
    assert (reason.code, reason.reason) == (Code.DRAINING, "draining: new disks")
    assert said(limited) == [m.SlotLeft(id=number, rest=True)]


def test_a_supervisor_that_does_not_answer_is_not_waited_for_for_ever(
    limited: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited.open()
    number = asked(limited)
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT", -1.0)
    limited.tick(limited.b)
    assert limited.a.refusals == [], "it waits, and does not connect"
    monkeypatch.setattr(limits, "GOVERNOR_WAIT", -5.0)
    limited.tick(limited.b)
    [(_, reason)] = limited.a.refusals
    assert reason.code == Code.TIMEOUT and "too busy to count" in reason.reason
    assert said(limited) == [m.SlotLeft(id=number, rest=False)]
