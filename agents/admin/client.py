"""I/O: asks the agent or gateway that runs on a home, over its admin socket. One attempt, typed errors, no retry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio

from agents.admin.wire import FILE, Answer, Request, decode_answer, encode_line, read_line, socket_address
from bridge import limits
from inventory.errors import MeshError, Unavailable
from inventory.home import read_file


class NoAnswer(Unavailable):
    """Nobody answered for this home; what a node itself says is unavailable is no NoAnswer."""


async def call(
    home: Path, command: str, *, answer_within: float | None = limits.ADMIN_ANSWER_TIMEOUT, **arguments: object
) -> Any:
    """Runs a command on the agent or gateway of this home; what it answered.

    Args:
        answer_within: seconds; None waits for ever.

    Raises:
        Unavailable: nobody serves this home, or there was no answer in time.
        MeshError: the agent's own refusal, as it raised it.
    """
    stream = await _connect(home)
    async with stream:
        with _patience(answer_within):
            await _send(stream, command, arguments)
            return (await _receive(stream)).data


@asynccontextmanager
async def stream(home: Path, command: str, **arguments: object) -> AsyncIterator[AsyncGenerator[Any, None]]:
    """`async with stream(home, "flows") as answers: async for data in answers`. Raises as `call` does."""
    connection = await _connect(home)

    async def answers() -> AsyncGenerator[Any, None]:
        while (answer := await _receive(connection)).more:
            yield answer.data

    async with connection:
        await _send(connection, command, arguments)
        found = answers()
        try:
            yield found
        finally:
            await found.aclose()


async def take_over(
    home: Path, command: str, *, answer_within: float | None = limits.ADMIN_ANSWER_TIMEOUT, **arguments: object
) -> trio.SocketStream:
    """Runs a command whose answer is followed by bytes of its own; the connection, which the caller closes.

    Raises as `call` does.
    """
    stream = await _connect(home)
    try:
        with _patience(answer_within):
            await _send(stream, command, arguments)
            await _receive(stream)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _connect(home: Path) -> trio.SocketStream:
    path = home / FILE
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        with socket_address(home) as address:
            await sock.connect(address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        sock.close()
        what = "no agent or gateway is running on this home"
        raise NoAnswer(what, where=str(home), hint=f"start it: {_start(home)}") from None
    except PermissionError:
        sock.close()
        what = "the agent of this home belongs to another user"
        raise NoAnswer(what, where=str(path), hint="run the command as that user or root") from None
    except OSError as exc:
        sock.close()
        hint = "see its log, and whether it is still running"
        raise NoAnswer(f"the agent cannot be reached: {exc.strerror or exc}", where=str(path), hint=hint) from None
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


class _Whose(msgspec.Struct):
    """Of domain.json, what says how the node is started."""

    role: Literal["host", "gateway"]


def _start(home: Path) -> str:
    """How the node of this home is started."""
    try:
        whose = msgspec.json.decode(read_file(home / "domain.json"), type=_Whose)
    except (MeshError, msgspec.MsgspecError):
        return f"meshbridge --home {home} agent run, or gateway run"
    return f"meshbridge --home {home} {'agent' if whose.role == 'host' else 'gateway'} run"


async def _send(stream: trio.SocketStream, command: str, arguments: Mapping[str, object]) -> None:
    try:
        await stream.send_all(encode_line(Request(command, dict(arguments))))
    except trio.BrokenResourceError:
        pass  # it may have refused us before we spoke; its answer says why


async def _receive(stream: trio.SocketStream) -> Answer:
    try:
        line = await read_line(stream)
    except trio.BrokenResourceError:
        line = b""
    if not line:
        raise NoAnswer("the agent ended before it answered", hint="see its log, and whether it is still running")
    answer = decode_answer(line)
    if answer.error is not None:
        raise answer.error.error()
    return answer


@contextmanager
def _patience(seconds: float | None) -> Iterator[None]:
    try:
        with nullcontext() if seconds is None else trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        hint = "see its log; if it is stopped or overloaded, restart it"
        raise NoAnswer(f"the agent did not answer within {seconds:g} s", hint=hint) from None
