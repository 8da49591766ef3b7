"""I/O: (nothing is opened) messages are taken out of what was read whole and in order, wherever the reads were cut."""

from __future__ import annotations

import array
import socket

from hypothesis import given
from hypothesis import strategies as st

from agents.workers.framing import LENGTH, descriptors_in, take_body


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_bodies_come_whole_and_in_order_however_the_reads_were_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(LENGTH.pack(len(body)) + body for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    buffer, found = bytearray(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer += stream[begin:end]
        while (body := take_body(buffer)) is not None:
            found.append(body)
    assert found == bodies and not buffer


def test_descriptors_are_read_and_half_a_one_is_none() -> None:
    passed = array.array("i", [7, 9]).tobytes()
    assert descriptors_in([(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed + b"\1")]) == [7, 9]
    assert descriptors_in([(socket.SOL_SOCKET, socket.SCM_RIGHTS + 1, passed)]) == []
