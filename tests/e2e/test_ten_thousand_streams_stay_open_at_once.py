"""I/O: ten thousand streams between two hosts are open at the same time, and every one of them still carries bytes."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.support.estate import ROOT, Estate
from tests.support.pair import CLIENT, SERVER, start_pair, status, worker_pids
from tests.support.proc import resident_bytes
from tests.support.traffic import eventually

STREAMS = 10_000
SPARE = 500
"""Descriptors that each process needs besides."""


@pytest.mark.slow
def test_all_of_them_answer(estate: Estate) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < STREAMS + SPARE:
        pytest.skip(f"a process may have only {hard} descriptors here (ulimit -Hn)")
    # The server's own limit is raised by its shell: it knows nothing of this test.
    serve = 'ulimit -n "$(ulimit -Hn)" && exec "$0" -m tests.support.servers hold'
    server = estate.start("server", ["sh", "-c", serve, sys.executable])
    pair = start_pair(estate, {"hold": f"127.0.0.1:{int(server.stdout.wait_for('', 20))}"}, direct=True, workers=1)
    host, port = pair.place("hold")
    before = {name: sum(map(resident_bytes, worker_pids(estate, name))) for name in (SERVER, CLIENT)}
    command = [sys.executable, "-m", "tests.support.many", host, str(port), str(STREAMS)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None and client.stdout is not None
        try:
            opened = client.stdout.readline().split()
            assert opened[:2] == ["open", str(STREAMS)], f"the client ended with {client.poll()}"
            eventually(lambda: status(estate, CLIENT)["streams"] == STREAMS, what=f"{STREAMS} streams in the status")
            tunnels = [t for t in status(estate, CLIENT)["tunnels"] if t["peer"] == f"host:{SERVER}"]
            assert [t["streams"] for t in tunnels] == [STREAMS], "they share one tunnel"
            print("\n", file=client.stdin, flush=True)
            alive = client.stdout.readline().split()
            assert alive[:2] == ["alive", str(STREAMS)]
            kb = {
                name: (sum(map(resident_bytes, worker_pids(estate, name))) - before[name]) / 1024 / STREAMS
                for name in (SERVER, CLIENT)
            }
            held = ", ".join(f"{name} {size:.1f} kB per stream" for name, size in kb.items())
            print(f"{STREAMS} streams opened in {opened[2]} s, all answered in {alive[2]} s; {held}")
        finally:
            client.kill()
    eventually(lambda: status(estate, CLIENT)["streams"] == 0, what="no stream left")
