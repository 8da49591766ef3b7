"""I/O: what two hosts say to each other through a gateway is in clear at their own ends and nowhere else.

    program ── vm2 ══▶ recorder ══▶ gateway ◀══ recorder ◀══ vm1 ── program

A random marker goes both ways. It is looked for in all memory of the gateway's processes and in every byte that
crossed the wire; that it is found in a host's own memory shows that the search finds what is there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, Pair, pids, start_pair, worker_pids
from tests.support.proc import memory_holds, why_memory_is_closed
from tests.support.recorder import Recorder
from tests.support.traffic import Backend, echo, eventually

TIMES = 2000
TLS_HANDSHAKE = b"\x16\x03"
TICKET = re.compile(rb"MBR1 [\x21-\x7e]+\n")
ENROLMENT = b"MBE1\n"


class Watched:
    """A pair whose every connection to the gateway goes through a recorder, and what was said over it."""

    def __init__(self, pair: Pair, recorder: Recorder) -> None:
        self.pair = pair
        self.recorder = recorder
        self.question = secrets.token_bytes(24)
        """Goes from vm2 to vm1, and comes back: both directions carry it."""


@pytest.fixture
def watched(estate: Estate) -> Iterator[Watched]:
    real, shown = estate.free_port(), estate.free_port()
    estate.init("--listen", f"127.0.0.1:{real}", gateway=f"127.0.0.1:{shown}")
    with Recorder(("127.0.0.1", shown), ("127.0.0.1", real)) as recorder, Backend("echo", echo) as backend:
        estate.start_gateway()
        yield Watched(start_pair(estate, {"echo": backend.target}, gateway_runs=True), recorder)


def test_a_marker_in_the_traffic_is_nowhere_at_the_gateway(estate: Estate, watched: Watched) -> None:
    closed = why_memory_is_closed(estate.nodes[OPERATOR].pid)
    marker = watched.question
    with watched.pair.connect("echo") as sock:
        got = b""
        for _ in range(TIMES):  # enough to pass every buffer on the way
            sock.sendall(marker)
            while len(got) < len(marker):
                got += sock.recv(65536)
            assert got[: len(marker)] == marker
            got = got[len(marker) :]
        assert watched.pair.tunnel_paths() == ["through gw1"]
        # The stream is still open, so nothing of it has been thrown away.
        if closed is None:
            for host in (CLIENT, SERVER):
                found = [memory_holds(pid, marker) for pid in worker_pids(estate, host)]
                assert any(found), f"the search finds nothing even at {host}"
            for pid in pids(estate, OPERATOR):
                assert memory_holds(pid, b"gw1"), "the search finds nothing at the gateway"
                assert not memory_holds(pid, marker)
    crossed = watched.recorder.everything()
    assert len(crossed) > 2 * 2 * TIMES * len(marker), "the traffic did not go through the recorder"
    assert marker not in crossed
    if closed is not None:
        pytest.skip(f"the wire was searched, memory was not: {closed}")


def test_c28_every_connection_is_tls_from_its_first_byte_after_the_preface(watched: Watched) -> None:
    with watched.pair.connect("echo") as sock:
        sock.sendall(watched.question)
        assert sock.recv(1024) == watched.question
    eventually(lambda: len(watched.recorder.connections) >= 8, what="two enrolments, two controls, two ends of a path")
    kinds = set()
    for connection in watched.recorder.connections:
        sent, answered = bytes(connection.sent), bytes(connection.answered)
        ticket = TICKET.match(sent)
        preface = ticket.group() if ticket else ENROLMENT if sent.startswith(ENROLMENT) else b""
        kinds.add(preface[:4])
        # Behind a ticket it is the end that was dialled back that begins; either way the first record is a handshake.
        assert sent[len(preface) :].startswith(TLS_HANDSHAKE)
        assert answered.startswith(TLS_HANDSHAKE)
        assert records_are_whole(sent[len(preface) :])
        assert records_are_whole(answered)
    assert kinds == {b"", b"MBR1", b"MBE1"}


def records_are_whole(stream: bytes) -> bool:
    """Whether a direction is TLS records and nothing else (the last one may still be under way)."""
    at = 0
    while at + 5 <= len(stream):
        kind, version, size = stream[at], stream[at + 1 : at + 3], int.from_bytes(stream[at + 3 : at + 5])
        if kind not in (20, 21, 22, 23) or version not in (b"\x03\x01", b"\x03\x03") or size > 16640:
            return False
        at += 5 + size
    return True
