"""I/O: (descriptors, a memory file) what a supervisor leaves to the version that takes its place, and who finds it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence

import pytest
import trio
import trio.testing

from agents import handover
from agents.workers import messages as m
from agents.workers.channel import Channel, ChannelClosed

Seen = tuple[Sequence[str], Mapping[str, str]]


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What was to be executed."""
    seen: list[Seen] = []
    monkeypatch.setattr(os, "execve", lambda path, argv, env: seen.append((argv, env)))
    return seen


def test_what_is_left_is_found_once_and_by_nobody_else(executed: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    ours, theirs = socket.socketpair()
    lock = os.memfd_create("lock")
    worker = handover.LeftWorker(pid=4711, channel=ours.fileno(), unread=b"\x00\x00half", streams=3)
    dns = (socket.socket(), socket.socket(type=socket.SOCK_DGRAM))
    for one in dns:
        one.bind(("127.0.0.1", 0))
    dns_fds = tuple(sock.fileno() for sock in dns)
    asked, told, _heard = socket.socket(socket.AF_UNIX), *socket.socketpair()
    ssh_worker = handover.LeftSshWorker(pid=4712, channel=told.fileno(), unread=b"", serves=True, hosts=("aix1",))
    ssh = handover.LeftSsh(listener=asked.fileno(), number=7, workers=(ssh_worker,))
    handover.replace(handover.Left(lock=lock, listening=(listening.fileno(),), dns=dns_fds, workers=(worker,), ssh=ssh))
    [(argv, env)] = executed
    assert os.get_inheritable(asked.fileno()) and os.get_inheritable(told.fileno())
    assert argv and os.get_inheritable(listening.fileno()) and os.get_inheritable(ours.fileno())
    monkeypatch.setattr(os, "environ", dict(env))
    place = listening.getsockname()
    listening.detach()
    for sock in dns:
        sock.detach()
    found = handover.take()
    assert found.lock == lock and found.workers == (worker,) and found.ssh == ssh and found.is_any
    given = (lock, ours.fileno(), asked.fileno(), told.fileno())
    assert not any(map(os.get_inheritable, given)), "what this one starts gets none of it"
    sock = found.listener(*place)
    assert sock is not None and found.listener(*place) is None
    assert not handover.take().is_any
    assert found.dns("127.0.0.2", 0) is None and found.dns("127.0.0.1", 1) is None
    names = found.dns("127.0.0.1", 0)
    assert names is not None and [one.type for one in names] == [socket.SOCK_STREAM, socket.SOCK_DGRAM]
    for one in (sock, *names, ours, theirs, asked, told, _heard):
        one.close()
    os.close(lock)


def test_what_nobody_hears_any_more_is_waited_for() -> None:
    ends, stays = subprocess.Popen(["true"]), subprocess.Popen(["sleep", "60"])
    inherited = handover.Inherited(handover.Left(lock=0, listening=(), workers=(), children=(ends.pid, stays.pid, 1)))
    os.waitid(os.P_PID, ends.pid, os.WEXITED | os.WNOWAIT)
    inherited.reap()
    with pytest.raises(ChildProcessError):
        os.waitpid(ends.pid, os.WNOHANG)
    assert inherited.children == [stays.pid]
    stays.kill()
    stays.wait()
    inherited.reap()
    assert inherited.children == []
    ends.wait()


def test_what_nobody_hears_any_more_and_does_not_end_is_ended() -> None:
    """An old ssh worker that a host made hang while a version was on trial: that one could not kill it."""
    hangs = subprocess.Popen(["sleep", "60"])
    inherited = handover.Inherited(handover.Left(lock=0, listening=(), workers=(), children=(hangs.pid,)))
    inherited.reap()
    assert inherited.children == [hangs.pid], "it may be about to end"
    inherited.reap()
    try:
        assert hangs.wait(5) == -signal.SIGKILL
    finally:
        hangs.kill()
        hangs.wait()
    inherited.reap()
    assert inherited.children == []


@pytest.fixture
def signals() -> Iterator[None]:
    """As they were, afterwards."""
    numbers = (signal.SIGHUP, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def taken_by_another_thread(number: int) -> None:
    """Sends it to this process while this thread holds it back, and returns once it has been taken."""
    ends = threading.Event()
    other = threading.Thread(target=ends.wait)
    other.start()
    handover.hold_signals()
    os.kill(os.getpid(), number)
    while number in signal.sigpending():
        pass
    ends.set()
    other.join()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_that_another_thread_took_is_heard_by_whoever_listens_next(signals: None, number: int) -> None:
    handover.outlive_signals()
    taken_by_another_thread(number)
    came: list[int] = []
    signal.signal(number, lambda number, _: came.append(number))
    handover.listen_to_signals()
    handover.listen_to_signals()
    assert came == [number]


def test_a_signal_that_another_thread_took_waits_for_the_next_program(signals: None, executed: list[Seen]) -> None:
    handover.outlive_signals()
    taken_by_another_thread(signal.SIGTERM)
    lock = os.memfd_create("lock")
    handover.replace(handover.Left(lock=lock, listening=(), workers=()))
    os.close(lock)
    assert executed and signal.sigpending() == {signal.SIGTERM}
    assert signal.sigwait({signal.SIGTERM}) == signal.SIGTERM


def test_what_nobody_asks_for_is_closed() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    place = listening.getsockname()
    inherited = handover.Inherited(handover.Left(lock=0, listening=(listening.detach(),), workers=()))
    assert inherited.listener("127.0.0.1", 1) is None
    inherited.close_rest()
    assert inherited.listener(*place) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place)


async def test_one_that_stops_talking_is_not_gone_and_still_hears() -> None:
    ours, theirs = socket.socketpair()
    supervisor: Channel[m.ToWorker, m.FromWorker] = Channel(ours, m.FromWorker)
    worker: Channel[m.FromWorker, m.ToWorker] = Channel(theirs, m.ToWorker)
    assert not worker.is_gone
    supervisor.stop_talking()
    with pytest.raises(ChannelClosed):
        await worker.receive()
    assert not worker.is_gone
    await worker.send(m.PathNeeded(peer="vm2"))
    assert (await supervisor.receive())[0] == m.PathNeeded(peer="vm2")
    supervisor.close()
    assert worker.is_gone
    worker.close()


async def test_half_a_message_is_read_on_by_the_next_program() -> None:
    ours, theirs = socket.socketpair()
    worker: Channel[m.FromWorker, m.ToWorker] = Channel(theirs, m.ToWorker)
    await worker.send(m.PathNeeded(peer="vm2"))
    await worker.send(m.PathNeeded(peer="vm3"))
    before: Channel[m.ToWorker, m.FromWorker] = Channel(ours, m.FromWorker)
    assert (await before.receive())[0] == m.PathNeeded(peer="vm2")
    fd, unread, unsent = before.detach()
    before.close()
    after: Channel[m.ToWorker, m.FromWorker] = Channel(socket.socket(fileno=fd), m.FromWorker)
    after.put_back(unread, unsent)
    assert (await after.receive())[0] == m.PathNeeded(peer="vm3")
    after.close()
    worker.close()


async def test_what_cannot_be_understood_is_read_to_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """A worker of another version is not ended for what it says, and nobody waits for it to stop."""
    ours, theirs = socket.socketpair()
    supervisor: Channel[m.ToWorker, m.FromWorker] = Channel(ours, m.FromWorker)
    theirs.send(b"\x00\x00\x00\x04what")
    with pytest.raises(ChannelClosed, match="no message of ours"):
        await supervisor.receive()
    with trio.move_on_after(5):
        await supervisor.discard()
        raise AssertionError("it ended with the worker still there")
    theirs.send(b"more")
    theirs.close()
    with pytest.raises(ChannelClosed):
        await supervisor.discard()
    supervisor.close()
