"""I/O: what a host's agent and a gateway have in common: the worker's answers, the end, and certificates in time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from agents.estate import HomeConfig
from agents.handover import Inherited
from agents.node import Node, longest_retry, renewal_wait
from agents.stream_questions import StreamQuestions
from agents.workers import messages as m
from bridge import limits
from bridge.flows import Flow
from bridge.identity.identity_file import renewal_at
from bridge.identity.verify import PeerIdentity
from inventory.authority import AuthorityState
from inventory.errors import MeshError, Unavailable
from inventory.names import SpiffeId
from inventory.snapshot import Snapshot
from tests.support.memory_tls import TrustDomain

NOW = 1_800_000_000.0
DAY = 86400.0


def leaf(begin: float, life: float = DAY) -> PeerIdentity:
    """A certificate as issued at `begin`: it starts a little earlier."""
    return PeerIdentity(
        spiffe=SpiffeId("t.internal", "host", "vm1"),
        key="",
        serial=7,
        not_before=begin - limits.CLOCK_TOLERANCE,
        not_after=begin + life,
    )


def test_f44_a_certificate_is_renewed_at_about_half_its_life() -> None:
    wait = renewal_wait(leaf(NOW), NOW)
    assert 0.4 * DAY <= wait <= 0.6 * DAY
    assert renewal_wait(leaf(NOW), NOW + wait) == 0.0
    assert renewal_wait(leaf(NOW), NOW + 400 * DAY) == 0.0, "however late it is"
    assert renewal_wait(leaf(NOW), NOW) == pytest.approx(renewal_at(leaf(NOW)) - NOW)


def test_f35_a_renewal_that_failed_is_tried_again_at_any_moment_within_a_bound() -> None:
    assert longest_retry(leaf(NOW), NOW) == limits.RENEWAL_RETRY
    assert longest_retry(leaf(NOW), NOW + 2 * DAY) == limits.RENEWAL_RETRY_ENDED
    assert longest_retry(leaf(NOW, life=20.0), NOW) == 16.0, "a twentieth of 20 s and what it starts early"


def test_f32_a_certificate_from_the_future_is_replaced_once_the_clock_is_right_again() -> None:
    """A gateway issued it to itself while its clock was a month ahead: nobody accepts it for a month."""
    made_ahead = leaf(NOW + 30 * DAY)
    assert renewal_wait(made_ahead, NOW + 30 * DAY) > 0
    assert renewal_wait(made_ahead, NOW) == 0.0


def test_f32_a_clock_within_the_tolerance_is_no_reason() -> None:
    assert renewal_wait(leaf(NOW), NOW - 0.9 * limits.CLOCK_TOLERANCE) > 0
    assert renewal_wait(leaf(NOW), NOW - 1.9 * limits.CLOCK_TOLERANCE) > 0


class FakeWorker:
    """A worker process as a node holds it."""

    def __init__(self, pid: int) -> None:
        self.told: list[m.ToWorker] = []
        self.pid = pid
        self.serves = True
        self.streams = 0
        self.tunnels: tuple[m.TunnelState, ...] = ()
        self.slots: dict[int, Any] = {}

    def tell(self, message: m.ToWorker, socks: Any = ()) -> bool:
        self.told.append(message)
        return True

    @property
    def asked(self) -> int:
        """The number of the question it was asked last."""
        last = self.told[-1]
        assert isinstance(last, m.ListStreams | m.CutAll)
        return last.id


class FakeWorkers(list[FakeWorker]):
    """A node's workers."""

    streams = 0
    inherited_streams = 0
    tunnels = ()

    def tell_all(self, message: m.ToWorker) -> None:
        for worker in self:
            worker.tell(message)

    know = tell_all

    renew: Any = None
    leave: Any = None

    async def all_said(self) -> None: ...

    def status(self) -> list[Any]:
        return []

    def look(self, passed: float) -> None: ...

    def silent(self) -> list[str]:
        return ["data worker 1 has said nothing"]


