"""I/O: probes against real targets on loopback: honest ones, dead ones, and hostile ones (H30)."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agents.checks.answers import Outcome
from agents.checks.conversation import connect_directly
from agents.checks.probes import run_probe
from agents.checks.runner import Watched
from agents.checks.spec import parse_check
from bridge import limits
from bridge.proxy_protocol import local_header
from inventory.endpoints import Endpoint

Serve = Callable[[trio.SocketStream], Awaitable[None]]
NOWHERE = Endpoint("127.0.0.1", 1)


class Target:
    """A server of one behaviour, which counts what it could send before the other side had enough."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.connections = 0
        self.asked = b""

    async def check(self, text: str) -> Outcome:
        return await run_probe(parse_check(text), self.endpoint)


@asynccontextmanager
async def target(serve: Serve, *, read_first: bool = True) -> AsyncIterator[Target]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    found = Target(Endpoint("127.0.0.1", listeners[0].socket.getsockname()[1]))

    async def handle(stream: trio.SocketStream) -> None:
        found.connections += 1
        try:
            async with stream:
                if read_first:
                    found.asked += await stream.socket.recv(65536)  # not receive_some: see bytes_read
                await serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        with trio.fail_after(20):
            yield found
        nursery.cancel_scope.cancel()


def saying(data: bytes) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(data)

    return serve


def endless(start: bytes, repeated: bytes) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(start)
        while True:
            await stream.send_all(repeated)

    return serve


