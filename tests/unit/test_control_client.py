"""I/O: a host's link to a gateway, with a gateway of the test's own at the other end of a socketpair."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import socket

import pytest
import trio
import trio.testing

from agents.control import messages as m
from agents.control.channel import ControlChannel, ControlLost
from agents.control.client import GatewayLink, NoWorker
from bridge import limits
from bridge.errors import PeerError
from bridge.flows import Flow
from inventory.errors import Unavailable
from inventory.model import Health, Presence

GatewayEnd = ControlChannel[m.FromGateway, m.FromHost]
FLOW = Flow(ts=1.0, id="f", subject="host:vm1", service="web", result="ok")
UPDATE = m.Update(revision=1, full=True)


@dataclass
class FakeAgent:
    """All that a link asks of its agent, and all it said to it."""

    updates: list[m.Update] = field(default_factory=list)
    dial_backs: list[m.DialBack] = field(default_factory=list)
    changes: int = 0
    drained: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    health: dict[str, Health] = field(default_factory=dict)
    refuse: Exception | None = None
    streams: int = 1

    def hello(self) -> m.Hello:
        return m.Hello(version="1", epoch=1, number=2)

    def report(self) -> m.Report:
        return m.Report(health=dict(self.health))

    async def updated(self, gateway: str, update: m.Update) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.updates.append(update)

    async def dial_back(self, gateway: str, message: m.DialBack) -> None:
        self.dial_backs.append(message)

    async def live_streams(self) -> tuple[Flow, ...]:
        if not self.streams:
            raise Unavailable("the data worker does not answer")
        return (FLOW,) * self.streams

    async def cut_streams(self, reason: str) -> tuple[Flow, ...]:
        return (FLOW,) * self.streams

    async def gateway_draining(self, gateway: str) -> None:
        self.drained.append(gateway)

    def gateway_moved(self, gateway: str) -> None:
        self.moved.append(gateway)

    def link_changed(self) -> None:
        self.changes += 1


class Wire:
    """The worker that carries control streams: the test gets the gateway's end of each."""

    def __init__(self) -> None:
        self.agent = FakeAgent()
        self.link = GatewayLink("gw1", self.agent, self._connect)
        self.error: Exception | None = None
        self.attempts = 0
        self._send, self._receive = trio.open_memory_channel[GatewayEnd](100)
        self._ends: list[GatewayEnd] = []

    def _connect(self, gateway: str, sock: socket) -> None:
        assert gateway == "gw1"
        self.attempts += 1
        if self.error is not None:
            sock.close()
            raise self.error
        end: GatewayEnd = ControlChannel(sock, m.FromHost)
        self._ends.append(end)
        self._send.send_nowait(end)

    async def begun(self) -> GatewayEnd:
        """The next attempt, which has not been welcomed yet."""
        end = await self._receive.receive()
        assert isinstance(await end.receive(), m.Hello)
        return end

    async def up(self) -> GatewayEnd:
        """The next attempt, welcomed, with the first report taken."""
        end = await self.begun()
        await end.send(m.Welcome(gateway="gw1", now=0.0))
        assert isinstance(await end.receive(), m.Report)
        return end

    def close(self) -> None:
        for end in self._ends:
            end.close()


@asynccontextmanager
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.link.run)
        yield made
        nursery.cancel_scope.cancel()
    made.close()


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked()


# --- keeping it up ----------------------------------------------------------------------------------------------------


async def test_a_link_says_hello_and_reports_and_is_up() -> None:
    async with wire() as w:
        await w.up()
        assert w.link.connected and w.link.last_error == "" and w.agent.changes == 1
        assert w.link.clock_difference is not None


async def test_f35_a_lost_link_is_tried_again_with_growing_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        end = await w.up()
        end.close()
        await settled()
        assert not w.link.connected and w.agent.changes == 2
        w.error = Unavailable("the data worker is not ready")
        await trio.sleep(600)
        assert w.link.last_error == "the data worker is not ready"
        assert 600 / limits.BACKOFF_MAX < w.attempts < 200
        w.error = None
        await w.up()
        assert w.link.connected


async def test_the_worker_that_is_back_is_used_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        w.error = Unavailable("not ready")
        await trio.sleep(120)
        w.error = None
        started = trio.current_time()
        w.link.retry_now()
        await w.up()
        assert trio.current_time() == started


