"""I/O: sessions of a gateway, with hosts of the test's own at the other end of socketpairs."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from socket import socketpair

import msgspec
import pytest
import trio
import trio.testing

from agents import clock
from agents.control import messages as m
from agents.control.audience import Hearer
from agents.control.channel import ControlChannel, ControlLost
from agents.control.publisher import EstateView, for_everybody
from agents.control.server import ControlServer
from bridge import limits
from bridge.errors import PeerError
from bridge.flows import Flow
from inventory.authority import entry_key
from inventory.authority.entries import Entry
from inventory.errors import AnswerIsNo, InputError, Unavailable
from inventory.model import Instance, Presence
from inventory.policy_document import PolicySlicer, build, verify_document
from inventory.snapshot import Snapshot, Touched
from tests.support.authority import Chain, host, instance, revoke
from tests.support.estates import rule

HostEnd = ControlChannel[m.FromHost, m.FromGateway]
FAR = 4e9
ALLOW = rule("vm2 reads web", "allow", "host:vm2", "web")


@dataclass
class FakeGateway:
    """All that sessions ask of a gateway, and all they said to it."""

    name: str = "gw1"
    refusals: dict[str, str] = field(default_factory=dict)
    said: list[tuple[str, str, object]] = field(default_factory=list)
    report_error: Exception | None = None
    offers: list[tuple[str, str]] = field(default_factory=list)
    offer_error: PeerError | None = None
    expected: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        body, document = build([ALLOW], "text", random_bytes=random.Random(1).randbytes)
        self.chain = Chain(host("vm1", "web"), host("vm2"), host("vm3"), instance("web", "vm1"), body)
        self.slicer = PolicySlicer(document)
        self.snapshot = Snapshot(authority=self.chain.state, allows=verify_document(body, document), revision=1)

    def evolve(self, **changes: object) -> None:
        self.snapshot = self.snapshot.evolved(**changes, revision=self.snapshot.revision + 1)

    def view(self) -> EstateView:
        latest = {entry_key(msgspec.json.decode(s.payload, type=Entry).body): s for s in self.chain.log}
        return EstateView(self.snapshot, latest, self.slicer, for_everybody(self.snapshot.authority))

    async def admitted(self, name: str, key: str) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.refusals.get(name)

    def reported(self, name: str, report: m.Report) -> None:
        if self.report_error is not None:
            raise self.report_error
        self.said.append(("reported", name, report))

    def connected(self, name: str, hello: m.Hello) -> None:
        self.said.append(("connected", name, hello))

    def disconnected(self, name: str) -> None:
        self.said.append(("disconnected", name, None))

    def host_flowed(self, name: str, records: tuple[Flow, ...]) -> None:
        self.said.append(("flowed", name, records))

    async def renew(self, name: str, key: str, csr: bytes) -> str:
        if csr == b"bad":
            raise AnswerIsNo("not this one")
        self.said.append(("renewed", name, csr))
        return f"chain for {name} with {key}"

    def offer(self, a: str, b: str) -> tuple[str, str]:
        if self.offer_error is not None:
            raise self.offer_error
        self.offers.append((a, b))
        return f"ticket of {a}", f"ticket of {b}"

    def waiting_for(self, host: str) -> list[tuple[str, str]]:
        return [(a, f"ticket of {b}") for a, b in self.offers if b == host]

    def is_expected(self, host: str) -> bool:
        return host in self.expected

    def words(self) -> list[tuple[str, str]]:
        return [(what, name) for what, name, _ in self.said]


class Town:
    """A gateway's sessions and the hosts that the test plays."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.gateway = FakeGateway()
        self.server = ControlServer(self.gateway, self.gateway)
        self._nursery = nursery
        self._ends: list[HostEnd] = []

    def dial(self, name: str, *, not_after: float = FAR, key: str = "k") -> HostEnd:
        """The tunnel's worker hands over a control stream."""
        ours, theirs = socketpair()
        serve = partial(self.server.serve, remote="10.0.0.9:1", not_after=not_after)
        self._nursery.start_soon(serve, ours, name, key)
        end: HostEnd = ControlChannel(theirs, m.FromGateway)
        self._ends.append(end)
        return end

    async def join(self, name: str, *, epoch: int = 1) -> HostEnd:
        """A host that said hello, heard welcome, and was sent its first update."""
        end = self.dial(name)
        await end.send(m.Hello(version="1", epoch=epoch, number=1))
        assert isinstance(await end.receive(), m.Welcome)
        assert isinstance(await end.receive(), m.Update)
        return end

    def close(self) -> None:
        for end in self._ends:
            end.close()


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    async with trio.open_nursery() as nursery:
        made = Town(nursery)
        nursery.start_soon(made.server.run)
        yield made
        made.close()
        nursery.cancel_scope.cancel()


