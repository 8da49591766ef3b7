"""I/O: a gateway's decisions about hosts, guests and its registry, in a home of its own; no worker is started."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agents.control import messages as c
from agents.estate import load_config, open_registry, operate
from agents.gateway_agent import GatewayAgent
from agents.handover import Inherited
from agents.knowledge.ledger import Ledger
from agents.operating.bootstrap import init, new_estate
from agents.operating.hosts import add_host, new_host, remove_host, revoke_host
from agents.operating.reaches import Wanted, add_agentless
from agents.workers import messages as m
from bridge import limits
from bridge.identity.certificates import generate_key, key_hash
from bridge.identity.issuer import make_csr
from inventory.errors import AnswerIsNo, InputError, Unavailable
from inventory.model import Health, Instance
from inventory.names import SpiffeId
from inventory.reach import parse_reach
from tests.support import authority as say
from tests.support.estates import instance


class Gate:
    """A gateway that was not started, and its operator."""

    def __init__(self, home: Path, agent: GatewayAgent, ledger: Ledger) -> None:
        self.home = home
        self.agent = agent
        self.ledger = ledger
        self.published = 0
        agent._control.publish = self._published  # type: ignore[method-assign]

    def _published(self, touched: object = None) -> None:
        self.published += 1

    async def add(self, name: str, *serves: str) -> None:
        async with operate(self.home) as operator:
            await add_host(operator, new_host(name, labels={}, site=None, serves=serves))

    async def follow(self) -> None:
        """What the gateway does when the registry changed."""
        await self.ledger.refresh()
        await self.agent._authority_changed()

    def report(self, host: str, *instances: Instance, health: dict[str, Health] | None = None) -> None:
        self.agent.reported(host, c.Report(instances=instances, health=health or {}))


@asynccontextmanager
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    home = tmp_path / "op"
    await init(home, new_estate(domain="t.internal", gateway="gw1=127.0.0.1:17443", operator_name="ann"))
    config = load_config(home)
    async with open_registry(home) as registry:
        ledger = Ledger(registry, home, config.genesis)
        await ledger.load()
        agent = GatewayAgent(home, config, registry, ledger, workers=1, metrics=None, inherited=Inherited())
        with closing(agent):
            async with trio.open_nursery() as nursery:
                agent._nursery = nursery
                yield Gate(home, agent, ledger)
                nursery.cancel_scope.cancel()


WORKER: Any = object()
"""Whichever worker says it."""
HELLO = c.Hello(version="1", epoch=1, number=1)


# --- what hosts say ---------------------------------------------------------------------------------------------------


async def test_h26_ten_thousand_instances_from_one_host_change_nothing(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1", "web")
        await g.follow()
        good = instance("web", "vm1", target="127.0.0.1:9001")
        g.report("vm1", good)
        before, published = g.agent.snapshot, g.published
        many = tuple(instance("web", "vm1", target=f"10.0.{n // 250}.{n % 250}:80") for n in range(10_000))
        g.report("vm1", *many)
        assert g.agent.snapshot is before and g.published == published
        assert g.agent.snapshot.reported == {"vm1": (good,)}


async def test_h25_what_a_host_may_not_say_is_left_out(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1", "web")
        await g.add("vm2", "cards")
        await g.follow()
        good = instance("web", "vm1")
        g.report(
            "vm1",
            good,
            instance("cards", "vm1"),
            instance("cards", "vm2"),
            instance("web", "vm1", port=99999),
            health={good.id: Health(state="passing"), "cards/vm2/127.0.0.1:9000": Health(state="failing")},
        )
        assert g.agent.snapshot.reported == {"vm1": (good,)}
        assert g.agent.snapshot.health == {good.id: Health(state="passing")}


async def test_c44_reasons_that_hosts_give_are_made_printable(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1", "web")
        await g.follow()
        good = instance("web", "vm1")
        g.report("vm1", good, health={good.id: Health(state="failing", reason="\x1b]0;owned\x07" * 100)})
        reason = g.agent.snapshot.health[good.id].reason
        assert reason.isprintable() and len(reason) <= limits.FOREIGN_TEXT_MAX


async def test_the_same_report_again_is_no_news(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1", "web")
        await g.follow()
        g.report("vm1", instance("web", "vm1"))
        published = g.published
        g.report("vm1", instance("web", "vm1"))
        assert g.published == published


async def test_h23_an_address_that_nobody_can_dial_is_not_passed_on(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1")
        await g.follow()
        for address, kept in (("169.254.169.254:80", None), ("x", None), ("10.0.0.1:7443", "10.0.0.1:7443")):
            g.agent.connected("vm1", c.Hello(version="1", epoch=1, number=1, advertise=address))
            assert g.agent.snapshot.presence["vm1"].advertise == kept


async def test_f34_a_host_that_has_seen_more_is_a_warning_until_it_is_gone(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1")
        await g.follow()
        g.agent.connected("vm1", c.Hello(version="1", epoch=1, number=2**62))
        [warning] = [w for w in g.agent.warnings() if w["code"] == "behind"]
        assert "host vm1 says" in warning["text"]
        g.agent.disconnected("vm1")
        assert not [w for w in g.agent.warnings() if w["code"] == "behind"]


async def test_a_host_that_is_away_counts_as_here_for_one_lease(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1")
        await g.follow()
        g.agent.connected("vm1", HELLO)
        g.agent._nursery.start_soon(g.agent._end_leases)
        g.agent.disconnected("vm1")
        await trio.sleep(limits.LEASE - 2)
        assert g.agent.snapshot.presence["vm1"].online
        await trio.sleep(4)
        assert not g.agent.snapshot.presence["vm1"].online
        g.agent.connected("vm1", HELLO)
        await trio.sleep(2 * limits.LEASE)
        assert g.agent.snapshot.presence["vm1"].online


async def test_a_host_whose_wait_is_the_longest_is_not_said_to_be_away_after_a_restart(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1")
        await g.add("vm2")
        await g.follow()
        for host in ("vm1", "vm2"):
            g.agent.connected(host, HELLO)
        g.agent._expect_hosts()
        g.agent._nursery.start_soon(g.agent._end_leases)
        await trio.sleep(limits.BACKOFF_MAX + limits.LEASE - 2)
        g.agent.connected("vm1", HELLO)
        assert g.agent.snapshot.presence["vm2"].online
        await trio.sleep(4)
        assert g.agent.snapshot.presence["vm1"].online and not g.agent.snapshot.presence["vm2"].online


# --- authority --------------------------------------------------------------------------------------------------------


async def test_c16_who_is_admitted(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1")
        await g.add("vm2")
        await g.follow()
        assert await g.agent.admitted("vm1", "0" * 64) is None
        assert await g.agent.admitted("nobody", "0" * 64) == "host nobody is not in the authority log"
        async with operate(g.home) as operator:
            await revoke_host(operator, "vm1", "stolen")
            await remove_host(operator, "vm2")
        await g.follow()
        assert await g.agent.admitted("vm1", "0" * 64) == "revoked: stolen"
        assert await g.agent.admitted("vm2", "0" * 64) == "host vm2 is not in the authority log"
        url, key = parse_reach("ssh://mesh@192.0.2.9"), say.reach("vm2").reach.host_keys
        async with operate(g.home) as operator:
            wanted = Wanted(url=url, via="gw1", host_keys=key)
            await add_agentless(operator, new_host("vm2", labels={}, site=None, serves=()), wanted, named=())
        await g.follow()
        words = "host vm2 is reached by gateway gw1, and no agent runs on it"
        assert await g.agent.admitted("vm2", "0" * 64) == words, "whoever had the name before"


async def test_f46_a_revocation_is_published_before_anything_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1", "web")
        await g.follow()
        async with operate(g.home) as operator:
            await revoke_host(operator, "vm1", "stolen")
        await g.ledger.refresh()

        told: list[int] = []
        monkeypatch.setattr(g.agent.workers, "know", lambda _message: told.append(g.published))
        published = g.published
        g.agent._nursery.start_soon(g.agent._authority_changed)
        await trio.testing.wait_all_tasks_blocked()
        assert g.published == published + 1 and g.agent.view().snapshot.host_revoked("vm1") is not None


async def test_what_is_published_belongs_together_while_the_log_moves_on(tmp_path: Path) -> None:
    """An enrolment reads the log before the gateway has put it in force: hosts are still told one moment's truth."""
    async with gate(tmp_path) as g:
        await g.add("vm1")
        await g.follow()
        before = g.agent.view()
        await g.add("vm2")
        await g.ledger.refresh()
        view = g.agent.view()
        assert view.snapshot is before.snapshot and view.latest is before.latest and view.slicer is before.slicer
        assert "host/vm2" not in view.latest
        await g.agent._authority_changed()
        assert "host/vm2" in g.agent.view().latest and "vm2" in g.agent.view().snapshot.authority.hosts


