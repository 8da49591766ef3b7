"""Decrypting in order, however the ciphertext is cut, and hearing a peer out before its end is acted on."""

from __future__ import annotations

import random
import ssl
import time
from pathlib import Path

import pytest

from bridge.errors import PeerError
from bridge.tunnels.records import RecordReader, TlsPipe
from tests.support.forged_records import Forger, pipes
from tests.support.relay_pair import Contexts, make_contexts


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(Path(tmp_path_factory.mktemp("identities")), time.time())


@pytest.fixture
def joined(contexts: Contexts) -> tuple[TlsPipe, TlsPipe]:
    return pipes(contexts.client, contexts.server)


class Takes:
    """Uses up what it gets in units of `unit` bytes, as frames are."""

    def __init__(self, unit: int = 1) -> None:
        self.unit = unit
        self.got = bytearray()

    def __call__(self, buffer: memoryview, end: int) -> int:
        used = end - end % self.unit
        self.got += buffer[:used]
        return used


@pytest.mark.parametrize("unit", [1, 7, 60_000])
@pytest.mark.parametrize("piece", [1000, 16_406, 100_000, 10_000_000])
def test_what_was_written_is_what_is_read(joined: tuple[TlsPipe, TlsPipe], unit: int, piece: int) -> None:
    ours, theirs = joined
    data = random.Random(1).randbytes(1_200_000 - 1_200_000 % unit)
    ours.tls.write(data)
    records = ours.outgoing.read()
    takes = Takes(unit)
    reader = RecordReader(theirs, takes)
    for at in range(0, len(records), piece):
        reader.feed(memoryview(records)[at : at + piece])
    assert takes.got == data


@pytest.mark.parametrize("seed", range(20))
def test_records_are_found_wherever_they_are_cut(joined: tuple[TlsPipe, TlsPipe], seed: int) -> None:
    """In their headers too; and every whole one is read at once, whatever is left of the next."""
    ours, theirs = joined
    rng = random.Random(seed)
    takes = Takes()
    reader = RecordReader(theirs, takes)
    sent, ends, records = b"", [], b""
    for _ in range(60):
        data = rng.randbytes(rng.choice([1, 2, 30, 400, 16_384]))
        ours.tls.write(data)
        records += ours.outgoing.read()
        sent += data
        ends.append((len(records), len(sent)))
    at = 0
    while at < len(records):
        size = rng.choice([1, 2, 3, 4, 5, 22, 23, 500, 17_000, 100_000])
        reader.feed(memoryview(records)[at : at + size])
        at += size
        whole = max((plain for end, plain in ends if end <= at), default=0)
        assert takes.got == sent[:whole]


def test_last_words_are_heard_before_the_goodbye(joined: tuple[TlsPipe, TlsPipe]) -> None:
    ours, theirs = joined
    ours.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        ours.tls.unwrap()
    takes = Takes()
    with pytest.raises(ssl.SSLZeroReturnError):
        RecordReader(theirs, takes).feed(memoryview(ours.outgoing.read()))
    assert takes.got == b"last words"


def test_last_words_are_heard_before_a_broken_record(joined: tuple[TlsPipe, TlsPipe]) -> None:
    ours, theirs = joined
    ours.tls.write(b"last words")
    takes = Takes()
    with pytest.raises(ssl.SSLError):
        RecordReader(theirs, takes).feed(memoryview(ours.outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32)))
    assert takes.got == b"last words"


def test_what_lies_in_the_pipe_already_is_read_without_more(joined: tuple[TlsPipe, TlsPipe]) -> None:
    ours, theirs = joined
    ours.tls.write(b"came with the handshake")
    ours.tls.write(b", in two parts")
    records = ours.outgoing.read()
    theirs.incoming.write(records[:-10])
    takes = Takes()
    reader = RecordReader(theirs, takes)
    reader.feed(memoryview(b""))
    assert takes.got == b"came with the handshake"
    reader.feed(memoryview(records[-10:]))
    assert takes.got == b"came with the handshake, in two parts"


def test_a_reader_inside_a_reader_does_not_mix_their_bytes(contexts: Contexts) -> None:
    """A sink of one tunnel may cause another tunnel to be started."""
    outer, inner = pipes(contexts.client, contexts.server), pipes(contexts.client, contexts.server)
    outer[0].tls.write(b"outer" * 1000)
    inner[0].tls.write(b"inner" * 1000)
    inside = Takes()
    got = bytearray()

    def receive(buffer: memoryview, end: int) -> int:
        RecordReader(inner[1], inside).feed(memoryview(inner[0].outgoing.read()))
        got.extend(buffer[:end])
        return end

    RecordReader(outer[1], receive).feed(memoryview(outer[0].outgoing.read()))
    assert got == b"outer" * 1000 and inside.got == b"inner" * 1000


def test_c26_nothing_but_key_updates_is_refused_soon(contexts: Contexts, tmp_path: Path) -> None:
    contexts.client.keylog_filename = str(tmp_path / "keys")
    ours, theirs = pipes(contexts.client, contexts.server)
    forger = Forger(tmp_path / "keys", ours.tls)
    reader = RecordReader(theirs, Takes())
    with pytest.raises(PeerError, match="carry nothing"):
        for _ in range(10_000):
            reader.feed(memoryview(forger.key_update(answer=True)))
    assert theirs.outgoing.pending < 30_000
