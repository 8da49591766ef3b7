"""I/O: with tunnels up and nothing to do, no process of a node uses measurable CPU, and all stay small."""

from __future__ import annotations

import time

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, pids, start_pair, worker_pids
from tests.support.proc import cpu_seconds, resident_bytes
from tests.support.traffic import Backend, echo

SPAN = 10.0
"""Seconds; two heartbeats and five checks of the service fall into it."""
CPU_SHARE = 0.01
SUPERVISOR_BYTES = 60_000_000
WORKER_BYTES = 50_000_000


@pytest.mark.slow
def test_idle_nodes_use_under_a_hundredth_of_a_core(estate: Estate) -> None:
    nodes = (OPERATOR, SERVER, CLIENT)
    with Backend("echo", echo) as backend:
        pair = start_pair(estate, {"echo": backend.target})
        with pair.connect("echo") as sock:
            sock.sendall(b"?")
            assert sock.recv(1) == b"?"
        assert pair.tunnel_paths() == ["through gw1"], "control streams, and a path through the gateway"
        processes = {f"{node} {pid}": pid for node in nodes for pid in pids(estate, node)}
        workers = {pid for node in nodes for pid in worker_pids(estate, node)}
        time.sleep(2.0)  # what the connection left to do is not idling
        before = {name: cpu_seconds(pid) for name, pid in processes.items()}
        began = time.monotonic()
        time.sleep(SPAN)
        span = time.monotonic() - began
        used = {name: (cpu_seconds(pid) - before[name]) / span for name, pid in processes.items()}
        assert pair.tunnel_paths() == ["through gw1"]
        too_large = []
        for name, pid in processes.items():
            size, most = resident_bytes(pid), WORKER_BYTES if pid in workers else SUPERVISOR_BYTES
            kind = "worker" if pid in workers else "supervisor"
            print(f"{name} ({kind}): {used[name] * 100:.2f} % of a core, {size / 1e6:.1f} MB resident")
            if size >= most:
                too_large.append(name)
    assert not too_large
    assert not {name: share for name, share in used.items() if share >= CPU_SHARE}