async def test_what_removed_hosts_said_is_forgotten(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1", "web")
        await g.follow()
        g.agent.connected("vm1", HELLO)
        g.report("vm1", instance("web", "vm1"))
        async with operate(g.home) as operator:
            await remove_host(operator, "vm1")
        await g.follow()
        assert not g.agent.snapshot.presence and not g.agent.snapshot.reported


@pytest.mark.parametrize("error", [Unavailable("the disk is slow"), InputError("entry 9 is forged"), KeyError("a bug")])
async def test_f13_what_could_not_be_read_is_read_again_without_another_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with gate(tmp_path) as g:
        monkeypatch.setattr(limits, "REGISTRY_RETRY_FIRST", 0.01)
        monkeypatch.setattr(limits, "REGISTRY_RETRY", 0.01)
        real, failures = g.ledger.refresh, [error, error]

        async def flaky() -> bool:
            if failures:
                raise failures.pop()
            return await real()

        monkeypatch.setattr(g.ledger, "refresh", flaky)
        changed = trio.Event()
        real_change = g.agent._authority_changed

        async def seen() -> None:
            await real_change()
            changed.set()

        monkeypatch.setattr(g.agent, "_authority_changed", seen)
        await g.add("vm1")
        g.agent._nursery.start_soon(g.agent._follow_registry)
        with trio.fail_after(5):
            await changed.wait()
        assert "vm1" in g.agent.snapshot.authority.hosts and not failures


async def test_f04_what_cannot_be_remembered_counts_and_is_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gate(tmp_path) as g:
        tried = trio.Event()

        async def full() -> None:
            tried.set()
            raise Unavailable("no space left to write 80 bytes")

        monkeypatch.setattr(g.ledger, "remember", full)
        await g.add("vm1")
        g.agent._nursery.start_soon(g.agent._follow_registry)
        with trio.fail_after(5):
            await tried.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert "vm1" in g.agent.snapshot.authority.hosts
        assert any("no space left" in w["text"] for w in g.agent.warnings())


# --- guests -----------------------------------------------------------------------------------------------------------


async def test_c23_strangers_cost_a_bounded_number_of_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GUESTS_MAX", 3)
    async with gate(tmp_path) as g:
        ends = []
        for _ in range(5):
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            ends.append(theirs)
            await g.agent.worker_message(WORKER, m.Guest(remote="10.0.0.9:1"), [ours])
        await trio.testing.wait_all_tasks_blocked()
        assert g.agent._guests.waiting == 3
        assert [_is_open(end) for end in ends] == [False, False, True, True, True], "who has waited longest goes"
    for end in ends:
        end.close()


def _is_open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) != b""
    except ConnectionResetError:
        return False
    except BlockingIOError:
        return True


