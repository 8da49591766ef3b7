"""I/O: asks one target once. Whatever the target does, the answer is an Outcome within the timeout.

It reads at most CHECK_READ_MAX bytes, follows nothing (C38), and connects to nothing but the target (H30). A timeout
covers the whole probe: no byte sent slowly extends it.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
from dataclasses import dataclass

import trio

from agents.checks.spec import CheckSpec, ExchangeProbe, ExecProbe, HttpProbe, Probe, Send
from bridge import limits
from inventory.endpoints import Endpoint
from inventory.names import shown

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\ntransfer-encoding:[^\n]*chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_NO_BODY = (204, 304)
_TOO_LONG = f"the answer is longer than {limits.CHECK_READ_MAX // limits.KIB} KiB; check something smaller"
_WAIT_AFTER_KILL = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe found.

    Args:
        passed: the verdict.
        reason: why not, one printable line; empty when it passed.
        seconds: how long it took; well above the timeout means that this machine was stalled.
        timed_out: the target was too slow to be judged otherwise.
    """

    passed: bool
    reason: str = ""
    seconds: float = 0.0
    timed_out: bool = False


class _Failed(Exception):
    """The target did not do what it should; the text is the reason."""


async def run_probe(spec: CheckSpec, target: Endpoint) -> Outcome:
    """One probe. Raises nothing but trio.Cancelled."""
    began = trio.current_time()
    reason = ""
    with trio.move_on_after(spec.timeout) as scope:
        try:
            await _ask(spec.probe, target)
        except _Failed as exc:
            reason = str(exc)
        except (OSError, trio.BrokenResourceError) as exc:
            reason = _why(exc)
    if scope.cancelled_caught:
        reason = f"no answer within {spec.timeout:g} s"
    return Outcome(not reason, reason, trio.current_time() - began, scope.cancelled_caught)


async def _ask(probe: Probe, target: Endpoint) -> None:
    if isinstance(probe, ExecProbe):
        await _run_program(probe, target)
        return
    stream = await trio.open_tcp_stream(target.host, target.port)
    async with stream:
        if isinstance(probe, HttpProbe):
            await _ask_http(stream, probe, target)
        elif isinstance(probe, ExchangeProbe):
            await _exchange(stream, probe)


def _why(exc: BaseException) -> str:
    """The system's own word for it. trio wraps what each address of a name answered; the first one speaks for all."""
    found: BaseException | None = exc
    while found is not None:
        if isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        elif isinstance(found, OSError) and found.errno is not None and found.errno in errno.errorcode:
            return os.strerror(found.errno).lower()
        else:
            found = found.__cause__
    return shown(str(exc))[1:-1] or type(exc).__name__


class _Source:
    """What the target says, up to the limits."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._left = limits.CHECK_READ_MAX
        self._reads_left = limits.CHECK_READS_MAX

    async def read(self) -> bytes:
        """The next bytes; none when the target has ended."""
        if not self._left:
            raise _Failed(_TOO_LONG)
        if not self._reads_left:
            raise _Failed(f"it answers in more than {limits.CHECK_READS_MAX} pieces")
        data = bytes(await self._stream.receive_some(self._left))
        self._left -= len(data)
        self._reads_left -= 1
        return data


# --- http ---------------------------------------------------------------------------------------------------------


async def _ask_http(stream: trio.SocketStream, probe: HttpProbe, target: Endpoint) -> None:
    request = (
        f"GET {probe.path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: meshbridge-check\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    await stream.send_all(request.encode("ascii"))
    source, data, ended = _Source(stream), b"", False
    while (status := _status_of(data, ended)) is None:
        more = await source.read()
        data, ended = data + more, not more
    if not probe.accepts(status):
        raise _Failed(f"it answered {status}")


def _status_of(data: bytes, ended: bool) -> int | None:
    """The final status once the whole answer is there, None while more must be read.

    Raises:
        _Failed: this can never become a good answer.
    """
    for _ in range(limits.CHECK_INTERIM_MAX + 1):
        first = _STATUS_LINE.match(data)
        if first is None:
            if ended or b"\n" in data or not b"HTTP/1.".startswith(data[:7]):
                raise _Failed(f"it does not speak HTTP: {_sample(data)}" if data else "it closed without an answer")
            return None
        end = _HEAD_END.search(data)
        if end is None:
            if ended:
                raise _Failed("it closed in the middle of its headers")
            return None
        status = int(first[1])
        if status >= 200:
            return status if _is_whole(status, data[: end.end()], data[end.end() :], ended) else None
        if status == 101:
            raise _Failed("it switched protocols")
        data = data[end.end() :]
    raise _Failed(f"more than {limits.CHECK_INTERIM_MAX} interim answers")


def _is_whole(status: int, head: bytes, body: bytes, ended: bool) -> bool:
    length = _LENGTH.search(head)
    if status in _NO_BODY:
        return True
    if length is not None and len(head) + int(length[1]) > limits.CHECK_READ_MAX:
        raise _Failed(_TOO_LONG)
    if length is not None and len(body) >= int(length[1]):
        return True
    if _CHUNKED.search(head) and (b"\r\n" + body).endswith(_LAST_CHUNK):
        return True
    if ended and length is not None:
        raise _Failed("it closed in the middle of its answer")
    return ended


# --- send and expect ----------------------------------------------------------------------------------------------


async def _exchange(stream: trio.SocketStream, probe: ExchangeProbe) -> None:
    source, unread = _Source(stream), b""
    for number, step in enumerate(probe.steps, 1):
        if isinstance(step, Send):
            await stream.send_all(step.data)
            continue
        while step.data not in unread:
            more = await source.read()
            if not more:
                raise _Failed(f"step {number}: it closed, after {_sample(unread)}")
            unread += more
        unread = unread.partition(step.data)[2]


def _sample(data: bytes) -> str:
    return shown(data[:80].decode("latin-1"))


# --- exec ---------------------------------------------------------------------------------------------------------


async def _run_program(probe: ExecProbe, target: Endpoint) -> None:
    """Runs it in a session of its own, with nothing of our environment; none of its children outlive the probe."""
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "MESHBRIDGE_TARGET": str(target),
        "MESHBRIDGE_TARGET_HOST": target.host,
        "MESHBRIDGE_TARGET_PORT": str(target.port),
    }
    try:
        process = await trio.lowlevel.open_process(
            probe.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as exc:
        raise _Failed(f"{shown(probe.argv[0])} cannot be started: {_why(exc)}") from None
    output = _Output()
    try:
        async with trio.open_nursery() as nursery:
            assert process.stdout is not None
            nursery.start_soon(output.read, process.stdout)
            code = await process.wait()
            _kill_session(process)  # what it left behind would hold its output open
            nursery.cancel_scope.deadline = trio.current_time() + _WAIT_AFTER_KILL
    finally:
        await _end_session(process)
    if code != 0:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise _Failed(f"{how}: {output.sample()}" if output.first else how)


class _Output:
    """The beginning of what a program says; the rest is read and dropped, so that it never blocks on us."""

    def __init__(self) -> None:
        self.first = b""

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        while more := await stream.receive_some(4096):
            self.first += more[: 200 - len(self.first)]

    def sample(self) -> str:
        return _sample(self.first.strip())


def _kill_session(process: trio.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it ended by itself


async def _end_session(process: trio.Process) -> None:
    _kill_session(process)
    with trio.move_on_after(_WAIT_AFTER_KILL, shield=True):
        await process.wait()
    if process.stdout is not None:
        await trio.aclose_forcefully(process.stdout)