async def last_word(end: HostEnd) -> str:
    """What the gateway said last, and then nothing more."""
    while True:
        message = await end.receive()
        if isinstance(message, m.Refused):
            with pytest.raises(ControlLost):
                await end.receive()
            return message.reason


# --- beginning --------------------------------------------------------------------------------------------------------


async def test_a_host_is_welcomed_and_told_its_part() -> None:
    async with town() as t:
        end = t.dial("vm2")
        await end.send(m.Hello(version="1", epoch=1, number=1))
        welcome = await end.receive()
        assert isinstance(welcome, m.Welcome) and welcome.gateway == "gw1"
        update = await end.receive()
        assert isinstance(update, m.Update) and update.full and not update.more and update.leaves
        assert t.server.hosts == {"vm2"} and t.gateway.words() == [("connected", "vm2")]
        end.close()
        await trio.testing.wait_all_tasks_blocked()
        assert t.server.hosts == frozenset() and t.gateway.words()[-1] == ("disconnected", "vm2")


async def test_c16_who_is_not_admitted_is_told_why_before_it_says_anything() -> None:
    async with town() as t:
        t.gateway.refusals["vm1"] = "revoked: stolen"
        assert await last_word(t.dial("vm1")) == "revoked: stolen"
        assert t.gateway.said == []


@pytest.mark.parametrize(
    "message", [m.Report(), m.Renew(id=1, csr=b"x"), m.PathWanted(id=1, peer="vm1"), m.Flows(records=())]
)
async def test_c22_nothing_counts_before_hello(message: m.FromHost) -> None:
    async with town() as t:
        end = t.dial("vm2")
        await end.send(message)
        assert await last_word(end) == "the first message is not hello"
        assert t.gateway.said == []


async def test_c24_who_says_nothing_is_let_go(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        end = t.dial("vm2")
        started = trio.current_time()
        assert await last_word(end) == "the first message is not hello"
        assert trio.current_time() - started == pytest.approx(limits.PREAUTH_TIMEOUT)


async def test_f19_of_two_sessions_of_one_host_the_newer_lives() -> None:
    async with town() as t:
        old = await t.join("vm2", epoch=5)
        new = await t.join("vm2", epoch=6)
        assert "newer session" in await last_word(old)
        clone = t.dial("vm2")
        await clone.send(m.Hello(version="1", epoch=5, number=1))
        assert "another machine" in await last_word(clone)
        again = await t.join("vm2", epoch=6)
        assert "newer session" in await last_word(new)
        assert t.server.hosts == {"vm2"}
        again.close()
        await trio.testing.wait_all_tasks_blocked()
        assert t.gateway.words().count(("disconnected", "vm2")) == 1


async def test_a_session_ends_with_the_certificate_it_was_opened_with(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = trio.current_time()
    monkeypatch.setattr("agents.control.server.clock.now", lambda: trio.current_time() - begin)
    async with town() as t:
        end = t.dial("vm2", not_after=3600.0)
        await end.send(m.Hello(version="1", epoch=1, number=1))
        assert "certificate of this session has ended" in await last_word(end)
        assert trio.current_time() - begin == pytest.approx(3600 + limits.CLOCK_TOLERANCE, abs=61)


# --- hostile messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"type":"report","streams":NaN}', "cannot be read"),
        (b"[" * 5000, "nested deeper"),
        (b'{"type":"path-wanted","id":1,"peer":"\\u0000"}', "NUL"),
        (b'{"type":"welcome","gateway":"gw1","now":1.0}', "cannot be read"),
    ],
    ids=["h14", "h16", "h18", "c22"],
)
async def test_h14_h16_h18_bad_json_ends_the_session_with_a_reason_that_the_host_hears(
    body: bytes, reason: str
) -> None:
    async with town() as t:
        other = await t.join("vm1")
        end = await t.join("vm2")
        await end._sock.send(len(body).to_bytes(4, "big") + body)
        assert reason in await last_word(end)
        await trio.testing.wait_all_tasks_blocked()
        assert t.server.hosts == {"vm1"}
        await other.send(m.Report(streams=1))
        await trio.testing.wait_all_tasks_blocked()
        assert t.gateway.words()[-1] == ("reported", "vm1")


