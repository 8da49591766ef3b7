"""Pure: frames of many streams take turns on a slow tunnel."""

from __future__ import annotations

import random

from bridge.tunnels import frames
from bridge.tunnels.frames import HEADER, HEADER_SIZE, FrameType
from bridge.tunnels.turns import Turns


def data(stream_id: int, body: bytes) -> bytes:
    return frames.frame(stream_id, FrameType.DATA, body)


def parse(raw: bytes) -> list[tuple[int, int, bytes]]:
    """(stream, type, body) of each frame."""
    found, at = [], 0
    while at < len(raw):
        stream_id, kind, _, size = HEADER.unpack_from(raw, at)
        found.append((stream_id, kind, raw[at + HEADER_SIZE : at + HEADER_SIZE + size]))
        at += HEADER_SIZE + size
    assert at == len(raw)
    return found


def all_of(turns: Turns, most: int) -> list[tuple[int, int, bytes]]:
    found = []
    while turns.size:
        taken, _ = turns.take(most)
        assert taken, "it goes on"
        found += parse(b"".join(taken))
    return found


def test_the_order_within_a_stream_is_kept_whatever_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        turns, said, heard = Turns(), dict[int, bytes](), dict[int, bytes]()
        for _ in range(chance.randrange(1, 60)):
            stream_id = chance.randrange(1, 9)
            if chance.random() < 0.2:
                mark = frames.frame(stream_id, FrameType.WINDOW, frames.CREDIT.pack(chance.randrange(1, 99)))
                said[stream_id] = said.get(stream_id, b"") + mark[HEADER_SIZE:]
                turns.add([mark])
            else:
                body = chance.randbytes(chance.choice([1, 7, 300, 65535]))
                said[stream_id] = said.get(stream_id, b"") + body
                turns.add([data(stream_id, body)])
            if chance.random() < 0.3:
                for stream_id, _, body in parse(b"".join(turns.take(chance.choice([64, 1024, 16384]))[0])):
                    heard[stream_id] = heard.get(stream_id, b"") + body
        for stream_id, _, body in all_of(turns, chance.choice([80, 1024, 1 << 20])):
            heard[stream_id] = heard.get(stream_id, b"") + body
        assert heard == said
        assert not any(turns.waiting(stream_id) for stream_id in said)


def test_f21_a_keystroke_passes_every_bulk_stream() -> None:
    turns = Turns()
    for bulk in range(1, 41, 2):
        turns.add([data(bulk, bytes(60_000))])
        turns.take(1024)
    turns.add([data(99, b"k")])
    assert parse(turns.take(1024)[0][0]) == [(99, FrameType.DATA, b"k")]


def test_a_stream_that_is_refilled_as_fast_as_it_is_emptied_is_not_fresh_for_ever() -> None:
    turns, got = Turns(), {1: 0, 3: 0}
    turns.add([data(3, bytes(60_000))])
    for _ in range(40):
        if not turns.waiting(1):
            turns.add([data(1, bytes(1016))])
        for stream_id, _, body in parse(b"".join(turns.take(1024)[0])):
            got[stream_id] += len(body)
    assert min(got.values()) > 0.8 * max(got.values())


def test_bulk_streams_share_alike() -> None:
    turns, got = Turns(), dict.fromkeys(range(1, 11), 0)
    for stream_id in got:
        turns.add([data(stream_id, bytes(50_000))])
    for _ in range(200):
        for stream_id, _, body in parse(b"".join(turns.take(1024)[0])):
            got[stream_id] += len(body)
    assert max(got.values()) - min(got.values()) < 2 * 1024


def test_what_cannot_be_cut_goes_whole_and_alone() -> None:
    turns = Turns()
    wish = frames.frame(1, FrameType.OPEN, bytes(4000))
    turns.add([data(3, b"small"), wish])
    assert [kind for _, kind, _ in parse(b"".join(turns.take(1024)[0]))] == [FrameType.DATA]
    assert b"".join(turns.take(1024)[0]) == wish
    assert turns.size == 0 and turns.take(1024) == ([], [])
