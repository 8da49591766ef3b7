"""I/O: (a fake ssh worker on a socketpair) what a gateway tells its ssh worker, what it makes of what it hears, and who
is there.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from agents.handover import LeftSsh
from agents.reach.hops import last_hops, reached
from agents.reach.reaching import Reaching, ReachOwner
from agents.reach.ssh_process import Suspensions
from agents.workers import ssh_messages as m
from agents.workers.channel import Channel, ChannelClosed
from agents.workers.last_hop import place_in
from agents.workers.ssh_page import SuspectNote
from bridge import limits
from inventory.authority import RevokeBody
from inventory.errors import Unavailable
from inventory.model import Allowance, Gateway, Host, Presence, Reach
from inventory.snapshot import Snapshot, Touched
from tests.support import authority as say
from tests.support.estates import snapshot
from tests.unit.test_ssh_keys import public

AIX = say.reach("aix1").reach
OLD = say.reach("old1", url="tcp://192.0.2.8").reach
BOX = say.reach("box1", url="tls://192.0.2.9").reach


def estate(*reaches: Reach, hosts: tuple[Host, ...] = ()) -> Snapshot:
    made = snapshot([*(Host(name=reach.host, via=reach.gateway) for reach in reaches), *hosts], rules=[])
    gateways = {"gw1": Gateway(name="gw1", address="192.0.2.1:7443")}
    ways = {reach.host: reach for reach in reaches}
    return made.evolved(authority=replace(made.authority, gateways=gateways, reaches=ways))


class FakeWorker:
    """The process at the other end; says what a test has it say."""

    def __init__(self, sock: socket.socket) -> None:
        self.pid = 4711
        self._sock = sock.dup()
        self.channel: Channel[m.FromSshWorker, m.ToSshWorker] = Channel(self._sock, m.ToSshWorker)
        self.told: list[m.ToSshWorker] = []
        self.killed = False
        self.page: SuspectNote | None = None
        self.key = ed25519.Ed25519PrivateKey.generate()

    def kill(self) -> None:
        self.killed = True
        self.channel.close()

    def wait(self) -> int:
        return 0

    async def begin(self) -> None:
        await trio.lowlevel.wait_readable(self._sock)
        data, (listener, page), _, _ = socket.recv_fds(self._sock, 65536, 2)  # the page is no socket
        assert isinstance(msgspec.msgpack.decode(data[4:], type=m.ToSshWorker), m.Begin)
        self.page = SuspectNote(page)
        socket.socket(fileno=listener).close()
        await self.channel.send(m.Started(pid=self.pid, public_key=public(self.key)))

    async def hear(self) -> m.ToSshWorker:
        message, _ = await self.channel.receive()
        self.told.append(message)
        return message

    async def say(self, message: m.FromSshWorker, *socks: socket.socket) -> None:
        await self.channel.send(message, [sock.fileno() for sock in socks])


class Gateway1:
    """What a gateway agent has around it."""

    def __init__(self, home: Path, known: Snapshot, left: LeftSsh | None = None) -> None:
        self.snapshot = known
        self.placed: list[dict[str, bool]] = []
        self.forwarded: list[tuple[m.Forwarded, Sequence[socket.socket]]] = []
        self.workers: list[FakeWorker] = []
        self._started = trio.Event()
        owner = ReachOwner(lambda: self.snapshot, self.place, lambda *got: self.forwarded.append(got))
        self.reaching = Reaching(home, "gw1", owner, start=self.start, left=left)

    def start(self, sock: socket.socket) -> FakeWorker:
        worker = FakeWorker(sock)
        self.workers.append(worker)
        self._started.set()
        return worker

    def place(self, news: dict[str, Presence]) -> None:
        self.placed.append({host: here.online for host, here in news.items()})
        self.snapshot = self.snapshot.evolved(
            Touched(hosts=frozenset(news)), presence={**self.snapshot.presence, **news}
        )

    def sign(self, known: Snapshot) -> None:
        self.snapshot = known.evolved(presence=self.snapshot.presence)
        self.reaching.follow()

    async def worker(self) -> FakeWorker:
        """The next one that is started, once it has begun."""
        await self._started.wait()
        self._started = trio.Event()
        await self.workers[-1].begin()
        return self.workers[-1]


@asynccontextmanager
async def running(home: Path, known: Snapshot, left: LeftSsh | None = None) -> AsyncIterator[Gateway1]:
    gateway = Gateway1(home, known, left)
    gateway.reaching.follow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.reaching.run)
        yield gateway
        nursery.cancel_scope.cancel()


async def until(is_so: Callable[[], Any]) -> None:
    with trio.fail_after(5):
        while not is_so():  # noqa: ASYNC110 - there is nobody who could say
            await trio.sleep(0.005)


# --- what it is told --------------------------------------------------------------------------------------------------


def test_the_worker_is_told_of_ssh_and_tls_hosts_that_may_be_dialled() -> None:
    back = say.reach("back1", url="ssh://u@192.0.2.1:7443").reach
    known = estate(AIX, OLD, BOX, back)
    hosts = reached(known, "gw1")
    assert [hop.host for hop in last_hops(hosts, known, {}, 0.0)] == ["aix1", "box1"]
    assert "is gateway gw1 itself" in hosts["back1"].problem
    (aix, box) = last_hops(hosts, known, {"aix1": "it hung"}, 0.0)
    assert (aix.user, aix.address, aix.port, aix.suspended) == ("bridge", "192.0.2.7", 22, "it hung")
    assert (box.scheme, box.suspended) == ("tls", "")


def test_an_allowance_is_told_until_it_ends_and_a_revoked_host_is_left_alone() -> None:
    allowance = Allowance(profiles=("ssh-sha1",), owner="team", until="2027-03-31")
    known = estate(say.reach("aix1", allowance=allowance).reach)
    hosts = reached(known, "gw1")
    (hop,) = last_hops(hosts, known, {}, 0.0)
    assert hop.allowed == ("ssh-sha1",) and hop.allowed_until > 0
    (hop,) = last_hops(hosts, known, {}, hop.allowed_until)
    assert hop.allowed == ()
    body = RevokeBody(spiffe_id=known.spiffe_id("aix1"), keys=(), reason="stolen")
    gone = known.evolved(authority=replace(known.authority, revoked_identities={body.spiffe_id: body}))
    assert last_hops(reached(gone, "gw1"), gone, {}, 0.0) == ()


def test_a_host_that_hung_a_worker_is_left_alone_for_longer_each_time() -> None:
    now = [0.0]
    suspensions = Suspensions(lambda: now[0])
    assert suspensions.add("aix1") == limits.SSH_SUSPENSION and "aix1" in suspensions.current()
    now[0] = suspensions.next_end
    assert suspensions.current() == {}
    assert suspensions.add("aix1") == 2 * limits.SSH_SUSPENSION
    assert all(suspensions.add("aix1") <= limits.SSH_SUSPENSION_MAX for _ in range(40))


# --- with a worker ----------------------------------------------------------------------------------------------------


async def test_hosts_are_there_when_the_worker_says_so_and_away_when_it_ends(tmp_path: Path) -> None:
    async with running(tmp_path, estate(AIX, OLD, BOX)) as gateway:
        assert gateway.placed == [{"aix1": False, "box1": True, "old1": True}]
        worker = await gateway.worker()
        told = await worker.hear()
        assert isinstance(told, m.LastHops) and [hop.host for hop in told.hosts] == ["aix1", "box1"]
        up = m.HopState(host="aix1", state="up", kex="curve25519-sha256", cipher="aes128-gcm@openssh.com")
        await worker.say(m.HopStates(hosts=(up,)))
        await until(lambda: gateway.reaching.is_here("aix1"))
        assert gateway.placed[-1] == {"aix1": True} and gateway.snapshot.presence["aix1"].gateways == ("gw1",)
        assert gateway.reaching.is_here("vm1") is None
        down = m.HopState(host="aix1", state="down", reason="the host key is another one", hint="sign the new one")
        await worker.say(m.HopStates(hosts=(down,)))
        await until(lambda: not gateway.reaching.is_here("aix1"))
        assert gateway.reaching.problems() == [
            "host aix1 cannot be reached: the host key is another one (sign the new one)"
        ]
        await worker.say(m.HopStates(hosts=(up,)))
        await until(lambda: gateway.reaching.is_here("aix1"))
        worker.channel.close()
        await until(lambda: not gateway.reaching.is_here("aix1"))
        assert worker.killed and "the ssh worker ended" in gateway.reaching.problems()[0]
        assert gateway.reaching.is_here("old1"), "tcp needs no worker"
        second = await gateway.worker()
        assert isinstance(await second.hear(), m.LastHops)
        assert gateway.reaching.problems() == []


async def test_a_change_of_what_is_signed_is_told_once_and_without_hosts_there_is_no_worker(tmp_path: Path) -> None:
    async with running(tmp_path, estate(OLD)) as gateway:
        await trio.testing.wait_all_tasks_blocked()
        assert not gateway.workers
        gateway.sign(estate(OLD, AIX))
        worker = await gateway.worker()
        await worker.hear()
        gateway.sign(estate(OLD, AIX))
        gateway.sign(estate(AIX, say.reach("aix2", url="ssh://u@192.0.2.10").reach))
        told = await worker.hear()
        assert isinstance(told, m.LastHops) and [hop.host for hop in told.hosts] == ["aix1", "aix2"]
        gateway.sign(estate(OLD))
        await until(lambda: worker.killed)
        assert gateway.reaching.problems() == [] and not place_in(tmp_path).parent.stat().st_mode & 0o077


async def test_a_host_that_moved_to_another_gateway_is_not_ours_to_speak_of(tmp_path: Path) -> None:
    async with running(tmp_path, estate(OLD)) as gateway:
        gateway.sign(estate(say.reach("old1", via="gw2", url="tcp://192.0.2.8").reach))
        assert gateway.snapshot.presence["old1"].gateways == () and gateway.reaching.is_here("old1") is None


async def test_c14_a_certificate_is_given_for_the_user_of_a_host_and_for_nobody_else(tmp_path: Path) -> None:
    sealed = say.reach("aix2", url="ssh://root@192.0.2.10", credential="AAAA").reach
    async with running(tmp_path, estate(AIX, sealed)) as gateway:
        worker = await gateway.worker()
        await worker.hear()
        await worker.say(m.CertificateNeeded(principal="bridge"))
        given = await worker.hear()
        assert isinstance(given, m.Certificate) and given.ends
        certificate = serialization.load_ssh_public_identity(given.certificate.encode())
        assert isinstance(certificate, serialization.SSHCertificate)
        assert certificate.valid_principals == [b"bridge"]
        assert certificate.public_key() == worker.key.public_key()
        for principal in ("root", "", "bridge,root"):
            await worker.say(m.CertificateNeeded(principal=principal))
            refused = await worker.hear()
            assert isinstance(refused, m.Certificate) and not refused.certificate and refused.reason


async def test_f42_a_worker_that_says_nothing_is_killed_and_the_host_that_hung_it_is_left_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path, estate(AIX)) as gateway:
        worker = await gateway.worker()
        await worker.hear()
        assert worker.page is not None
        worker.page.busy_with(b"aix1")
        await trio.sleep(limits.SSH_SILENT + 1)
        assert worker.killed
        second = await gateway.worker()
        told = await second.hear()
        assert isinstance(told, m.LastHops) and "left alone" in told.hosts[0].suspended


async def test_connections_from_hosts_are_handed_on_and_commands_are_answered(tmp_path: Path) -> None:
    async with running(tmp_path, estate(AIX, OLD)) as gateway, trio.open_nursery() as nursery:
        worker = await gateway.worker()
        await worker.hear()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            await worker.say(m.Forwarded(host="aix1", service="ledger", remote="127.0.0.1:9"), theirs, theirs)
            await until(lambda: gateway.forwarded)
            message, (sock, witness) = gateway.forwarded[0]
            with sock, witness:
                assert message.service == "ledger" and sock.send(b"x") and ours.recv(1) == b"x"
        answers: list[m.Ran] = []

        async def run() -> None:
            answers.append(await gateway.reaching.run_on("aix1", ["uname"], 1.0))

        nursery.start_soon(run)
        asked = await worker.hear()
        assert isinstance(asked, m.Run) and asked.argv == ("uname",)
        await worker.say(m.Ran(id=asked.id, code=0, out=b"AIX\n"))
        await until(lambda: answers)
        assert answers[0].out == b"AIX\n"
        with pytest.raises(Unavailable, match="not reached by ssh"):
            await gateway.reaching.run_on("old1", ["uname"], 1.0)


async def test_status_says_where_plaintext_is_seen_and_what_old_cryptography_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance = Allowance(profiles=("ssh-sha1",), owner="team", until="2027-03-31")
    known = estate(say.reach("aix1", allowance=allowance).reach, OLD)
    async with running(tmp_path, known) as gateway:
        rows = {str(row["host"]): row for row in gateway.reaching.status()}
        assert rows["aix1"]["plaintext"] == "gateway gw1"
        assert rows["old1"]["plaintext"] == "gateway gw1, and the network from there to the host"
        assert "ssh-sha1 until 2027-03-31" in str(rows["aix1"]["allowance"])
        end = 1_806_537_600.0  # 2027-04-01
        for now, words in ((end - 20 * 86400, None), (end - 86400, "ends with"), (end + 1, "is off")):
            monkeypatch.setattr("agents.clock.now", lambda now=now: now)
            said = gateway.reaching.allowances()
            assert [words in text for text in said] == [True] if words else not said


async def test_a_worker_that_cannot_be_started_is_said_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text("in the way")
    async with running(tmp_path, estate(AIX)) as gateway:
        await until(gateway.reaching.problems)
        assert "cannot be started" in gateway.reaching.problems()[0]
        (tmp_path / "ssh").unlink()
        worker = await gateway.worker()
        await worker.hear()
        assert gateway.reaching.problems() == []


async def test_a_message_of_a_worker_that_is_no_message_ends_that_worker_only(tmp_path: Path) -> None:
    async with running(tmp_path, estate(AIX)) as gateway:
        worker = await gateway.worker()
        await worker.hear()
        await worker.say(m.HopStates(hosts=(m.HopState(host="nobody", state="up"),)))
        worker._sock.send(b"\0\0\0\1x")
        with pytest.raises(ChannelClosed):
            await worker.hear()
        assert "nobody" not in gateway.snapshot.presence
        await gateway.worker()
