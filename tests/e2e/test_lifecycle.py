"""I/O: signals become events; the service manager hears of it over its datagram socket."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from agents.lifecycle import Lifecycle, say_ready, say_reloading, sd_notify


@pytest.fixture(autouse=True)
def no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


async def test_sigterm_drains_and_a_second_one_stops() -> None:
    lifecycle = Lifecycle()
    async with trio.open_nursery() as nursery:
        await nursery.start(lifecycle.watch_signals)
        with trio.fail_after(5):
            os.kill(os.getpid(), signal.SIGTERM)
            await lifecycle.draining.wait()
            assert not lifecycle.stopping.is_set()
            os.kill(os.getpid(), signal.SIGTERM)
            await lifecycle.stopping.wait()
        nursery.cancel_scope.cancel()


async def test_sigint_stops_at_once() -> None:
    lifecycle = Lifecycle()
    async with trio.open_nursery() as nursery:
        await nursery.start(lifecycle.watch_signals)
        with trio.fail_after(5):
            os.kill(os.getpid(), signal.SIGINT)
            await lifecycle.stopping.wait()
        assert lifecycle.draining.is_set()
        nursery.cancel_scope.cancel()


async def test_sighup_reloads_as_often_as_asked() -> None:
    lifecycle = Lifecycle()
    async with trio.open_nursery() as nursery:
        await nursery.start(lifecycle.watch_signals)
        with trio.fail_after(5):
            async with aclosing(lifecycle.reloads()) as reloads:
                for _ in range(3):
                    os.kill(os.getpid(), signal.SIGHUP)
                    await anext(reloads)
        assert not lifecycle.draining.is_set()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"meshbridge-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
        say_ready("gateway gw1 is ready")
        assert manager.recv(100) == b"READY=1\nSTATUS=gateway gw1 is ready"
        say_reloading()
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        Lifecycle().drain()
        assert manager.recv(100) == b"STOPPING=1"
    assert capsys.readouterr().err == "gateway gw1 is ready\n"


@pytest.mark.parametrize("address", ["/nowhere/at/all", "relative", "@" + "x" * 500])
def test_a_manager_that_does_not_listen_is_reported_not_raised(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert sd_notify("READY=1")


def test_without_a_manager_nothing_is_sent() -> None:
    assert sd_notify("READY=1") == ""
