"""I/O: probes of hosts behind a gateway, through an ssh worker (its side of the contract played here) and directly."""

from __future__ import annotations

import array
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from agents.checks.answers import Outcome
from agents.checks.runner import Watched
from agents.checks.spec import parse_check
from agents.reach.checks import ReachedChecks
from agents.workers.last_hop import place_in
from agents.workers.ssh_messages import ChannelAnswer, ChannelAsked
from bridge.tunnels.frames import Code
from inventory.endpoints import Endpoint
from inventory.model import Gateway, Host, Instance, Reach
from tests.e2e.test_probes import saying, target
from tests.support.estate import Estate
from tests.support.estates import snapshot
from tests.support.old_servers import TlsServer

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS"
AIX = Reach(host="aix1", gateway="gw1", url="ssh://bridge@192.0.2.7", host_keys=(KEY,))
TLS = Reach(host="box", gateway="gw1", url="tls://127.0.0.1", allow_loopback=True)


class Worker:
    """Answers as it is told, and leads a channel that it opens to `behind`."""

    def __init__(self, answer: ChannelAnswer, behind: Endpoint | None = None) -> None:
        self.answer = answer
        self.behind = behind
        self.asked: list[ChannelAsked] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            line = bytes(await stream.receive_some(4096))
            self.asked.append(msgspec.json.decode(line, type=ChannelAsked))
            ours, theirs = socket.socketpair()
            with ours, theirs:
                witness = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))
                await stream.socket.sendmsg([msgspec.json.encode(self.answer) + b"\n"], [witness])
            if self.behind is None:
                return
            far = await trio.open_tcp_stream(self.behind.host, self.behind.port)
            async with far:
                while data := await far.receive_some():
                    await stream.send_all(data)


@asynccontextmanager
async def checks(home: Path, worker: Worker, reach: Reach) -> AsyncIterator[ReachedChecks]:
    """Of a gateway that reaches one host."""
    made = ReachedChecks("gw1", home, lambda _: None)
    place = place_in(home)
    await trio.Path(place.parent).mkdir(mode=0o700)
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(place))
    listener.listen()
    authority = replace(
        snapshot([Host(name=reach.host, via="gw1")]).authority,
        reaches={reach.host: reach},
        gateways={"gw1": Gateway(name="gw1", address="192.0.2.1:7443")},
    )
    target = "127.0.0.1:21"
    instance = Instance(service="s", host=reach.host, target=target, port=21)
    made.follow(snapshot([]).evolved(authority=replace(authority, instances={instance.id: instance})))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, worker.serve, [trio.SocketListener(listener)])
        with trio.fail_after(20):
            yield made
        nursery.cancel_scope.cancel()


async def ask(made: ReachedChecks, text: str, target: Endpoint, host: str = "aix1") -> Outcome:
    return await made._probe(Watched(parse_check(text), target, host))


async def test_a_probe_of_an_ssh_host_is_a_channel_of_the_ssh_worker(tmp_path: Path) -> None:
    async with target(saying(b"220 batch ready\r\n"), read_first=False) as server:
        worker = Worker(ChannelAnswer(ok=True), server.endpoint)
        async with checks(tmp_path, worker, AIX) as made:
            assert await ask(made, "ftp", Endpoint("127.0.0.1", 21)) == Outcome(True, "", pytest.approx(0, abs=5))
    assert worker.asked == [ChannelAsked(host="aix1", target="127.0.0.1:21")]


async def test_what_the_ssh_worker_refuses_is_the_reason(tmp_path: Path) -> None:
    worker = Worker(ChannelAnswer(code=Code.CONNECT_FAILED, reason="aix1: its host key has changed"))
    async with checks(tmp_path, worker, AIX) as made:
        assert (await ask(made, "tcp", Endpoint("127.0.0.1", 21))).reason == "aix1: its host key has changed"


async def test_without_an_ssh_worker_that_is_the_reason(tmp_path: Path) -> None:
    async with checks(tmp_path, Worker(ChannelAnswer()), AIX) as made:
        place_in(tmp_path).unlink()
        reason = (await ask(made, "tcp", Endpoint("127.0.0.1", 21))).reason
        assert reason == "aix1: the gateway's ssh worker is not there: No such file or directory"


async def test_a_tls_check_of_a_tls_host_makes_its_own_handshake(estate: Estate, tmp_path: Path) -> None:
    worker = Worker(ChannelAnswer(code=Code.CONNECT_FAILED, reason="asked"))
    with TlsServer(tmp_path, estate.free_port()) as server:
        async with checks(tmp_path, worker, TLS) as made:
            assert (await ask(made, "tls", server.endpoint, "box")).reason.startswith("certificate ends on 2")
            assert worker.asked == []
            assert (await ask(made, "tcp", server.endpoint, "box")).reason == "asked"


async def test_a_host_that_nobody_has_signed_any_more_is_not_dialled(tmp_path: Path) -> None:
    worker = Worker(ChannelAnswer(ok=True))
    async with checks(tmp_path, worker, AIX) as made:
        outcome = await ask(made, "tcp", Endpoint("127.0.0.1", 21), "sun1")
        assert outcome.reason == "nobody has signed how gateway gw1 reaches sun1"
    assert worker.asked == []
