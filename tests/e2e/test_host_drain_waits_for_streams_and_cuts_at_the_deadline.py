"""I/O: `host drain` shows live streams, waits for them, cuts what is left at the deadline, and its exit code tells."""

from __future__ import annotations

import subprocess

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import SERVER, start_pair


def test_host_drain_waits_for_streams_and_cuts_at_the_deadline(estate: Estate) -> None:
    pair = start_pair(estate, {"hold": f"127.0.0.1:{estate.start_server('hold')}"})

    assert estate.cli(OPERATOR, "host", "drain", SERVER, "--deadline", "10s").returncode == 0, "nothing to wait for"
    estate.ok(OPERATOR, "host", "resume", SERVER)

    with pair.connect("hold") as held:
        assert held.recv(100)
        command = estate.command(OPERATOR, "host", "drain", SERVER, "--deadline", "30s", "--reason", "kernel update")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as draining:
            assert draining.stderr is not None
            assert "1 live streams: host:vm2 to hold" in draining.stderr.readline()
            held.sendall(b"still there?\n")
            assert held.recv(100), "a live stream goes on"
            held.close()
            assert draining.wait(30) == 0, "it ended by itself"
            draining.stderr.read()
    estate.ok(OPERATOR, "host", "resume", SERVER)

    with pair.connect("hold") as held:
        assert held.recv(100)
        done = estate.cli(
            OPERATOR, "-o", "json", "host", "drain", SERVER, "--deadline", "2s", "--reason", "kernel update"
        )
        assert done.returncode == 1
        assert '"cut": 1' in done.stdout
        held.settimeout(5)
        try:
            assert held.recv(100) == b""
        except ConnectionError:
            pass
    flows = estate.ok("vm1", "flows")
    assert "drain deadline passed: kernel update" in flows

    estate.kill9(OPERATOR)
    estate.ok(OPERATOR, "host", "resume", SERVER)
    done = estate.cli(OPERATOR, "host", "drain", SERVER)
    assert done.returncode == 69
    assert "is recorded" in done.stderr
    assert '"state": "draining"' in estate.ok(OPERATOR, "-o", "json", "host", "show", SERVER)