async def test_hello_twice_ends_the_session() -> None:
    async with town() as t:
        end = await t.join("vm2")
        await end.send(m.Hello(version="1", epoch=9, number=1))
        assert await last_word(end) == "hello twice"


async def test_f43_a_bug_in_the_gateway_ends_that_session_only() -> None:
    async with town() as t:
        other, end = await t.join("vm1"), await t.join("vm2")
        t.gateway.report_error = KeyError("x")
        await end.send(m.Report())
        with pytest.raises(ControlLost):
            while True:
                await end.receive()
        t.gateway.report_error = None
        await other.send(m.Report())
        await trio.testing.wait_all_tasks_blocked()
        assert t.server.hosts == {"vm1"}


async def test_a_report_that_the_gateway_cannot_use_ends_the_session_with_the_reason() -> None:
    async with town() as t:
        end = await t.join("vm2")
        t.gateway.report_error = InputError("too many instances")
        await end.send(m.Report())
        assert await last_word(end) == "too many instances"


async def test_c10_flows_are_booked_on_the_host_that_sent_them() -> None:
    async with town() as t:
        end = await t.join("vm2")
        forged = Flow(ts=1.0, id="f", subject="host:vm1", service="web", result="ok", host="vm1")
        await end.send(m.Flows(records=(forged,)))
        await trio.testing.wait_all_tasks_blocked()
        _, name, records = t.gateway.said[-1]
        assert name == "vm2" and isinstance(records, tuple) and records[0].host == "vm2"


async def test_the_end_of_a_certificate_is_what_was_shown_or_said_if_that_can_be() -> None:
    """For words only; still, nobody makes the whole estate look dead, or immortal, by a number."""
    async with town() as t:
        ends = {}
        day = limits.CERTIFICATE_LIFETIME
        now = clock.now()
        for name, shown, said in (("vm1", now + 60, 0), ("vm2", now + 60, int(now + day)), ("vm3", now + 60, 1),
                                  ("vm4", now + 60, 2**62)):  # fmt: skip
            end = t.dial(name, not_after=shown)
            await end.send(m.Hello(version="1", epoch=1, number=1))
            await end.send(m.Report(certificate_ends=said))
            ends[name] = shown
        await trio.testing.wait_all_tasks_blocked()
        found = t.server.certificate_ends(day)
        assert found["vm1"] == ends["vm1"] and found["vm3"] == ends["vm3"]
        assert found["vm2"] == int(now + day)
        assert now + day <= found["vm4"] <= clock.now() + day + limits.CLOCK_TOLERANCE


