"""What a gateway does with a path: two TCP connections joined in the kernel.

program a ── TCP ══ splice ══ TCP ── program b
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator

import pytest

from bridge import limits
from tests.support.relay_pair import Pump
from tests.support.splice_bench import SpliceBench
from tests.support.tcp import reset, tcp_pair


@pytest.fixture
def bench() -> Iterator[SpliceBench]:
    before = len(os.listdir("/proc/self/fd"))
    bench = SpliceBench(tcp_pair(), tcp_pair())
    yield bench
    bench.close()
    assert len(os.listdir("/proc/self/fd")) == before, "every descriptor was closed"


def test_every_byte_arrives_in_both_directions_at_once(bench: SpliceBench) -> None:
    data = [random.Random(seed).randbytes(32 << 20) for seed in (1, 2)]
    pumps = [Pump(bench.loop, bench.a, data[0]), Pump(bench.loop, bench.b, data[1])]
    bench.until(lambda: all(pump.eof for pump in pumps))
    for pump, sent in zip(pumps, reversed(data), strict=True):
        assert hashlib.sha256(pump.got).digest() == hashlib.sha256(sent).digest()
    bench.until(lambda: bool(bench.ends))
    assert bench.ends == [""] and bench.splice.moved == 64 << 20


@pytest.mark.parametrize("first", ["a", "b"])
def test_an_end_that_has_finished_sending_still_gets_the_answer(bench: SpliceBench, first: str) -> None:
    one, other = (bench.a, bench.b) if first == "a" else (bench.b, bench.a)
    asking = Pump(bench.loop, one, b"question")
    bench.until(lambda: not asking._mask & 4)
    assert bench.receive(other, 100) == b"question"
    assert bench.idle_turns() <= 2 and bench.idle_turns() == 0
    answer = random.Random(3).randbytes(3 << 20)
    answering = Pump(bench.loop, other, answer)
    bench.until(lambda: asking.eof)
    assert asking.got == answer and not answering.error
    bench.until(lambda: bool(bench.ends))
    assert bench.ends == [""]


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_reset_at_one_end_ends_the_other_at_once(bench: SpliceBench, who: str) -> None:
    one, other = (bench.a, bench.b) if who == "a" else (bench.b, bench.a)
    reset(one)
    bench.until(lambda: bool(bench.ends))
    assert bench.ends[0].startswith("the connection broke")
    assert bench.receive(other, 1) == b""


def test_last_words_before_a_reset_are_carried(bench: SpliceBench) -> None:
    """A tunnel's goodbye is followed by a reset when its end did not read everything: the peer must still hear why."""
    bench.a.send(b"goodbye, because")
    bench.b.send(b"something the other end never reads")
    bench.until(lambda: bench.splice.moved > 40)
    bench.a.close()  # with unread bytes: the kernel sends RST
    assert bench.receive(bench.b, 16) == b"goodbye, because"


def test_a_slow_reader_holds_back_the_writer_and_no_more(bench: SpliceBench) -> None:
    total = 40 << 20
    writer = Pump(bench.loop, bench.a, bytes(total), shut=True)
    while bench.loop.turn():
        pass
    # The kernel moves a little now and then; a loop that asks a full pipe again and again turns thousands of times.
    assert bench.idle_turns(0.2) <= 50
    held = bench.splice._ways[0].held
    assert held <= limits.SPLICE_CHUNK and bench.splice.moved < total
    bench.b.send(b"the other way is free")
    assert bench.receive(bench.b, 1 << 20) and bench.splice.moved_each_way[1] == 21
    reader = Pump(bench.loop, bench.b, b"", shut=False)
    bench.until(lambda: reader.eof)
    assert len(reader.got) == total - (1 << 20) and not writer.error


def test_idle_it_costs_nothing(bench: SpliceBench) -> None:
    bench.a.send(b"x")
    assert bench.receive(bench.b, 1) == b"x"
    bench.idle_turns()
    assert bench.idle_turns(0.3) == 0


def test_an_end_that_reset_while_the_other_is_full_is_noticed(bench: SpliceBench) -> None:
    writer = Pump(bench.loop, bench.a, bytes(40 << 20))
    while bench.loop.turn():
        pass
    bench.loop.unregister(bench.a.fileno())
    reset(bench.a)
    bench.until(lambda: bool(bench.ends))
    assert bench.ends[0].startswith("the connection broke") and not writer.eof