async def test_why_there_is_no_link_is_what_the_worker_says(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        end = await w.begun()
        end.close()
        w.link.failed("gateway gw1 cannot be reached: 127.0.0.1:7443: Connection refused")
        await settled()
        assert "Connection refused" in w.link.last_error and not w.link.connected


@pytest.mark.parametrize("welcomed", [False, True])
async def test_why_the_gateway_ends_it_is_remembered(welcomed: bool) -> None:
    async with wire() as w:
        end = await (w.up() if welcomed else w.begun())
        await end.send(m.Refused(reason="revoked: stolen\x1b[2J"))
        end.close()
        await settled()
        assert w.link.last_error == "the gateway refused the session: revoked: stolen\\x1b[2J"


@pytest.mark.parametrize("message", [m.StreamsWanted(id=1), UPDATE, m.DialBack(ticket="t", peer="vm2")])
async def test_nothing_counts_before_welcome(message: m.FromGateway) -> None:
    async with wire() as w:
        end = await w.begun()
        await end.send(message)
        await settled()
        assert "did not say welcome" in w.link.last_error
        assert not w.agent.updates and not w.agent.dial_backs


async def test_a_gateway_that_never_answers_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        await w.begun()
        await w.begun()
        assert "did not say welcome" in w.link.last_error


async def test_f43_a_bug_in_the_agent_ends_this_attempt_only(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        end = await w.up()
        w.agent.refuse = KeyError("x")
        await end.send(UPDATE)
        again = await w.up()
        w.agent.refuse = None
        await again.send(UPDATE)
        await settled()
        assert w.agent.updates == [UPDATE] and w.link.connected


async def test_an_update_that_is_not_believed_ends_the_link_with_the_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wire() as w:
        end = await w.up()
        w.agent.refuse = PeerError("its update was refused: entry 7 is forged")
        await end.send(UPDATE)
        with pytest.raises(ControlLost):
            await end.receive()
        await settled()
        assert "entry 7 is forged" in w.link.last_error


async def test_out_of_descriptors_it_is_tried_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(24, "Too many open files")

    async with wire() as w:
        end = await w.up()
        with monkeypatch.context() as patch:
            patch.setattr("agents.control.client.socket.socketpair", full)
            end.close()
            await trio.sleep(60)
            assert "Too many open files" in w.link.last_error
        await w.up()


async def test_a_link_to_a_removed_gateway_ends() -> None:
    async with trio.open_nursery() as nursery:
        made = Wire()
        nursery.start_soon(made.link.run)
        end = await made.up()
        made.link.end()
        with pytest.raises(ControlLost):
            await end.receive()
    made.close()
    assert not made.link.connected


# --- moving to another worker -----------------------------------------------------------------------------------------


async def test_f10_a_link_moves_without_being_lost(autojump_clock: trio.testing.MockClock) -> None:
    """The next session is welcomed before the gateway ends the one before; nobody hears of a lost gateway."""
    async with wire() as w:
        first = await w.up()
        w.link.move(within=0.0)
        second = await w.begun()
        assert w.link.connected
        # The gateway ends the old session as soon as it has heard hello on the new one: that may be seen first.
        await first.send(m.Refused(reason="a newer session of this host was opened"))
        first.close()
        await settled()
        assert w.link.connected
        await second.send(m.Welcome(gateway="gw1", now=0.0))
        assert isinstance(await second.receive(), m.Report)
        await second.send(UPDATE)
        await settled()
        assert w.link.connected and w.link.last_error == "" and w.agent.changes == 1
        assert w.agent.updates == [UPDATE] and w.agent.moved == ["gw1"] and w.attempts == 2


async def test_f10_what_was_asked_on_the_old_session_is_answered_there_or_asked_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with wire() as w:
        first = await w.up()
        here, there = Question(), Question()
        nursery.start_soon(here.ask, lambda: w.link.path("vm2"))
        nursery.start_soon(there.ask, lambda: w.link.path("vm3"))
        asked = [await first.receive(), await first.receive()]
        w.link.move(within=0.0)
        second = await w.up()
        for q in asked:
            assert isinstance(q, m.PathWanted)
            if q.peer == "vm2":
                await first.send(m.PathOffered(id=q.id, ticket="old"))
        await first.send(m.DialBack(ticket="t", peer="vm2"))
        await first.send(UPDATE)
        await first.send(m.Refused(reason="a newer session of this host was opened"))
        first.close()
        again = await second.receive()
        assert isinstance(again, m.PathWanted) and again.peer == "vm3"
        await second.send(m.PathOffered(id=again.id, ticket="new"))
        await settled()
        assert (here.answer, there.answer) == ("old", "new")
        assert w.agent.dial_backs == [m.DialBack(ticket="t", peer="vm2")]
        assert not w.agent.updates, "news of the old session is older than what the new one says"


async def test_a_move_that_fails_is_tried_again_and_the_session_stays(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        first = await w.up()
        w.error = Unavailable("no data worker is ready")
        w.link.move(within=0.0)
        await trio.sleep(10)
        await first.send(UPDATE)
        await settled()
        assert w.link.connected and w.agent.updates == [UPDATE] and w.attempts > 2
        w.error = None
        second = await w.up()
        await second.send(UPDATE)
        await settled()
        assert len(w.agent.updates) == 2


async def test_an_old_session_that_the_gateway_does_not_end_is_left(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        first = await w.up()
        w.link.move(within=0.0)
        await w.up()
        started = trio.current_time()
        with pytest.raises(ControlLost):
            await first.receive()
        assert trio.current_time() - started <= limits.CONTROL_REQUEST_TIMEOUT and w.link.connected


async def test_f35_a_thousand_hosts_do_not_move_at_once(autojump_clock: trio.testing.MockClock) -> None:
    moved: list[float] = []
    for _ in range(20):
        async with wire() as w:
            await w.up()
            started = trio.current_time()
            w.link.move(within=limits.CONTROL_MOVE_SPREAD)
            await w.up()
            moved.append(trio.current_time() - started)
    assert max(moved) <= limits.CONTROL_MOVE_SPREAD and max(moved) - min(moved) > 0.3 * limits.CONTROL_MOVE_SPREAD


async def test_a_draining_gateway_is_not_moved_to(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        first = await w.up()
        await first.send(m.Draining(reason="x"))
        await settled()
        w.link.move(within=0.0)
        await trio.sleep(30)
        assert w.attempts == 1


async def test_whoever_needs_a_link_that_is_just_being_opened_or_was_just_lost_can_wait_for_it(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with wire() as w:
        seen: list[bool] = []

        async def wait() -> None:
            await w.link.decided()
            seen.append(w.link.connected)

        end = await w.begun()
        nursery.start_soon(wait)
        await settled()
        assert not seen
        await end.send(m.Welcome(gateway="gw1", now=0.0))
        await settled()
        assert seen == [True]
        await wait()
        assert seen == [True, True]
        end.close()
        await trio.sleep(0.001)
        assert not w.link.connected
        nursery.start_soon(wait)
        await w.up()
        await settled()
        assert seen == [True, True, True]


async def test_f10_who_takes_leave_hears_the_gateway_out_and_does_not_come_back(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with wire() as w:
        end = await w.up()
        gone = trio.Event()

        async def leave() -> None:
            await w.link.take_leave()
            gone.set()

        nursery.start_soon(leave)
        assert await end.receive() == m.Returning()
        await end.send(m.DialBack(ticket="t", peer="vm2"))
        await settled()
        assert w.agent.dial_backs == [m.DialBack(ticket="t", peer="vm2")] and not gone.is_set()
        end.close()
        await gone.wait()
        await trio.sleep(60)
        assert w.attempts == 1 and not w.link.connected


async def test_nobody_waits_for_a_link_that_has_been_down_for_long(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        began = trio.current_time()
        while trio.current_time() - began < 2 * limits.LINK_PATIENCE:
            (await w.begun()).close()
        await settled()
        with trio.fail_after(0.001):
            await w.link.decided()
        assert not w.link.connected


async def test_a_worker_of_ours_that_is_not_ready_makes_no_later_wait_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with wire() as w:
        w.error = NoWorker("no data worker is ready")
        await trio.sleep(60)
        w.error = None
        began = trio.current_time()
        await w.up()
        assert trio.current_time() - began <= limits.BACKOFF_FIRST


# --- hearing ----------------------------------------------------------------------------------------------------------


async def test_what_a_gateway_says_reaches_the_agent() -> None:
    async with wire() as w:
        end = await w.up()
        await end.send(UPDATE)
        await end.send(m.DialBack(ticket="t", peer="vm2"))
        await end.send(m.Draining(reason="x"))
        await settled()
        assert w.agent.updates == [UPDATE] and w.agent.dial_backs == [m.DialBack(ticket="t", peer="vm2")]
        assert w.link.draining and w.agent.drained == ["gw1"]


async def test_an_update_in_parts_counts_when_it_is_whole() -> None:
    async with wire() as w:
        end = await w.up()
        await end.send(m.Update(revision=1, full=True, more=True, presence={"vm1": Presence(host="vm1")}))
        await settled()
        assert not w.agent.updates
        await end.send(m.Update(revision=1, full=True, dropped=("host/vm3",)))
        await settled()
        [update] = w.agent.updates
        assert update.full and set(update.presence) == {"vm1"} and update.dropped == ("host/vm3",)


async def test_half_an_update_is_forgotten_with_its_link(autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        end = await w.up()
        await end.send(m.Update(revision=1, full=True, more=True, dropped=("host/vm3",)))
        await settled()
        end.close()
        again = await w.up()
        await again.send(UPDATE)
        await settled()
        assert w.agent.updates == [UPDATE]


async def test_answers_to_questions_that_nobody_asked_are_harmless() -> None:
    async with wire() as w:
        end = await w.up()
        for number in (0, 1, 99):
            await end.send(m.PathOffered(id=number, ticket="t"))
            await end.send(m.PathRefused(id=number, reason="x"))
            await end.send(m.Renewed(id=number, chain="x"))
        await settled()
        assert w.link.connected


async def test_a_report_is_sent_when_it_changed() -> None:
    async with wire() as w:
        end = await w.up()
        w.link.report_changed()
        await settled()
        w.agent.health["web/vm1/127.0.0.1:80"] = Health(state="passing")
        w.link.report_changed()
        assert await end.receive() == m.Report(health=w.agent.health)


async def test_reports_go_out_no_faster_than_a_gateway_takes_them(autojump_clock: trio.testing.MockClock) -> None:
    """What would wait in the stream is not sent: the gateway never acts on a report that is old already."""
    async with wire() as w:
        end = await w.up()
        for n in range(100):
            w.agent.health["web/vm1/127.0.0.1:80"] = Health(state="failing", reason=str(n))
            w.link.report_changed()
            await trio.sleep(limits.REPORT_INTERVAL / 10)
        heard: list[str] = []
        while not heard or heard[-1] != "99":
            report = await end.receive()
            assert isinstance(report, m.Report)
            heard.append(report.health["web/vm1/127.0.0.1:80"].reason)
        assert len(heard) < 15


async def test_flows_are_sent_in_pieces_and_the_oldest_are_left_out() -> None:
    async with wire() as w:
        end = await w.up()
        w.link.flowed((FLOW,) * 10_000)
        taken = 0
        while taken < 2000:
            message = await end.receive()
            assert isinstance(message, m.Flows) and len(message.records) <= 500
            taken += len(message.records)
        assert taken == 2000


async def test_live_streams_are_listed_up_to_a_bound() -> None:
    async with wire() as w:
        end = await w.up()
        w.agent.streams = limits.STREAMS_LISTED + 7
        await end.send(m.StreamsWanted(id=5))
        answer = await end.receive()
        assert isinstance(answer, m.Streams) and (answer.id, answer.count) == (5, w.agent.streams)
        assert len(answer.streams) == limits.STREAMS_LISTED
        await end.send(m.Cut(id=6, reason="x"))
        answer = await end.receive()
        assert isinstance(answer, m.Streams) and answer.cut == w.agent.streams


async def test_without_a_worker_the_link_lives_and_the_question_stays_open() -> None:
    async with wire() as w:
        end = await w.up()
        w.agent.streams = 0
        await end.send(m.StreamsWanted(id=5))
        await settled()
        assert w.link.connected


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass
class Question:
    """A question under way and what became of it."""

    answer: str = ""
    error: str = ""

    async def ask(self, call: Callable[[], Awaitable[str]]) -> None:
        try:
            self.answer = await call()
        except Unavailable as exc:
            self.error = exc.what


async def test_a_path_is_asked_for_and_offered_or_refused(nursery: trio.Nursery) -> None:
    async with wire() as w:
        end = await w.up()
        first, second = Question(), Question()
        nursery.start_soon(first.ask, lambda: w.link.path("vm2"))
        nursery.start_soon(second.ask, lambda: w.link.path("vm3"))
        asked = [await end.receive(), await end.receive()]
        assert {q.peer for q in asked if isinstance(q, m.PathWanted)} == {"vm2", "vm3"}
        for q in asked:
            assert isinstance(q, m.PathWanted)
            answer = m.PathOffered(id=q.id, ticket="t") if q.peer == "vm2" else m.PathRefused(id=q.id, reason="no")
            await end.send(answer)
        await settled()
        assert first.answer == "t" and second.error == "no"


async def test_a_renewal_is_asked_for_and_answered_or_refused(nursery: trio.Nursery) -> None:
    async with wire() as w:
        end = await w.up()
        for chain, error in (("PEM", ""), ("", "host vm1 was removed")):
            question = Question()
            nursery.start_soon(question.ask, lambda: w.link.renew(b"csr"))
            asked = await end.receive()
            assert isinstance(asked, m.Renew) and asked.csr == b"csr"
            await end.send(m.Renewed(id=asked.id, chain=chain, error=error))
            await settled()
            assert (question.answer, question.error.endswith(error)) == (chain, True)


async def test_a_question_ends_with_its_link(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    async with wire() as w:
        with pytest.raises(Unavailable, match="gw1 is not connected"):
            await w.link.path("vm2")
        end = await w.up()
        question = Question()
        nursery.start_soon(question.ask, lambda: w.link.path("vm2"))
        await end.receive()
        started = trio.current_time()
        end.close()
        await settled()
        assert question.error == "gateway gw1 was lost" and trio.current_time() == started


async def test_a_question_that_is_not_answered_ends(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async with wire() as w:
        await w.up()
        question = Question()
        nursery.start_soon(question.ask, lambda: w.link.path("vm2"))
        await trio.sleep(limits.PATH_TIMEOUT + 1)
        assert question.error == "gateway gw1 did not answer within 8 s" and w.link.connected
