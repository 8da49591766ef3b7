"""I/O: F24: every byte between nodes is a write of its own, at every stage: prefaces, TLS, HELLO, frames, enrolment.

    join, agent ── 1 byte at a time ──▶ gateway          vm2 ── 1 byte at a time ──▶ vm1 (when direct)

What comes of it is what comes of whole segments: hosts enrol, connect, get their policy and its changes; streams carry
what was sent and a refusal stays a refusal.
"""

from __future__ import annotations

import hashlib
import random
import socket
import time
from functools import partial

import pytest

from tests.support.estate import Estate
from tests.support.pair import CLIENT, allow_all, start_pair_in_chaos, status
from tests.support.traffic import Backend, echo, eventually, is_refused

SIZE = 20_000


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the gateway"])
def test_f24_one_byte_at_a_time_is_the_same(estate: Estate, direct: bool, seed: int) -> None:
    with Backend("echo", echo) as backend:
        services = {"digest": f"127.0.0.1:{estate.start_server('digest')}", "echo": backend.target}
        began = time.monotonic()
        pair = start_pair_in_chaos(estate, services, seed, "--piece", "1", direct=direct)
        print(f"two hosts enrolled, connected and told everything within {time.monotonic() - began:.1f} s")
        data = random.Random(seed).randbytes(SIZE)
        with pair.connect("digest", timeout=30) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while more := sock.recv(4096):
                answer += more
        assert answer.decode().split() == [str(SIZE), hashlib.sha256(data).hexdigest()]
        with pair.connect("echo", timeout=30) as sock:
            for size in (1, 100, 5000):
                sock.sendall(data[:size])
                got = b""
                while len(got) < size:
                    got += sock.recv(size)
                assert got == data[:size]
        assert set(pair.tunnel_paths()) == {"direct" if direct else "through gw1"}
        warned = {warning["code"] for warning in status(estate, CLIENT)["warnings"]}
        assert warned <= {"loop-lag"}, "a machine that others use may be late"

        place = pair.place("echo")
        pair.town.policy(allow_all({"digest": ""}))
        eventually(lambda: is_no_more(place), what="what is no longer allowed is refused")
        for service in services:
            ended = eventually(partial(pair.town.flows, CLIENT, service), what=f"the record of {service}")
            assert [flow["result"] for flow in ended].count("ok") == 1


def is_no_more(place: tuple[str, int]) -> bool:
    """Refused, or not even there: a host is told of what it may reach, and listens for nothing else."""
    try:
        return is_refused(*place)
    except ConnectionRefusedError:
        return True