def keeps_open(data: bytes) -> Serve:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(data)
        await trio.sleep_forever()

    return serve


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of everything that probes receive on their sockets."""
    sizes: list[int] = []
    original = trio.SocketStream.receive_some

    async def counting(self: trio.SocketStream, max_bytes: int | None = None) -> bytes | bytearray:
        data = await original(self, max_bytes)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(trio.SocketStream, "receive_some", counting)
    return sizes


async def test_tcp_passes_when_connected_and_says_why_not() -> None:
    async with target(saying(b""), read_first=False) as up:
        assert (await up.check("tcp")).passed
    refused = await run_probe(parse_check("tcp"), NOWHERE)
    assert (refused.passed, refused.reason) == (False, "connection refused")


@pytest.mark.parametrize(
    ("answer", "spec", "passed"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "http:/", True),
        (b"HTTP/1.0 200 OK\n\nok", "http:/", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "http:/", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "http:/", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "http:/", True),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http:/", False),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http:/?expect=404", True),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "http:/", False),
    ],
)
async def test_http_is_judged_by_its_status(answer: bytes, spec: str, passed: bool) -> None:
    async with target(saying(answer)) as server:
        outcome = await server.check(spec)
        assert outcome.passed is passed
        assert bool(outcome.reason) is not passed
        assert f"Host: {server.endpoint}\r\n".encode() in server.asked


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
    ],
)
async def test_http_does_not_wait_for_a_close_that_never_comes(answer: bytes) -> None:
    async with target(keeps_open(answer)) as server:
        assert (await server.check("http:/")).passed


async def test_c38_h30_a_redirect_to_metadata_is_never_followed() -> None:
    async with target(saying(b"")) as metadata:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://{metadata.endpoint}/latest\r\nContent-Length: 0\r\n\r\n"
        async with target(saying(moved.encode())) as server:
            assert (await server.check("http:/?expect=200-299")).reason == "it answered 302"
            assert (await server.check("http:/?expect=302")).passed
        assert metadata.connections == 0


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (endless(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"), "longer than 64 KiB"),
        (endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 1000), "longer than 64 KiB"),
        (endless(b"HTTP/1.1 200 OK\r\nContent-Length: 10737418240\r\n\r\n", b"a" * 65536), "longer than 64 KiB"),
        (endless(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536), "longer than 64 KiB"),
        (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "interim answers"),
        (saying(b"HTTP/1.1 101 Switching\r\n\r\n"), "switched protocols"),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), "in the middle of its answer"),
        (saying(b"HTTP/1.1 200 OK\r\n"), "in the middle of its headers"),
        (saying(b"SSH-2.0-\x1b[2J\r\n"), "does not speak HTTP"),
        (saying(b"HTTP/1.1 999 ?\r\n\r\n"), "does not speak HTTP"),
        (saying(b""), "without an answer"),
        (keeps_open(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"), "no answer within 0.2 s"),
        (keeps_open(b""), "no answer within 0.2 s"),
    ],
    ids=[
        "endless headers",
        "endless header",
        "10 GiB body",
        "endless body",
        "100-continue loop",
        "101",
        "short body",
        "short head",
        "ssh",
        "no status",
        "closed",
        "slow body",
        "silent",
    ],
)
async def test_h30_hostile_answers_fail_with_a_reason(serve: Serve, reason: str, bytes_read: list[int]) -> None:
    async with target(serve) as server:
        outcome = await server.check("http:/;timeout=200ms" if "within" in reason else "http:/;timeout=10s")
    assert not outcome.passed
    assert reason in outcome.reason
    assert outcome.reason.isprintable()
    assert sum(bytes_read) <= limits.CHECK_READ_MAX


async def test_h30_an_answer_in_crumbs_does_not_cost_us_a_look_per_byte() -> None:
    async def crumbs(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            await stream.send_all(b"a")
            await trio.sleep(0.0001)

    async with target(crumbs) as server:
        assert "pieces" in (await server.check("http:/;timeout=10s")).reason


async def test_send_and_expect() -> None:
    async def smtp(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail")
        await stream.send_all(b" ready\r\n")
        if await stream.receive_some(100) == b"QUIT\r\n":
            await stream.send_all(b"221 bye\r\n")

    async with target(smtp, read_first=False) as server:
        assert (await server.check(r'expect:"220 " send:"QUIT\r\n" expect:"221"')).passed
        failed = await server.check(r'expect:"220 " send:"NOOP\r\n" expect:"250"')
        assert failed.reason.startswith("step 3: it closed, after")


async def test_expected_bytes_are_used_up_and_ebcdic_is_spoken() -> None:
    async with target(saying("READY\n".encode("cp037")), read_first=False) as server:
        assert (await server.check('expect:"READY";ebcdic=cp037')).passed
        assert not (await server.check('expect:"READY" expect:"READY";ebcdic=cp037')).passed
        assert not (await server.check('expect:"READY"')).passed


async def test_h30_an_endless_banner_fails_an_expect(bytes_read: list[int]) -> None:
    async with target(endless(b"", b"x" * 4096), read_first=False) as server:
        assert "longer than 64 KiB" in (await server.check('expect:"220";timeout=10s')).reason
    assert sum(bytes_read) <= limits.CHECK_READ_MAX


async def run_exec(command: str, options: str = "") -> Outcome:
    return await run_probe(parse_check(f"exec:{command}{options}", allow_exec=True), Endpoint("10.0.0.1", 80))


async def test_exec_passes_with_code_0_and_tells_the_code_and_the_output_otherwise() -> None:
    assert (await run_exec("/bin/true")).passed
    failed = await run_exec("/bin/sh -c 'echo queue is full; exit 2'")
    assert failed.reason == "exit code 2: 'queue is full'"
    assert (await run_exec("/bin/sh -c 'kill -9 $$'")).reason == "signal 9"
    assert "cannot be started: no such file" in (await run_exec("/no/such/program")).reason


async def test_exec_gets_a_minimal_environment_and_no_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    assert (await run_exec('/bin/sh -c \'test -z "$SECRET" && test "$MESHBRIDGE_TARGET" = 10.0.0.1:80\'')).passed
    assert (await run_exec("/usr/bin/test '$HOME;id' = '$HOME;id'")).passed


async def test_exec_output_is_cut_and_never_blocks() -> None:
    failed = await run_exec("/bin/sh -c 'head -c 1000000 /dev/zero; exit 1'", ";timeout=10s")
    assert failed.reason.startswith("exit code 1: ")
    assert len(failed.reason) < 500 and failed.reason.isprintable()


async def test_exec_is_killed_with_its_children_at_the_timeout(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    outcome = await run_exec(f"/bin/sh -c 'sleep 1000 & echo $! > {pid_file}; wait'", ";timeout=500ms")
    assert outcome.timed_out
    await wait_ended(int(pid_file.read_text()))


async def test_exec_children_left_behind_do_not_outlive_the_probe(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    outcome = await run_exec(f"/bin/sh -c 'sleep 1000 & echo $! > {pid_file}'", ";timeout=10s")
    assert outcome.passed and outcome.seconds < 5
    await wait_ended(int(pid_file.read_text()))


async def wait_ended(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


async def test_a_target_that_expects_a_header_is_told_that_nobody_asked() -> None:
    async with target(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as found:
        watched = Watched(parse_check("http:/health"), found.endpoint, proxied=True)
        outcome = await run_probe(watched.spec, watched.target, watched.way(connect_directly))
        assert outcome.passed, outcome
    assert found.asked.startswith(local_header())
