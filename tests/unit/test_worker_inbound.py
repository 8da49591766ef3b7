"""I/O: connections that have proved nothing yet: told apart by their first byte, bounded in number and in time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from agents.workers.data_worker import DataWorker
from agents.workers.inbound import Inbound, subject_of, user_said, why_silenced
from agents.workers.live import LiveFlow
from agents.workers.offered import Offered
from agents.workers.targets import Targets
from agents.workers.tasks import Tasks
from bridge import limits
from bridge.errors import PeerError
from bridge.policy.decide import Subject
from bridge.tunnels.frames import Open
from inventory.authority import RevokeBody
from inventory.errors import AnswerIsNo
from inventory.model import Client, Gateway, Host, Instance
from inventory.names import SpiffeId
from inventory.snapshot import Snapshot
from tests.support.estates import snapshot

TLS = b"\x16\x03\x01"


class FakePool:
    """Takes connections that begin like TLS; `outcome` is what becomes of them."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []
        self.outcome: Exception | None = None
        self.hangs = False

    async def establish(self, sock: socket.socket, *, server: bool) -> object:
        assert server
        try:
            if self.hangs:
                await trio.sleep_forever()
            if self.outcome is not None:
                raise self.outcome
        except BaseException:
            sock.close()
            raise
        self.taken.append(sock)
        return object()


class Door:
    """A node's tunnel port, with strangers that the test plays."""

    def __init__(self, nursery: trio.Nursery, role: str) -> None:
        self.name, self.role = "a", role
        self.draining: str | None = None
        self.targets = Targets()
        self.offered = Offered("a")
        self.ssh_channels = Path("/none")
        self.pool = FakePool()
        self.guests: list[socket.socket] = []
        self.guest_error: Exception | None = None
        self.notices: list[tuple[str, str]] = []
        self.crashes: list[BaseException] = []
        self.ends: list[socket.socket] = []
        self.inbound = Inbound(None, Tasks(nursery, self.crashes.append), self.pool, None, self)  # type: ignore[arg-type]

    def why_draining(self, instance: Instance) -> str | None:
        return self.draining

    async def guest(self, sock: socket.socket, remote: str, waited: float) -> None:
        if self.guest_error is not None:
            raise self.guest_error
        self.guests.append(sock)

    async def control(self, sock: socket.socket, tunnel: object, remote: str) -> None: ...
    def notice(self, event: str, text: str) -> None:
        self.notices.append((event, text))

    async def knock(self, data: bytes = b"") -> socket.socket:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        self.ends.append(theirs)
        theirs.send(data)
        self.inbound.connection(ours, ("10.0.0.9", 4711))
        await trio.testing.wait_all_tasks_blocked()
        return theirs


@asynccontextmanager
async def door(role: str = "host") -> AsyncIterator[Door]:
    async with trio.open_nursery() as nursery:
        made = Door(nursery, role)
        yield made
        nursery.cancel_scope.cancel()
    for sock in (*made.ends, *made.guests, *made.pool.taken):
        sock.close()
    assert not made.crashes


def is_open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) != b""
    except ConnectionResetError:
        return False
    except BlockingIOError:
        return True


async def test_what_begins_like_tls_goes_to_the_handshake() -> None:
    async with door() as d:
        end = await d.knock(TLS)
        assert len(d.pool.taken) == 1 and is_open(end) and d.inbound.waiting == 0
        assert d.pool.taken[0].recv(9) == TLS, "not a byte of it was read"


@pytest.mark.parametrize("role", ["host", "gateway"])
async def test_c25_a_preface_goes_to_the_gateway_unread_and_nowhere_else(role: str) -> None:
    async with door(role) as d:
        end = await d.knock(b"MBE1\nsecret")
        if role == "gateway":
            assert [sock.recv(99) for sock in d.guests] == [b"MBE1\nsecret"] and is_open(end)
        else:
            assert not d.guests and not is_open(end)
            assert d.notices == [("handshake-failed", "10.0.0.9:4711: not a TLS 1.3 client: it sent 'MBE1\\nsecret'")]


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"\0", b"\x1b[2J\x07", b"\xff" * 500])
async def test_h01_what_is_neither_is_named_and_closed(data: bytes) -> None:
    async with door("gateway") as d:
        assert not is_open(await d.knock(data))
        [(event, text)] = d.notices
        assert event == "handshake-failed" and "not a TLS 1.3 client" in text and text.isprintable()


async def test_who_leaves_without_a_word_is_no_event() -> None:
    async with door() as d:
        end = await d.knock()
        end.shutdown(socket.SHUT_RDWR)
        await trio.testing.wait_all_tasks_blocked()
        assert d.inbound.waiting == 0 and d.notices == []


@pytest.mark.parametrize("stage", ["first byte", "handshake"])
async def test_c24_there_is_one_deadline_for_all_stages(stage: str, autojump_clock: trio.testing.MockClock) -> None:
    async with door() as d:
        d.pool.hangs = True
        end = await d.knock(TLS if stage == "handshake" else b"")
        await trio.sleep(limits.PREAUTH_TIMEOUT - 1)
        assert is_open(end) and d.inbound.waiting == 1
        await trio.sleep(2)
        assert not is_open(end) and d.inbound.waiting == 0
        assert d.notices == [("handshake-timeout", "10.0.0.9:4711: no proof of identity in time")]


async def test_c23_the_one_that_waited_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PREAUTH_MAX", 3)
    async with door() as d:
        ends = [await d.knock() for _ in range(5)]
        assert [is_open(end) for end in ends] == [False, False, True, True, True] and d.inbound.waiting == 3
        ends[4].send(TLS)
        await trio.testing.wait_all_tasks_blocked()
        assert len(d.pool.taken) == 1 and d.inbound.waiting == 2


