"""I/O: with gateway and agents killed, `explain`, `resolve`, `status`, `flows`, `doctor` say what is on disk (F14)."""

from __future__ import annotations

import json

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, start_pair
from tests.support.traffic import eventually


def test_f14_commands_answer_from_disk_with_everything_down(estate: Estate) -> None:
    pair = start_pair(estate, {"echo": f"127.0.0.1:{estate.start_server('echo')}"})
    address = estate.ok(CLIENT, "resolve", "echo").strip()
    with pair.connect("echo") as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    eventually(lambda: estate.ok(CLIENT, "-o", "json", "flows"), what="the stream's record")
    assert estate.cli(CLIENT, "doctor").returncode == 0
    for name in (OPERATOR, SERVER, CLIENT):
        estate.kill9(name)

    for home in (OPERATOR, CLIENT):
        explained = estate.cli(home, "-o", "json", "policy", "explain", f"host:{CLIENT}", "echo")
        assert explained.returncode == 0, explained.stderr
        assert json.loads(explained.stdout)["rule"] == "pair"
        assert estate.cli(home, "policy", "explain", f"host:{SERVER}", "echo").returncode == 1

    resolved = estate.cli(CLIENT, "resolve", "echo.bridge.internal")
    assert (resolved.returncode, resolved.stdout.strip()) == (0, address)
    assert "known last" in resolved.stderr
    assert estate.cli(CLIENT, "resolve", "nonsense").returncode == 1

    status = estate.cli(CLIENT, "-o", "json", "status")
    assert status.returncode == 69
    told = json.loads(status.stdout)
    assert (told["running"], told["node"], [s["name"] for s in told["services"]]) == (False, CLIENT, ["echo"])
    assert told["certificate_ends"] in estate.cli(CLIENT, "status").stdout

    (flow,) = estate.ok(CLIENT, "-o", "json", "flows").splitlines()
    assert json.loads(flow)["service"] == "echo"

    doctor = estate.cli(CLIENT, "-o", "json", "doctor")
    assert doctor.returncode == 1
    states = {finding["check"]: finding["state"] for finding in json.loads(doctor.stdout)}
    assert (states["identity"], states["authority"]) == ("ok", "ok")
    assert (states["node"], states["gateway gw1"]) == ("fail", "fail")
