"""I/O: F24: every byte between nodes is a write of its own, at every stage: prefaces, TLS, HELLO, frames, enrolment.

    join, agent ── 1 byte at a time ──▶ gateway          vm2 ── 1 byte at a time ──▶ vm1 (when direct)

What comes of it is what comes of whole segments: hosts enrol, connect, get their policy and its changes; streams carry
what was sent and a refusal stays a refusal.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import time

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
        assert not status(estate, CLIENT)["warnings"]

        place = pair.place("echo")
        pair.town.policy(allow_all({"digest": ""}))
        eventually(lambda: is_refused(*place), what="what is no longer allowed is refused")
        flows = [json.loads(line) for line in pair.town.ok(CLIENT, "-o", "json", "flows").splitlines()]
        results = [(flow["service"], flow["result"]) for flow in flows]
        assert ("digest", "ok") in results and ("echo", "ok") in results
        assert results[-1][0] == "echo" and results[-1][1] != "ok"
