"""I/O: `doctor` ends with 0 when all is well, and with 1, a finding and a hint when something is not."""

from __future__ import annotations

import json

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, start_pair
from tests.support.traffic import Backend, eventually


def findings(estate: Estate, home: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and what failed, by the name of the check."""
    done = estate.cli(home, "-o", "json", "doctor")
    assert "Traceback" not in done.stderr
    return done.returncode, {f["check"]: f for f in json.loads(done.stdout) if f["state"] == "fail"}


def test_doctor_says_what_is_wrong_by_its_exit_code(estate: Estate) -> None:
    with Backend("web") as web:
        start_pair(estate, {"web": web.target})
        for home in (OPERATOR, CLIENT):
            assert findings(estate, home) == (0, {})

        identity = estate.home(CLIENT) / "identity.pem"
        identity.chmod(0o644)
        code, failed = findings(estate, CLIENT)
        assert code == 1
        assert any(f"chmod 600 {identity}" in finding["hint"] for finding in failed.values()), failed
        identity.chmod(0o600)

        estate.kill9(OPERATOR)
        code, failed = eventually(lambda: (found := findings(estate, CLIENT))[0] == 1 and found, what="a lost gateway")
        assert set(failed) == {"gateway gw1"}
        assert "is it running" in failed["gateway gw1"]["hint"]

        estate.terminate(CLIENT)
        code, failed = findings(estate, CLIENT)
        assert code == 1 and "node" in failed

        nowhere = estate.cli("nowhere", "doctor")
        assert nowhere.returncode == 64 and "no estate in this home" in nowhere.stderr
