"""I/O: a client that shuts down its sending side still gets the whole answer, whichever way its tunnel goes."""

from __future__ import annotations

import hashlib
import random
import socket

import pytest

from tests.support.estate import Estate
from tests.support.pair import start_pair

SIZE = 3_000_000


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the gateway"])
def test_the_answer_comes_after_the_end_of_the_question(estate: Estate, direct: bool, seed: int) -> None:
    pair = start_pair(estate, {"digest": f"127.0.0.1:{estate.start_server('digest')}"}, direct=direct)
    data = random.Random(seed).randbytes(SIZE)
    with pair.connect("digest") as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)  # the server answers only after this
        answer = b""
        while more := sock.recv(4096):
            answer += more
    assert answer.decode().split() == [str(SIZE), hashlib.sha256(data).hexdigest()]
    assert pair.tunnel_paths() == ["direct" if direct else "through gw1"]
