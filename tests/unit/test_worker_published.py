"""I/O: (socketpairs) published ports in a worker: who is taken, who is closed at once, and what is counted."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from agents.workers import messages as m
from agents.workers.client_tls import Shaken, TlsRefused
from agents.workers.live import Caller, LiveFlow
from agents.workers.published import Published
from agents.workers.tasks import Tasks
from bridge import limits
from bridge.counters import Tally
from bridge.policy.decide import Subject
from inventory.clients import parse_peer
from inventory.model import Admission, Client, Host, Publication
from inventory.snapshot import Snapshot
from tests.support.estates import instance, rule, snapshot

PORT = m.ListenPublished(service="web", address="10.0.0.1", port=80, tls=False)
TLS_PORT = m.ListenPublished(service="web", address="10.0.0.1", port=443, tls=True)
FORWARDED = m.AdoptForwarded(host="aix1", service="web")
CLIENTS = [Client(name=name, gateways=("gw1",)) for name in ("lpar7", "lpar8", "pos")]
ADMISSIONS = [
    Admission(client="lpar7", sources=("10.1.0.0/16",)),
    Admission(client="lpar8", sources=("10.1.8.0/24",)),
    Admission(client="pos", sources=("10.2.0.0/16",), certificates={"a" * 64: "pem"}),
]
PUBLISHED = [
    Publication(service="web", gateway="gw1", listen="10.0.0.1:80"),
    Publication(service="web", gateway="gw1", listen="10.0.0.1:443", tls=True),
    Publication(service="web", host="aix1", port=80),
]
RULES = [rule("r", "allow", "client:lpar7 client:pos host:aix1", "web"), rule("d", "deny", "client:pos", "web")]


def estate(rules: Any = RULES, **changes: Any) -> Snapshot:
    made = snapshot([Host(name="vm1"), Host(name="aix1", via="gw1")], [instance("web", "vm1")], rules, clients=CLIENTS)
    known: dict[str, Any] = {
        "admissions": {one.client: one for one in ADMISSIONS},
        "publications": {one.id: one for one in PUBLISHED},
    }
    return made.evolved(authority=dataclasses.replace(made.authority, **{**known, **changes}))


class Tls:
    """Handshakes that end as the test says, or wait."""

    def __init__(self) -> None:
        self.keys: list[str | TlsRefused] = []

    def know(self, certificates: Any) -> None:
        self.certificates = certificates

    async def accept(self, sock: socket.socket) -> Shaken:
        if not self.keys:
            await trio.sleep_forever()
        answer = self.keys.pop()
        if isinstance(answer, TlsRefused):
            raise answer
        return Shaken(None, answer)  # type: ignore[arg-type]


class Door:
    """One worker's published ports, and what became of each connection."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.name = "gw1"
        self.snapshot = estate()
        self.taken: list[tuple[str, str, Caller, str | None]] = []
        self.notices: list[str] = []
        self.crashes: list[BaseException] = []
        self.live: list[LiveFlow] = []
        self.cut: list[str] = []
        self.tally = Tally()
        self.tls = Tls()
        tasks = Tasks(nursery, self.crashes.append)
        fake: Any = self
        self.published = Published(fake, tasks, fake, fake, self.tally, self.tls, fake)  # type: ignore[arg-type]
        self.published.know(self.snapshot)
        self.theirs: list[socket.socket] = []
        self.has_room = True

    def may_accept(self) -> bool:
        return self.has_room

    def settle(self) -> None: ...

    def client(self, sock: socket.socket, service: str, subject: Subject, caller: Caller, source: str | None) -> None:
        self.taken.append((service, str(subject), caller, source))
        sock.close()

    def cut_where(self, why: Any) -> None:
        self.cut += [reason for flow in self.live if (reason := why(flow)) is not None]

    def notice(self, event: str, text: str) -> None:
        self.notices.append(text)

    def connect(self, message: m.ListenPublished, source: str) -> socket.socket:
        """Somebody connects from there; their end."""
        ours, theirs = socket.socketpair()
        self.theirs.append(theirs)
        self.published.taker(message)(ours, (source, 4000))
        return theirs

    @property
    def counted(self) -> dict[str, int]:
        return dict(self.tally.take().clients_closed)

    def close(self) -> None:
        for sock in self.theirs:
            sock.close()
        assert not self.crashes


@asynccontextmanager
async def door() -> AsyncIterator[Door]:
    async with trio.open_nursery() as nursery:
        made = Door(nursery)
        yield made
        nursery.cancel_scope.cancel()
        made.close()


def is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


async def test_a_client_is_taken_by_its_address_and_all_others_are_closed_at_once() -> None:
    async with door() as d:
        d.connect(PORT, "10.1.0.7")
        [(service, subject, caller, source)] = d.taken
        assert (service, subject, source) == ("web", "client:lpar7", "10.1.0.7:4000")
        assert (caller.entrance, caller.key) == ("10.0.0.1:80", None)
        for stranger in ("10.9.0.1", "10.2.0.1", "2001:db8::1"):
            assert is_closed(d.connect(PORT, stranger))
        assert d.counted == {"unknown": 3}
        assert is_closed(d.connect(PORT, "10.1.8.1")), "the longest prefix is of a client that no rule lets in"
        assert d.counted == {"not-allowed": 1} and len(d.taken) == 1


