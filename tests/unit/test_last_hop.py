"""I/O: (a unix socket in a temporary directory) how a data worker asks for a channel; what it makes of the answer."""

from __future__ import annotations

import array
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from agents.workers.last_hop import LastHopRefused, ask, place_in
from agents.workers.ssh_messages import CLEAN_END, ChannelAnswer, ChannelAsked
from bridge.relay.witnessed import WitnessedSocket, ended_well
from bridge.tunnels.frames import Code

Serve = Callable[[socket.socket], socket.socket | None]

LATE = msgspec.json.encode(ChannelAnswer(code=int(Code.TIMEOUT), reason="too\x1b[2J slow")) + b"\n"
OK = msgspec.json.encode(ChannelAnswer(ok=True)) + b"\n"


def answer_with(line: bytes, *, witness: bool = False, more: bytes = b"") -> Serve:
    def serve(sock: socket.socket) -> socket.socket | None:
        if not witness:
            sock.send(line + more)
            return None
        ours, theirs = socket.socketpair()
        with theirs:
            sock.sendmsg([line + more], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
        return ours

    return serve


async def asked(home: Path, serve: Serve) -> tuple[WitnessedSocket, socket.socket, socket.socket | None, bytes]:
    """Our socket after a good answer, the other end, the other end of the witness, and what was asked."""
    place = place_in(home)
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        sock = WitnessedSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        other: list[socket.socket] = []
        witness: list[socket.socket | None] = []
        said: list[bytes] = []

        def answer() -> None:
            other.append(listener.accept()[0])
            said.append(other[0].recv(4096))
            witness.append(serve(other[0]))

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, answer)
                with trio.fail_after(5):
                    await ask(sock, place, "aix1", "127.0.0.1:23")
        except BaseExceptionGroup as group:
            sock.close()
            for one in [*other, *witness]:
                if one is not None:
                    one.close()
            raise group.exceptions[0] from None
    return sock, other[0], witness[0], said[0]


async def test_a_good_answer_leads_to_the_target_and_not_a_byte_of_it_is_lost(tmp_path: Path) -> None:
    sock, other, witness, said = await asked(tmp_path, answer_with(OK, witness=True, more=b"banner"))
    assert witness is not None
    with sock, other, witness:
        assert msgspec.json.decode(said, type=ChannelAsked) == ChannelAsked(host="aix1", target="127.0.0.1:23")
        assert sock.recv(100) == b"banner"
        witness.send(CLEAN_END)
        other.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"" and ended_well(sock)


async def test_what_a_killed_worker_leaves_is_no_end_of_stream(tmp_path: Path) -> None:
    sock, other, witness, _ = await asked(tmp_path, answer_with(OK, witness=True))
    assert witness is not None
    with sock:
        other.close()
        witness.close()
        assert sock.recv(1) == b"" and not ended_well(sock)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (LATE, Code.TIMEOUT, "slow"),
        (b'{"code":999}\n', Code.CONNECT_FAILED, "did not take it"),
        (b"rubbish\n", Code.INTERNAL, "answer of the ssh worker"),
        (b"x" * 10_000, Code.INTERNAL, "no end"),
        (OK, Code.LIMIT, "out of descriptors"),
    ],
)  # fmt: skip
async def test_any_other_answer_is_a_refusal(tmp_path: Path, line: bytes, code: Code, words: str) -> None:
    with pytest.raises(LastHopRefused, match=words) as caught:
        await asked(tmp_path, answer_with(line))
    assert caught.value.code is code and "\x1b" not in caught.value.what


async def test_without_a_worker_it_is_refused_at_once(tmp_path: Path) -> None:
    with (
        WitnessedSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock,
        pytest.raises(LastHopRefused, match="ssh worker is not there"),
    ):
        await ask(sock, place_in(tmp_path), "aix1", "127.0.0.1:23")