async def test_a_handshake_that_fails_is_told_with_its_reason() -> None:
    async with door() as d:
        d.pool.outcome = PeerError("client certificate required")
        assert not is_open(await d.knock(TLS))
        assert d.notices == [("handshake-failed", "10.0.0.9:4711: client certificate required")]


@pytest.mark.parametrize("where", ["handshake", "guest"])
async def test_f43_a_bug_costs_that_connection_only(where: str) -> None:
    async with door("gateway") as d:
        d.pool.outcome = d.guest_error = KeyError("x")
        assert not is_open(await d.knock(TLS if where == "handshake" else b"MBE1\n"))
        assert [type(error) for error in d.crashes] == [KeyError]
        d.crashes.clear()
        d.pool.outcome = d.guest_error = None
        assert is_open(await d.knock(TLS)) and d.inbound.waiting == 0


# --- for whom a peer asks ---------------------------------------------------------------------------------------------


def spoken_for(**changes: Any) -> Snapshot:
    """gw1 speaks for lpar7 and aix1; gw2 for lpar7 alone, and is revoked."""
    made = snapshot(
        [Host(name="web"), Host(name="aix1", via="gw1")],
        clients=[Client(name="lpar7", gateways=("gw1", "gw2")), Client(name="lpar8", gateways=("gw3",))],
        revoked=[RevokeBody(spiffe_id="spiffe://t.internal/gateway/gw2", keys=(), reason="stolen")],
    )
    gateways = {name: Gateway(name=name, address="10.0.0.1:1") for name in ("gw1", "gw2")}
    return made.evolved(authority=replace(made.authority, gateways=gateways, **changes))


def peer(role: Any, name: str) -> SpiffeId:
    return SpiffeId("t.internal", role, name)


@pytest.mark.parametrize("said", ["client:lpar7", "host:aix1"])
def test_a_gateway_asks_for_those_whom_the_log_gives_it(said: str) -> None:
    assert str(subject_of(spoken_for(), peer("gateway", "gw1"), said)) == said
    assert str(subject_of(spoken_for(), peer("host", "web"), None)) == "host:web"


@pytest.mark.parametrize(
    ("who", "said"),
    [
        (peer("gateway", "gw1"), None),
        (peer("gateway", "gw1"), "client:lpar8"),
        (peer("gateway", "gw1"), "client:lpar9"),
        (peer("gateway", "gw1"), "host:web"),
        (peer("gateway", "gw1"), "host:lpar7"),
        (peer("gateway", "gw1"), "client:aix1"),
        (peer("gateway", "gw1"), "client:LPAR7"),
        (peer("gateway", "gw1"), "lpar7"),
        (peer("gateway", "gw1"), "aix1"),
        (peer("gateway", "gw1"), "client:lpar7."),
        (peer("gateway", "gw1"), "client:" + "a" * 300),
        (peer("gateway", "gw1"), ""),
        (peer("gateway", "gw2"), "client:lpar7"),
        (peer("gateway", "gw2"), "host:aix1"),
        (peer("gateway", "gw3"), "client:lpar8"),
        (peer("host", "web"), "host:web"),
        (peer("host", "gw1"), "client:lpar7"),
        (peer("operator", "gw1"), "client:lpar7"),
    ],
)
def test_c10_nobody_asks_for_anybody_else(who: SpiffeId, said: str | None) -> None:
    with pytest.raises(AnswerIsNo):
        subject_of(spoken_for(), who, said)


def test_a_stream_is_silenced_with_its_gateway() -> None:
    flow = LiveFlow(
        side="destination", subject=Subject("client", "lpar7"), service="web", site=None, host="web", started=0, began=0
    )
    assert why_silenced(spoken_for(clients={}), flow) is None, "nobody speaks for it but a certificate"
    flow.speaker = "gw1"
    assert why_silenced(spoken_for(), flow) is None
    assert why_silenced(spoken_for(clients={}), flow) == "gateway gw1 may not speak for client:lpar7 any more"
    flow.subject = Subject("host", "aix1")
    assert why_silenced(spoken_for(), flow) is None
    moved = {"aix1": Host(name="aix1", via="gw3")}
    assert why_silenced(spoken_for(hosts=moved), flow) == "gateway gw1 may not speak for host:aix1 any more"


def test_a_node_that_knows_nobody_for_whom_a_gateway_speaks_has_no_tunnels_with_it() -> None:
    assert spoken_for().speaks("gw1") and not spoken_for().speaks("gw2") and not spoken_for().speaks("gw3")
    assert spoken_for(clients={}).speaks("gw1") and not spoken_for(clients={}, hosts={}).speaks("gw1")


def test_c10_a_gateway_names_no_local_user_of_those_for_whom_it_speaks() -> None:
    assert user_said(Open(service="web", user="oracle")) == "oracle"
    for subject in ("client:lpar7", "host:aix1"):
        assert user_said(Open(service="web", user="oracle", subject=subject)) is None


def test_c10_nobody_with_a_certificate_is_an_agentless_host() -> None:
    """Of an agent that had the name before, or of a token that was made for it."""
    known = spoken_for()
    assert known.has_agent("web") and not known.has_agent("aix1") and not known.has_agent("nobody")
    worker: Any = SimpleNamespace(snapshot=known)
    assert not DataWorker.is_stranger(worker, peer("host", "web"))
    assert DataWorker.is_stranger(worker, peer("host", "aix1"))
