"""I/O: a bulk transfer in both directions of one stream at once arrives whole, every byte compared.

MESHBRIDGE_BULK_MB says how much each way; the acceptance figure is 1024.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.estate import Estate
from tests.support.pair import CLIENT, SERVER, start_pair, worker_pids
from tests.support.proc import resident_bytes

MEGABYTES = int(os.environ.get("MESHBRIDGE_BULK_MB", "256"))


@pytest.mark.slow
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the gateway"])
def test_every_byte_is_compared(estate: Estate, direct: bool, seed: int) -> None:
    pair = start_pair(estate, {"echo": f"127.0.0.1:{estate.start_server('echo')}"}, direct=direct)
    host, port = pair.place("echo")
    size = MEGABYTES * 1024 * 1024
    client = [sys.executable, "-m", "tests.support.bulk", host, str(port), str(size), str(seed)]
    done = subprocess.run(client, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    memory = {name: max(map(resident_bytes, worker_pids(estate, name))) // 2**20 for name in (SERVER, CLIENT)}
    rate = 2 * size / float(done.stdout) / 1e9
    took = f"{MEGABYTES} MB each way in {done.stdout.strip()} s: {rate:.2f} GB/s in sum"
    print(f"{took}; the larger worker holds {memory} MB")
    assert all(megabytes < 80 for megabytes in memory.values()), memory
