"""I/O: (processes, socketpairs) another version is tried in a process of its own: it does well, badly, or nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agents import handover, program
from agents.handover import Left, LeftWorker
from agents.trial import Ended, Passed, Refused, _Waiting, try_out
from bridge import limits

ROOT = Path(__file__).parents[2]
BEGIN = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from agents import handover
if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
    sys.exit("signals are not held back")
inherited = handover.take()
trial = inherited.trial
trial._say(handover.ALIVE)
"""
HANDS_BACK = """
import msgspec, socket
from agents.handover import Left, LeftWorker
assert "NOTIFY_SOCKET" not in os.environ
sock = inherited.listener("127.0.0.1", PORT)
more = [socket.socketpair()[0] for _ in range(300)]
child = os.fork()
if not child:
    os.close(trial._sock.fileno())
    time.sleep(60)
workers = [LeftWorker(pid=child, channel=one.fileno(), unread=b"u", streams=7) for one in more]
trial.hand_back(Left(lock=inherited.lock, listening=(sock.fileno(),), workers=(*inherited.workers[:1], *workers)))
"""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Left]:
    """What a supervisor left that has two workers; signals are held back, as they are then."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    lock, listening = os.memfd_create("lock"), socket.create_server(("127.0.0.1", 0))
    channels = [socket.socketpair() for _ in range(2)]
    workers = tuple(
        LeftWorker(pid=pid, channel=ours.fileno(), unread=b"", streams=0)
        for pid, (ours, _) in zip((4711, 4712), channels, strict=True)
    )
    handover.hold_signals()
    yield Left(lock=lock, listening=(listening.fileno(),), workers=workers)
    handover.listen_to_signals()
    os.close(lock)
    listening.close()
    for pair in channels:
        for sock in pair:
            sock.close()


def becomes(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """What is on disk."""
    monkeypatch.setattr(program, "command", lambda: [sys.executable, "-c", BEGIN + script, str(ROOT)])


async def test_one_that_does_well_hands_back_what_it_has(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    server = socket.socket(fileno=os.dup(left.listening[0]))
    becomes(monkeypatch, HANDS_BACK.replace("PORT", str(server.getsockname()[1])))
    outcome = await try_out(left)
    assert isinstance(outcome, Passed)
    found = outcome.left
    assert found.children == (4712,), "which it did not hand back: it is ours to wait for"
    assert [worker.pid for worker in found.workers[:1]] == [4711] and len(found.workers) == 301
    child = found.workers[1]
    assert child.unread == b"u" and child.streams == 7
    assert os.fstat(found.lock) == os.fstat(left.lock)
    listening = socket.socket(fileno=found.listening[0])
    assert listening.getsockname() == server.getsockname()
    assert all(not os.get_inheritable(fd) for fd in found.descriptors)
    os.kill(child.pid, signal.SIGKILL)
    assert (await trio.to_thread.run_sync(os.waitpid, child.pid, 0))[0] == child.pid, "it is a child of ours now"
    listening.close()
    server.close()
    for fd in (found.lock, *(worker.channel for worker in found.workers)):
        os.close(fd)


@pytest.mark.parametrize("told", [0, signal.SIGTERM])
async def test_one_that_has_ended_once_it_handed_back_passes_all_the_same(left: Left, told: int) -> None:
    """And a signal that it could not follow any more is still to be followed, by what comes next."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        file = left.written()
        socket.send_fds(theirs, [handover.LEFT], [file])
        os.close(file)
        socket.send_fds(theirs, [handover.MORE], left.descriptors)
        theirs.send(handover.WHOLE)
    process = subprocess.Popen(["true"])  # noqa: ASYNC220
    with trio.socket.from_stdlib_socket(ours) as sock:
        waiting = _Waiting(sock, process, left)
        waiting._told_to_end = told
        outcome = await waiting.wait()
    assert isinstance(outcome, Passed) and outcome.left.pids == left.pids
    pending = signal.sigpending()
    assert pending == ({signal.SIGTERM} if told else set())
    if told:
        assert signal.sigwait(pending) == told
    for fd in outcome.left.descriptors:
        os.close(fd)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sys.exit(3)", "it ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9 ended it"),
        ("trial.fails('no gateway'); sys.exit(69)", "no gateway"),
        ("signal.pause()", "it stood still for 0 s"),
        ("for _ in range(200): trial._say(handover.ALIVE); time.sleep(0.05)", "it was not done within 0 s"),
        ("trial._say(handover.WHOLE); signal.pause()", "what it handed back cannot be read: ValueError"),
    ],
)
async def test_one_that_does_not_leaves_everything_as_it_was(
    left: Left, script: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only that one: the start of a process may take as long.
    name = "TRIAL_READY" if "not done" in why else "TRIAL_SILENT"
    monkeypatch.setattr(limits, name, 0.4)
    becomes(monkeypatch, script)
    assert await try_out(left) == Refused(why, left)
    with socket.socket(fileno=os.dup(left.listening[0])) as server:
        socket.create_connection(server.getsockname()).close()


async def test_one_that_cannot_be_started_is_refused(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "command", lambda: ["/nowhere/meshbridge"])
    assert await try_out(left) == Refused("it cannot be started: No such file or directory", left)


@pytest.mark.parametrize("lacks", [(socket, "socketpair"), (os, "memfd_create"), (subprocess, "Popen")])
async def test_one_for_which_there_are_no_descriptors_is_refused(
    left: Left, lacks: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that is missing, the node goes on, and nothing of the try stays open."""

    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(*lacks, none_left)
    assert await try_out(left) == Refused("it cannot be started: Too many open files", left)
    assert os.listdir("/proc/self/fd") == before


async def test_signals_go_through_and_a_wish_to_reload_waits(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those are our own process's: a service manager sends them to the one that it knows."""
    becomes(
        monkeypatch,
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); os.kill({os.getpid()}, signal.SIGHUP)\n"
        f"os.kill({os.getpid()}, signal.SIGTERM); handover.listen_to_signals(); signal.pause()",
    )
    assert await try_out(left) == Ended(7)
    becomes(monkeypatch, f"os.kill({os.getpid()}, signal.SIGHUP); time.sleep(0.2); sys.exit(1)")
    outcome = await try_out(left)
    assert isinstance(outcome, Refused) and outcome.left.reload


TELLS_TO_END = f"os.kill({os.getpid()}, signal.SIGTERM)"


@pytest.mark.parametrize(
    "script",
    [
        f"trial.fails('no gateway'); {TELLS_TO_END}; time.sleep(0.2); sys.exit(69)",
        f"{TELLS_TO_END}; time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)",
        f"{TELLS_TO_END}; signal.pause()",
    ],
    ids=["it fails", "it dies", "it stands still"],
)
async def test_what_one_that_fails_was_told_is_followed_by_the_one_before(
    left: Left, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended nothing in order, and what is left carries streams."""
    monkeypatch.setattr(limits, "TRIAL_SILENT", 0.4)
    becomes(monkeypatch, script)
    outcome = await try_out(left)
    assert isinstance(outcome, Refused) and outcome.left == left
    assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM


async def test_one_that_cannot_even_be_imported_has_not_followed_a_signal(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"import os, signal, sys, time; {TELLS_TO_END}; time.sleep(0.2); sys.exit(1)"
    monkeypatch.setattr(program, "command", lambda: [sys.executable, "-c", script])
    assert await try_out(left) == Refused("it ended with exit code 1", left)
    assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM


async def test_one_that_does_not_end_when_it_is_told_to_is_ended(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lives, and hangs in its start: nobody there looks at what it was told."""
    monkeypatch.setattr(limits, "DRAIN_DEADLINE", 0.3)
    monkeypatch.setattr(limits, "TRIAL_END", 0.3)
    becomes(monkeypatch, f"{TELLS_TO_END}\nfor _ in range(200): trial._say(handover.ALIVE); time.sleep(0.05)")
    with trio.fail_after(5):
        assert await try_out(left) == Ended(1)