class OneNode(Node):
    """A node with nothing of its own."""

    renewals: list[str]
    errors: list[Exception]

    async def start(self, nursery: trio.Nursery) -> None: ...

    async def renew_identity(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.renewals.append("renewed")


@pytest.fixture
async def node(tmp_path: Path) -> OneNode:
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    domain = TrustDomain(certificates, NOW)
    home = tmp_path / "vm1"
    home.mkdir(mode=0o700)
    shutil.copy(domain.identity("host/vm1"), home / "identity.pem")
    (home / "identity.pem").chmod(0o600)
    config = HomeConfig(role="host", name="vm1", trust_domain="t.internal", genesis="0" * 64)
    made = OneNode(home, config, domain.root_pem, workers=2, metrics=None, inherited=Inherited())
    made.snapshot = Snapshot(authority=AuthorityState())
    made.workers = FakeWorkers([FakeWorker(1), FakeWorker(2)])  # type: ignore[assignment]
    made._questions = StreamQuestions(made.workers)
    made.renewals, made.errors = [], []
    return made


def workers(node: OneNode) -> Any:
    return node.workers


FLOW = Flow(ts=1.0, id="f", subject="host:vm1", service="web", result="ok")


async def test_all_workers_are_asked_for_their_streams_and_the_answer_is_one(
    node: OneNode, nursery: trio.Nursery
) -> None:
    found: list[tuple[Flow, ...]] = []

    async def ask() -> None:
        found.append(await node.live_streams())

    nursery.start_soon(ask)
    await trio.testing.wait_all_tasks_blocked()
    one, two = workers(node)
    later = msgspec.structs.replace(FLOW, ts=2.0)
    await node.worker_said(one, m.StreamList(id=999, streams=()), [])
    await node.worker_said(two, m.StreamList(id=two.asked, streams=(later,)), [])
    await trio.testing.wait_all_tasks_blocked()
    assert not found
    await node.worker_said(one, m.StreamList(id=one.asked, streams=(FLOW,)), [])
    await trio.testing.wait_all_tasks_blocked()
    assert found == [(FLOW, later)]


async def test_f40_a_worker_that_dies_has_no_streams_and_nobody_waits_for_it(
    node: OneNode, autojump_clock: trio.testing.MockClock
) -> None:
    found: list[tuple[Flow, ...]] = []
    reasons: list[str] = []

    async def ask() -> None:
        try:
            found.append(await node.live_streams())
        except Unavailable as exc:
            reasons.append(exc.what)

    one, two = workers(node)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        node.worker_ended(one)
        await node.worker_said(two, m.StreamList(id=two.asked, streams=(FLOW,)), [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        node.worker_ended(one)
        node.worker_ended(two)
    assert found == [(FLOW,)] and reasons == ["the data workers ended"]
    assert trio.current_time() == started


async def test_a_worker_that_says_nothing_is_an_error_in_time(
    node: OneNode, autojump_clock: trio.testing.MockClock
) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        await node.live_streams()
    workers(node).clear()
    with pytest.raises(Unavailable, match="does not answer"):
        await node.cut_streams("x")


async def test_a_drain_without_workers_is_over_at_once(node: OneNode, autojump_clock: trio.testing.MockClock) -> None:
    """With them went all that they carried."""
    workers(node).clear()
    assert await node._drain() == 0


async def test_a_drain_waits_for_workers_of_another_version_while_ours_do_not_answer_yet(
    node: OneNode, autojump_clock: trio.testing.MockClock
) -> None:
    workers(node).clear()
    workers(node).inherited_streams = 2
    assert await node._drain() == 1


async def test_f08_a_drain_waits_for_streams_and_cuts_what_is_left(
    node: OneNode, autojump_clock: trio.testing.MockClock
) -> None:
    async def stubborn() -> int:
        return 2

    async def cut(reason: str) -> int:
        return 2

    node.busy, node.cut_remaining = stubborn, cut  # type: ignore[method-assign]
    started = trio.current_time()
    assert await node._drain() == 1
    assert trio.current_time() - started == pytest.approx(limits.DRAIN_DEADLINE)
    node.lifecycle.stop()
    started = trio.current_time()
    assert await node._drain() == 1
    assert trio.current_time() == started, "told to stop, it does not wait"


async def test_f29_a_connection_whose_descriptor_was_lost_is_passed_over(node: OneNode) -> None:
    await node.worker_said(workers(node)[0], m.Guest(remote="10.0.0.9:1"), [])
    await node.worker_said(workers(node)[0], m.ControlStream(spiffe_id="x", key="", remote="", not_after=0.0), [])


@pytest.mark.parametrize("error", [Unavailable("no gateway is connected"), ValueError("a chain of nonsense")])
async def test_f44_a_renewal_that_fails_is_tried_until_it_comes(
    node: OneNode, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("agents.node.clock.now", lambda: NOW + 0.7 * DAY)
    node.errors = [error, error]
    with trio.move_on_after(2.5 * limits.RENEWAL_RETRY):
        await node._renewals()
    assert node.renewals and m.IdentityChanged() in workers(node)[0].told  # type: ignore[attr-defined]


async def test_a_gateway_that_renews_to_nothing_new_is_not_asked_without_end(
    node: OneNode, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.node.clock.now", lambda: NOW + 0.7 * DAY)
    with trio.move_on_after(10):
        await node._renewals()
    assert len(node.renewals) <= 10 / limits.RENEWAL_INTERVAL + 1


async def test_status_can_be_told_at_any_moment(node: OneNode) -> None:
    json.dumps(node._status())
    assert "worker-silent" in [found["code"] for found in node._status()["warnings"]]
    with pytest.raises(MeshError):
        await node.admin(None, "nonsense", {})  # type: ignore[arg-type]