async def test_reports_in_a_row_are_slowed_down(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        end = await t.join("vm2")
        for n in range(10):
            await end.send(m.Report(streams=n))
        await trio.sleep(3.5 * limits.REPORT_INTERVAL)
        assert t.gateway.words().count(("reported", "vm2")) == 4
        await trio.sleep(10 * limits.REPORT_INTERVAL)
        assert t.gateway.words().count(("reported", "vm2")) == 10


# --- telling ----------------------------------------------------------------------------------------------------------


async def test_what_changed_is_told_at_once_and_together(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        end = await t.join("vm2")
        for online in (True, False, True):
            t.gateway.evolve(presence={"vm1": Presence(host="vm1", online=online)})
            t.server.publish()
        update = await end.receive()
        assert isinstance(update, m.Update) and not update.full and update.presence["vm1"] is not None
        assert update.presence["vm1"].online and not update.entries
        t.server.publish()
        with trio.move_on_after(5):
            raise AssertionError(await end.receive())


async def test_f46_a_revocation_is_told_to_whoever_knew_the_host() -> None:
    async with town() as t:
        end = await t.join("vm2")
        t.gateway.chain.add(revoke("vm1", "key"))
        t.gateway.evolve(authority=t.gateway.chain.state)
        t.server.publish()
        update = await end.receive()
        assert isinstance(update, m.Update)
        assert t.gateway.chain.log[-1] in update.entries and "host/vm1" in update.dropped


async def test_a_large_part_of_the_estate_goes_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.control.parts.limits.UPDATE_PART_BYTES", 2000)
    async with town() as t:
        many = tuple(Instance(service="web", host="vm1", target=f"10.0.0.{n}:80", port=80) for n in range(1, 250))
        t.gateway.evolve(reported={"vm1": many})
        t.server.publish()
        await trio.testing.wait_all_tasks_blocked(0.05)
        end = t.dial("vm2")
        await end.send(m.Hello(version="1", epoch=1, number=1))
        await end.receive()
        first = await end.receive()
        assert isinstance(first, m.Update) and first.full


async def test_a_host_that_was_behind_hears_what_is_so_now_and_not_all_that_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with town() as t:
        end = await t.join("vm2")
        for n in range(600):
            t.gateway.evolve(presence={"vm1": Presence(host="vm1", advertise=f"{'x' * 900}:{n}")})
            t.server.publish(Touched(hosts=frozenset(["vm1"])))
            await trio.sleep(0.011)
        heard = []
        while not heard or not heard[-1].endswith(":599"):
            update = await end.receive()
            assert isinstance(update, m.Update) and update.presence["vm1"] is not None
            heard.append(update.presence["vm1"].advertise or "")
        assert len(heard) < 500, "what nobody read was not kept for it one by one"


async def test_a_change_in_the_moment_in_which_a_host_has_caught_up_is_told(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with town() as t:
        turn, real, has_all = trio.lowlevel.checkpoint, t.server._audience.next_update, trio.Event()

        def noticed(hearer: Hearer) -> m.Update | None:
            update = real(hearer)
            if update is None:
                has_all.set()
            return update

        async def changed_meanwhile() -> None:
            """The host has all, and the task that told it has not gone on yet."""
            if has_all.is_set() and not t.gateway.snapshot.presence:
                t.gateway.evolve(presence={"vm1": Presence(host="vm1", online=True)})
                t.server.publish(Touched(hosts=frozenset(["vm1"])))
                await t.server._follow()
            await turn()

        monkeypatch.setattr(t.server._audience, "next_update", noticed)
        monkeypatch.setattr(trio.lowlevel, "checkpoint", changed_meanwhile)
        end = await t.join("vm2")
        with trio.fail_after(5):
            update = await end.receive()
        assert isinstance(update, m.Update) and update.presence["vm1"] is not None


async def test_nobody_is_told_anything_while_a_change_is_followed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """What a host held before is noted for one after the other: who is told in between would not be told what is new,
    or told it as if it were not."""
    async with town() as t:
        await t.join("vm2")
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr("agents.control.server._TURN", -1.0)  # every step is a turn
        real, follow = t.server._audience.next_update, t.server._audience.follow
        done: list[str] = []

        def told(hearer: Hearer) -> m.Update | None:
            done.append("told")
            return real(hearer)

        def followed(view: EstateView, touched: Touched | None) -> Iterator[Hearer | None]:
            for hearer in follow(view, touched):
                for session in t.server._sessions.values():
                    session.catch_up()
                done.append("step")
                yield hearer

        monkeypatch.setattr(t.server._audience, "next_update", told)
        monkeypatch.setattr(t.server._audience, "follow", followed)
        hosts = [f"vm{n}" for n in range(1, 30)]
        t.gateway.evolve(presence={name: Presence(host=name, online=True) for name in hosts})
        t.server.publish(Touched(hosts=frozenset(hosts)))
        await trio.sleep(1)
        steps = done.count("step")
        assert steps >= 29 and "told" in done and done[:steps] == ["step"] * steps


async def test_f43_a_bug_in_following_a_change_has_everybody_told_the_whole(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with town() as t:
        end = await t.join("vm2")

        def broken(*args: object) -> None:
            raise KeyError("a bug")

        monkeypatch.setattr(t.server._audience, "follow", broken)
        t.gateway.evolve(presence={"vm1": Presence(host="vm1", online=True)})
        t.server.publish(Touched(hosts=frozenset(["vm1"])))
        update = await end.receive()
        assert isinstance(update, m.Update) and update.full and update.presence["vm1"] is not None


async def test_f43_a_bug_in_telling_one_host_ends_its_session_only(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with town() as t:
        lucky, unlucky = await t.join("vm2"), await t.join("vm1")
        await trio.testing.wait_all_tasks_blocked()  # until both have all
        real = t.server._audience.next_update

        def breaks(hearer: Hearer) -> m.Update | None:
            if hearer.host == "vm1":
                raise KeyError("a bug")
            return real(hearer)

        monkeypatch.setattr(t.server._audience, "next_update", breaks)
        t.gateway.evolve(presence={"vm1": Presence(host="vm1", online=True)})
        t.server.publish(Touched(hosts=frozenset(["vm1"])))
        assert isinstance(await lucky.receive(), m.Update)
        assert await last_word(unlucky) == "internal error: KeyError"
        assert t.server.hosts == {"vm2"}


async def test_f11_a_host_that_does_not_read_is_let_go_and_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with town() as t:
        await t.join("vm1")
        reader = await t.join("vm2")
        for n in range(2000):
            t.gateway.evolve(presence={"vm1": Presence(host="vm1", advertise=f"{'x' * 900}:{n}")})
            t.server.publish()
            assert isinstance(await reader.receive(), m.Update)
            if t.server.hosts == {"vm2"}:
                return
        raise AssertionError("the host that reads nothing is still there")


# --- questions --------------------------------------------------------------------------------------------------------


async def test_a_renewal_is_answered_for_the_key_of_the_session() -> None:
    async with town() as t:
        end = await t.join("vm2")
        await end.send(m.Renew(id=7, csr=b"csr"))
        assert await end.receive() == m.Renewed(id=7, chain="chain for vm2 with k")


async def test_a_renewal_that_is_refused_says_why(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        end = await t.join("vm2")
        await end.send(m.Renew(id=7, csr=b"bad"))
        assert await end.receive() == m.Renewed(id=7, chain="", error="not this one")


async def test_renewals_in_a_row_are_slowed_down(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        end = await t.join("vm2")
        started = trio.current_time()
        for number in range(5):
            await end.send(m.Renew(id=number, csr=b"csr"))
        for _ in range(5):
            assert isinstance(await end.receive(), m.Renewed)
        assert trio.current_time() - started == pytest.approx(4 * limits.RENEWAL_INTERVAL)


async def test_a_path_is_offered_to_both_ends() -> None:
    async with town() as t:
        a, b = await t.join("vm2"), await t.join("vm1")
        await a.send(m.PathWanted(id=3, peer="vm1"))
        assert await b.receive() == m.DialBack(ticket="ticket of vm1", peer="vm2")
        assert await a.receive() == m.PathOffered(id=3, ticket="ticket of vm2")


async def test_a_host_that_was_here_a_moment_ago_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        a = await t.join("vm2")
        t.gateway.expected.add("vm1")
        await a.send(m.PathWanted(id=3, peer="vm1"))
        await trio.sleep(limits.LINK_PATIENCE / 2)
        b = t.dial("vm1")
        await b.send(m.Hello(version="1", epoch=1, number=1))
        said = [await b.receive() for _ in range(3)]
        assert m.DialBack(ticket="ticket of vm1", peer="vm2") in said
        assert await a.receive() == m.PathOffered(id=3, ticket="ticket of vm2")


async def test_a_host_that_does_not_come_back_is_waited_for_a_moment_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with town() as t:
        a = await t.join("vm2")
        t.gateway.expected.add("vm1")
        began = trio.current_time()
        await a.send(m.PathWanted(id=3, peer="vm1"))
        assert await a.receive() == m.PathRefused(id=3, reason="host vm1 is not connected to gateway gw1")
        assert trio.current_time() - began == pytest.approx(limits.LINK_PATIENCE)


async def test_f10_a_host_that_said_that_it_will_be_back_is_waited_for_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with town() as t:
        a, b = await t.join("vm2"), await t.join("vm1")
        t.gateway.expected.add("vm1")
        await b.send(m.Returning())
        with pytest.raises(ControlLost):
            while True:
                await b.receive()
        await a.send(m.PathWanted(id=3, peer="vm1"))
        await trio.sleep((limits.LINK_PATIENCE + limits.RETURN_PATIENCE) / 2)
        again = t.dial("vm1")
        await again.send(m.Hello(version="2", epoch=2, number=1))
        assert await a.receive() == m.PathOffered(id=3, ticket="ticket of vm2")
        again.close()  # without a word this time
        await trio.sleep(0.001)
        began = trio.current_time()
        await a.send(m.PathWanted(id=4, peer="vm1"))
        assert isinstance(await a.receive(), m.PathRefused)
        assert trio.current_time() - began == pytest.approx(limits.LINK_PATIENCE)


async def test_who_was_asked_to_connect_by_a_session_that_died_is_asked_again_by_the_next() -> None:
    async with town() as t:
        a, b = await t.join("vm2"), await t.join("vm1")
        await a.send(m.PathWanted(id=3, peer="vm1"))
        assert await a.receive() == m.PathOffered(id=3, ticket="ticket of vm2")
        b.close()  # with what it was sent unread
        again = t.dial("vm1")
        await again.send(m.Hello(version="1", epoch=2, number=1))
        assert isinstance(await again.receive(), m.Welcome)
        assert await again.receive() == m.DialBack(ticket="ticket of vm1", peer="vm2")


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        ("vm3", "no rule lets vm2 and 'vm3' reach each other"),
        ("nobody", "no rule lets vm2 and 'nobody' reach each other"),
        ("vm2", "no rule lets vm2 and 'vm2' reach each other"),
        ("\x1b[2J", "no rule lets vm2 and '\\x1b[2J' reach each other"),
        ("vm1", "host vm1 is not connected to gateway gw1"),
    ],
)
async def test_a_path_that_policy_or_absence_forbids_is_refused_with_the_reason(peer: str, reason: str) -> None:
    async with town() as t:
        await t.join("vm3")
        a = await t.join("vm2")
        await a.send(m.PathWanted(id=3, peer=peer))
        assert await a.receive() == m.PathRefused(id=3, reason=reason)
        assert t.gateway.offers == []


async def test_a_path_that_cannot_be_offered_is_refused_with_the_reason() -> None:
    async with town() as t:
        t.gateway.offer_error = PeerError("the gateway already carries 4000 paths")
        await t.join("vm1")
        a = await t.join("vm2")
        await a.send(m.PathWanted(id=3, peer="vm1"))
        assert await a.receive() == m.PathRefused(id=3, reason="the gateway already carries 4000 paths")


async def test_the_live_streams_of_a_host_are_asked_for_and_cut() -> None:
    async with town() as t:
        end = await t.join("vm2")
        flow = Flow(ts=1.0, id="f", subject="host:vm2", service="web", result="ok")
        answers: list[m.Streams] = []

        async def ask() -> None:
            answers.append(await t.server.streams("vm2"))
            answers.append(await t.server.cut("vm2", "x" * 5000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            question = await end.receive()
            assert isinstance(question, m.StreamsWanted)
            await end.send(m.Streams(id=question.id + 100, streams=()))
            await end.send(m.Streams(id=question.id, streams=(flow,), count=1))
            cut = await end.receive()
            assert isinstance(cut, m.Cut) and len(cut.reason) == limits.CONTROL_WORDS_MAX
            await end.send(m.Streams(id=cut.id, streams=(flow,), count=1, cut=1))
        assert [a.cut for a in answers] == [0, 1] and answers[0].streams == (flow,)


async def test_a_host_that_goes_away_answers_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        with pytest.raises(Unavailable, match="vm9 is not connected"):
            await t.server.streams("vm9")
        end = await t.join("vm2")
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(Unavailable, match="was lost before it answered"):
                    await t.server.streams("vm2")

            nursery.start_soon(ask)
            await end.receive()
            started = trio.current_time()
            end.close()
        assert trio.current_time() - started < 1, "nobody waits for an answer that cannot come"
        silent = await t.join("vm2")
        with pytest.raises(Unavailable, match="did not answer within 10 s"):
            await t.server.streams("vm2")
        silent.close()


async def test_a_removed_host_is_told_and_let_go() -> None:
    async with town() as t:
        end = await t.join("vm2")
        t.server.end("vm2", "revoked: stolen")
        t.server.end("nobody", "x")
        assert await last_word(end) == "revoked: stolen"


async def test_hosts_hear_that_the_gateway_drains(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        gone = await t.join("vm1")
        gone.close()
        end = await t.join("vm2")
        await t.server.say_draining("shutting down")
        assert await end.receive() == m.Draining(reason="shutting down")


async def test_f11_a_host_that_does_not_read_holds_up_no_drain(autojump_clock: trio.testing.MockClock) -> None:
    async with town() as t:
        for number in (1, 2, 3):
            end = await t.join(f"vm{number}")
            session = t.server._sessions[f"vm{number}"]
            if number < 3:
                await session.channel._sending.acquire()  # as a message does that nobody takes
        started = trio.current_time()
        await t.server.say_draining("shutting down")
        assert trio.current_time() - started <= limits.DRAIN_NOTICE
        assert await end.receive() == m.Draining(reason="shutting down")
