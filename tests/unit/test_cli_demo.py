"""I/O: `meshbridge demo` ends what it started, however it is told to end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

import pytest
import trio

from cli import demo
from tests.support.cli import CommandLine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_told_to_end_leaves_nothing(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []

    async def told_in_the_middle(made: demo.Demo) -> str:
        made.processes["child"] = child = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
        children.append(child)
        (made.directory / "root.key").touch()
        os.kill(os.getpid(), number)
        await trio.sleep(10)
        return "went on"

    def ignored(number: int, frame: FrameType | None) -> None:
        """Without a handler of the demo's own this test run must not end."""

    monkeypatch.setattr(demo, "STEPS", (told_in_the_middle,))
    monkeypatch.setattr(demo, "_DNS_PORT", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.signal(number, ignored)
    try:
        done = CommandLine(tmp_path / "home")("demo")
    finally:
        signal.signal(number, before)
    assert (done.code, done.out) == (130, "")
    assert [child.returncode for child in children] == [-signal.SIGKILL]
    assert not list(tmp_path.iterdir())


def test_a_demo_under_nohup_outlives_its_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hung_up(made: demo.Demo) -> str:
        os.kill(os.getpid(), signal.SIGHUP)
        await trio.lowlevel.checkpoint()
        return "went on"

    monkeypatch.setattr(demo, "STEPS", (hung_up,))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        done = CommandLine(tmp_path / "home").ok("demo")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "went on" in done.out


def test_a_demo_in_which_a_step_failed_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failing(made: demo.Demo) -> str:
        raise demo.StepFailed("it did not")

    monkeypatch.setattr(demo, "STEPS", (failing,))
    monkeypatch.setattr(demo, "_DNS_PORT", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = CommandLine(tmp_path / "home")("demo")
    assert (done.code, done.out) == (1, "FAIL  failing: it did not\n")


def test_a_second_demo_says_that_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def begun(made: demo.Demo) -> str:
        raise AssertionError

    monkeypatch.setattr(demo, "STEPS", (begun,))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((demo.DNS["lpar7"], 0))
        monkeypatch.setattr(demo, "_DNS_PORT", other.getsockname()[1])
        said = CommandLine(tmp_path / "home").refused(69, "demo")
    assert f"the demo cannot listen on {demo.DNS['lpar7']}:" in said and "end the demo that runs here already" in said


def test_a_demo_service_that_is_told_to_end_answers_whoever_has_connected() -> None:
    command = [sys.executable, "-m", "cli.demo_services", "http", "shop-1"]
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(service.kill)
        assert service.stdout is not None
        port = int(service.stdout.readline())
        service.send_signal(signal.SIGSTOP)
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(50)]
        service.send_signal(signal.SIGTERM)
        service.send_signal(signal.SIGCONT)
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with client.makefile("rb") as answer:
                assert answer.read().endswith(b"shop-1\n")
        assert service.wait(20) == 0