async def test_whom_a_deny_refuses_is_told_by_the_record_and_not_by_the_door() -> None:
    async with door() as d:
        d.tls.keys = ["a" * 64]
        d.connect(TLS_PORT, "10.2.0.1")
        await trio.testing.wait_all_tasks_blocked()
        assert [(subject, caller.key) for _, subject, caller, _ in d.taken] == [("client:pos", "a" * 64)]


async def test_a_certificate_is_asked_for_only_from_where_somebody_with_one_may_call() -> None:
    async with door() as d:
        assert is_closed(d.connect(TLS_PORT, "10.1.0.7"))
        assert d.counted == {"unknown": 1}
        d.tls.keys = ["b" * 64]
        there = d.connect(TLS_PORT, "10.2.0.1")
        await trio.testing.wait_all_tasks_blocked()
        assert is_closed(there) and d.counted == {"unknown": 1}
        d.tls.keys = [TlsRefused("its certificate is none of those on record")]
        there = d.connect(TLS_PORT, "10.2.0.1")
        await trio.testing.wait_all_tasks_blocked()
        assert is_closed(there) and d.counted == {"certificate": 1} and not d.taken
        assert d.notices == ["10.2.0.1:4000: its certificate is none of those on record"]
        d.snapshot = estate(rules=[])
        d.published.know(d.snapshot)
        assert is_closed(d.connect(TLS_PORT, "10.2.0.1")) and d.counted == {"not-allowed": 1}


async def test_c23_c24_handshakes_have_slots_and_a_deadline(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PREAUTH_MAX", 3)
    async with door() as d:
        waiting = []
        for _ in range(3):
            waiting.append(d.connect(TLS_PORT, "10.2.0.1"))
            await trio.testing.wait_all_tasks_blocked()  # tasks begun at once begin in any order
        assert d.published.sockets == 3
        d.connect(TLS_PORT, "10.2.0.1")
        await trio.testing.wait_all_tasks_blocked()
        assert [is_closed(sock) for sock in waiting] == [True, False, False], "the longest waiting makes room"
        assert d.published.sockets == 3
        await trio.sleep(limits.PREAUTH_TIMEOUT + 1)
        assert all(map(is_closed, waiting)) and d.published.sockets == 0
        assert d.counted == {"timeout": 4}


async def test_a_program_on_an_ssh_host_is_that_host_and_only_where_it_is_published() -> None:
    async with door() as d:

        def forwarded(message: m.AdoptForwarded) -> socket.socket:
            (ours, theirs), (witness, other) = socket.socketpair(), socket.socketpair()
            d.theirs += [theirs, other]
            d.published.forwarded(message, ours, witness)
            return theirs

        forwarded(FORWARDED)
        [(_, subject, caller, source)] = d.taken
        assert (subject, caller.entrance, source) == ("host:aix1", "aix1", None)
        assert is_closed(forwarded(m.AdoptForwarded(host="aix1", service="db")))
        assert is_closed(forwarded(m.AdoptForwarded(host="aix2", service="web")))
        assert d.counted == {"unknown": 2}
        d.snapshot = estate(rules=RULES[1:])
        assert is_closed(forwarded(FORWARDED)) and d.counted == {"not-allowed": 1}
        d.snapshot, d.has_room = estate(), False
        assert is_closed(forwarded(FORWARDED)) and d.counted == {"full": 1} and len(d.taken) == 1


async def test_who_would_not_be_taken_now_is_cut() -> None:
    def flow(subject: Subject, entrance: str, address: str | None, key: str | None = None) -> LiveFlow:
        made = LiveFlow(side="source", subject=subject, service="web", site=None, host="gw1", started=0, began=0)
        made.caller = Caller(entrance, parse_peer(address) if address is not None else None, key)
        return made

    async with door() as d:
        lpar7, pos = Subject("client", "lpar7"), Subject("client", "pos")
        here, there = "10.0.0.1:80", "10.0.0.1:443"
        d.live = [flow(lpar7, here, "10.1.0.7"), flow(pos, there, "10.2.0.1", "a" * 64)]
        d.live.append(flow(Subject("host", "aix1"), "aix1", None))
        d.published.know(estate())
        assert not d.cut
        less = {one.id: one for one in PUBLISHED[1:2]}
        d.published.know(estate(publications=less))
        assert d.cut == ["web is no longer published at 10.0.0.1:80", "web is no longer published at aix1"]
        d.cut.clear()
        d.published.know(estate(admissions={}))
        gone = "is not known by this address or certificate any more"
        assert d.cut == [f"client:lpar7 {gone}", f"client:pos {gone}"]