@pytest.mark.parametrize(
    "line", [b"MBR1 forged\n", b"MBR1 \xff\xfe\n", b"MBR2 x\n", b"M\n", b"M" * 300, b"MBR1 " + b"A" * 200 + b"\n"]
)
async def test_h10_a_preface_that_is_none_of_ours_is_closed(tmp_path: Path, line: bytes) -> None:
    async with gate(tmp_path) as g:
        ours, theirs = socket.socketpair()
        theirs.send(line)
        await g.agent.worker_message(WORKER, m.Guest(remote="10.0.0.9:1"), [ours])
        await trio.testing.wait_all_tasks_blocked()
        assert not g.agent._guests.waiting
        theirs.setblocking(False)
        assert not _is_open(theirs)
        theirs.close()


async def test_two_tickets_make_a_path_and_a_lost_worker_gives_its_sockets_back(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        g.agent.workers._serving.started.set()  # and the one that there was has ended since
        tickets = g.agent._paths.offer("vm1", "vm2")
        ends = []
        for ticket in tickets:
            ours, theirs = socket.socketpair()
            theirs.send(f"MBR1 {ticket}\n".encode())
            theirs.setblocking(False)
            ends.append(theirs)
            await g.agent.worker_message(WORKER, m.Guest(remote="10.0.0.9:1"), [ours])
        await trio.testing.wait_all_tasks_blocked()
        assert not g.agent._guests.waiting
        assert [_is_open(end) for end in ends] == [False, False] and not g.agent._paths.joined
        for end in ends:
            end.close()


async def test_c20_certificates_are_issued_for_the_key_of_the_session_only(tmp_path: Path) -> None:
    async with gate(tmp_path) as g:
        await g.add("vm1")
        await g.follow()
        mine, other = generate_key(), generate_key()
        chain = await g.agent.renew("vm1", key_hash(mine.public_key()), make_csr(mine))
        assert chain.count("BEGIN CERTIFICATE") == 2
        with pytest.raises(AnswerIsNo, match="the key that the host was enrolled with"):
            await g.agent.renew("vm1", key_hash(mine.public_key()), make_csr(other))
        with pytest.raises(AnswerIsNo, match="not in the authority log"):
            await g.agent.renew("nobody", key_hash(mine.public_key()), make_csr(mine))
        with pytest.raises(InputError, match="refused"):
            await g.agent.renew("vm1", key_hash(mine.public_key()), b"nonsense")
        assert SpiffeId("t.internal", "gateway", "gw1") == g.agent.spiffe
