"""I/O: the admin socket of a home: private, strict, bounded, and deaf to no one who may speak."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agents.admin import server as admin_socket
from agents.admin.server import AdminConnection, call, serve_admin, stream, take_over
from agents.admin.wire import FILE
from bridge import limits
from inventory.errors import AnswerIsNo, InputError, InternalError, MeshError, Unavailable


class Agent:
    """Commands enough to show every way of answering."""

    def __init__(self) -> None:
        self.hanging = 0
        self.cancelled = trio.Event()

    async def handle(self, connection: AdminConnection, command: str, arguments: dict[str, Any]) -> Any:
        match command:
            case "echo":
                return arguments
            case "who":
                return {"pid": connection.peer.pid, "uid": connection.peer.uid}
            case "refuse":
                raise AnswerIsNo("denied by rule x", where="web", hint="ask for a rule")
            case "bug":
                raise KeyError("secret detail")
            case "unencodable":
                return object()
            case "count":
                for number in range(arguments["to"]):
                    await connection.send(number)
                return None
            case "hang":
                self.hanging += 1
                try:
                    await trio.sleep_forever()
                finally:
                    self.hanging -= 1
                    self.cancelled.set()
            case "dial":
                ours, theirs = socket.socketpair()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(upper, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
                    await connection.take_over(ours)
                return None
            case "raw":
                raw = await connection.raw({"mode": "raw"})
                await raw.send_all(b"no newline, and more")
                return "never sent"
        raise InputError(f"unknown command {command}")


async def upper(far: trio.SocketStream) -> None:
    """A service that answers only once its client has finished: half-close must get through."""
    received = b""
    async with far:
        while data := await far.receive_some(65536):
            received += data
        await far.send_all(received.upper())


@asynccontextmanager
async def running(home: Path, agent: Agent | None = None) -> AsyncIterator[Agent]:
    agent = agent or Agent()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_admin, home, agent.handle))
        with trio.fail_after(20):
            yield agent
        nursery.cancel_scope.cancel()


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


async def test_c37_the_socket_is_a_unix_socket_of_mode_0600_whatever_the_umask(
    tmp_path: Path, open_umask: None
) -> None:
    async with running(tmp_path):
        status = (tmp_path / FILE).lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
    assert not (tmp_path / FILE).exists()


async def test_c37_it_is_private_from_its_first_moment(
    tmp_path: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    original = socket.socket.listen

    def listen(self: socket.socket, backlog: int) -> None:
        modes.append(stat.S_IMODE((tmp_path / FILE).lstat().st_mode))
        original(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", listen)
    async with running(tmp_path):
        assert modes == [0o600]


async def test_c37_another_user_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path):
        monkeypatch.setattr(admin_socket, "_peer_of", lambda stream: admin_socket.Peer(1, 12345))
        with pytest.raises(AnswerIsNo, match="only from its own user"):
            await call(tmp_path, "echo")


async def test_answers_errors_and_who_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(tmp_path):
        assert await call(tmp_path, "echo", a=1, b=["x", None]) == {"a": 1, "b": ["x", None]}
        assert await call(tmp_path, "who") == {"pid": os.getpid(), "uid": os.geteuid()}
        with pytest.raises(AnswerIsNo) as refused:
            await call(tmp_path, "refuse")
        assert (refused.value.what, refused.value.where, refused.value.hint) == (
            "denied by rule x",
            "web",
            "ask for a rule",
        )
        with pytest.raises(InputError, match="unknown command nonsense"):
            await call(tmp_path, "nonsense")
        for command in ("bug", "unencodable"):
            with pytest.raises(InternalError) as bug:
                await call(tmp_path, command)
            assert "secret detail" not in str(bug.value)
        assert await call(tmp_path, "echo") == {}


async def test_many_answers_arrive_in_order(tmp_path: Path) -> None:
    async with running(tmp_path):
        async with stream(tmp_path, "count", to=1000) as answers:
            assert [data async for data in answers] == list(range(1000))
        async with stream(tmp_path, "count", to=10**9) as answers:
            async for data in answers:
                if data == 10:
                    break
        with pytest.raises(AnswerIsNo):
            async with stream(tmp_path, "refuse") as answers:
                async for _ in answers:
                    pass


async def test_a_connection_taken_over_carries_half_closes(tmp_path: Path) -> None:
    async with running(tmp_path):
        connection = await take_over(tmp_path, "dial")
        async with connection:
            data = b"line\n" * 100_000
            await connection.send_all(data)
            await connection.send_eof()
            received = b""
            while more := await connection.receive_some(65536):
                received += more
        assert received == data.upper()


async def test_not_a_byte_after_the_answer_is_lost(tmp_path: Path) -> None:
    async with running(tmp_path):
        connection = await take_over(tmp_path, "raw")
        async with connection:
            received = b""
            while more := await connection.receive_some(100):
                received += more
        assert received == b"no newline, and more"
        with pytest.raises(AnswerIsNo):
            await take_over(tmp_path, "refuse")


async def test_a_client_that_hangs_up_cancels_its_command(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        with trio.move_on_after(0.2):
            await call(tmp_path, "hang")
        await agent.cancelled.wait()
        assert agent.hanging == 0


async def test_an_agent_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
            await call(tmp_path, "hang", answer_within=0.05)


async def test_an_agent_that_ends_meanwhile_is_a_clear_error(tmp_path: Path) -> None:
    caught: list[MeshError] = []

    async def ask() -> None:
        try:
            await call(tmp_path, "hang")
        except Unavailable as exc:
            caught.append(exc)

    agent = Agent()
    async with trio.open_nursery() as asking, running(tmp_path, agent):
        asking.start_soon(ask)
        while not agent.hanging:
            await trio.testing.wait_all_tasks_blocked()
    assert [exc.what for exc in caught] == ["the agent ended before it answered"]


async def test_nobody_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    for home in (tmp_path, tmp_path / "gone"):
        with pytest.raises(Unavailable) as caught:
            await call(home, "status")
        assert caught.value.what == "no agent or gateway is running on this home"
        assert caught.value.hint


async def test_commands_beyond_the_limit_are_refused_and_a_taken_over_one_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ADMIN_CONNECTIONS", 1)
    async with running(tmp_path) as agent:
        dialled = await take_over(tmp_path, "dial")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(call, tmp_path, "hang"))
            while not agent.hanging:
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="too many commands"):
                await call(tmp_path, "echo")
            nursery.cancel_scope.cancel()
        await dialled.aclose()
        await agent.cancelled.wait()
        while True:
            try:
                assert await call(tmp_path, "echo") == {}
                break
            except Unavailable:
                await trio.testing.wait_all_tasks_blocked()


async def say(home: Path, data: bytes) -> dict[str, Any]:
    connection = await trio.open_unix_socket(home / FILE)
    async with connection:
        await connection.send_all(data)
        received = b""
        while not received.endswith(b"\n"):
            more = await connection.receive_some(65536)
            if not more:
                break
            received += more
    decoded: dict[str, Any] = json.loads(received)
    return decoded


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n",
        b"\n",
        b'{"command":"echo","extra":1}\n',
        b"\x00" * 100 + b"\n",
    ],
)
async def test_c37_what_a_browser_or_a_fuzzer_says_is_refused(tmp_path: Path, data: bytes) -> None:
    async with running(tmp_path):
        answer = await say(tmp_path, data)
        assert answer["ok"] is False
        assert answer["error"]["exit_code"] == 64
        assert await call(tmp_path, "echo") == {}


async def test_a_request_too_long_or_too_slow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADMIN_MESSAGE_MAX", 1000)
    monkeypatch.setattr(limits, "ADMIN_TIMEOUT", 0.1)
    async with running(tmp_path):
        assert "longer than" in (await say(tmp_path, b"x" * 2000))["error"]["what"]
        assert "no whole request" in (await say(tmp_path, b"{"))["error"]["what"]


async def test_a_socket_left_by_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    code = (
        f"import socket,os; s=socket.socket(socket.AF_UNIX); s.bind({str(tmp_path / FILE)!r}); s.listen(); os._exit(1)"
    )
    await trio.run_process([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL)
    assert (tmp_path / FILE).exists()
    async with running(tmp_path):
        assert await call(tmp_path, "echo") == {}


async def test_a_socket_that_answers_is_left_alone(tmp_path: Path) -> None:
    async with running(tmp_path):
        with pytest.raises(Unavailable, match="another agent or gateway serves this home"):
            await serve_admin(tmp_path, Agent().handle)
        assert await call(tmp_path, "echo") == {}


async def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("precious")
    with pytest.raises(Unavailable, match="in the way"):
        await serve_admin(tmp_path, Agent().handle)
    assert (tmp_path / FILE).read_text() == "precious"


async def test_a_home_deeper_than_a_socket_address_works(tmp_path: Path) -> None:
    home = tmp_path / ("d" * 120) / ("e" * 120)
    home.mkdir(parents=True)
    for _ in range(2):
        async with running(home):
            assert stat.S_IMODE((home / FILE).lstat().st_mode) == 0o600
            assert await call(home, "echo", a=1) == {"a": 1}
        assert not (home / FILE).exists()


async def test_a_flood_of_guests_that_hang_up_leaves_the_agent_well(tmp_path: Path) -> None:
    async with running(tmp_path):
        for number in range(200):
            connection = await trio.open_unix_socket(tmp_path / FILE)
            if number % 2:
                await connection.send_all(b'{"comm')
            await connection.aclose()
        while True:
            try:
                assert await call(tmp_path, "echo") == {}
                break
            except Unavailable:
                await trio.testing.wait_all_tasks_blocked()
